"""SepCLR: Louiset et al., SepCLR: Separating common from salient patterns with contrastive representation learning,
ICLR 2024 (arXiv:2402.11928): alignment and uniformity of a common and of a salient space, and k-JEM.

Some classes are background: they have only what is common to all images. One encoder learns that from all images; the
other learns what the remaining, target images have besides, for which a background image has the zero vector. The joint
entropy of the two is maximised, so that they share nothing.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Natural, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, rank
from ssl_framework.functional import log_sum_exp, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SepCLR(Objective):
    """The sum of common, salient, information-less and joint-entropy terms over two views.

    Args:
        temperature: tau, squared width of the Gaussian kernels.
        background_classes: labels of the images without salient pattern; all others are target.
        salient_weight: of the salient term, beta_s.
        background_weight: of the squared length of the salient vectors of background images, beta_r.
        joint_entropy_weight: of k-JEM, lambda.
        common, salient: names of the heads that are compared, one on each encoder.

    Raises:
        ValueError: a weight below 0, a temperature of 0, or no background class.
    """

    requires = frozenset({"label"})
    background: Tensor  # [K] int64

    def __init__(
        self,
        temperature: Positive,
        background_classes: Annotated[Sequence[Natural], Len(1)],
        salient_weight: NonNegative,
        background_weight: NonNegative,
        joint_entropy_weight: NonNegative,
        common: str = "common",
        salient: str = "salient",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("background", torch.tensor(list(background_classes)), persistent=False)  # [K]
        self.salient_weight = salient_weight
        self.background_weight = background_weight
        self.joint_entropy_weight = joint_entropy_weight
        self.common = common
        self.salient = salient
        self.reads = (common, salient)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        target = (batch.label[:, None] != self.background).all(dim=1)  # [B]
        c = [unit(x) for x in outputs_of(student, self.common)]  # 2 x [B, D]
        s = outputs_of(student, self.salient)  # 2 x [B, D], of any length
        fixed = [torch.where(target[:, None], x, 0) for x in s]  # 2 x [B, D]: zero for background images
        tau = self.temperature

        common = align(c[0], c[1], tau).mean() + mean_of([2 * uniform(x, tau) for x in c])
        salient = share_mean(align(s[0], s[1], tau), target) + mean_of([2 * uniform(x, tau) for x in fixed])
        background = mean_of([share_mean(align(x, torch.zeros_like(x), tau), ~target) for x in s])
        joint = mean_of([k_jem(a, b, tau) for a, b in zip(c, fixed, strict=True)])
        loss = common + self.salient_weight * salient + self.background_weight * background
        terms = {"common": common, "salient": salient, "background": background, "joint_entropy": joint}
        return {"loss": loss + self.joint_entropy_weight * joint, **{name: x.detach() for name, x in terms.items()}}


def align(x: Tensor, y: Tensor, tau: float) -> Tensor:
    """``|x_i - y_i|^2 / (2 tau)``: two [B, D] -> [B]."""
    return (x - y).square().sum(dim=1) / (2 * tau)


def uniform(x: Tensor, tau: float) -> Tensor:
    """``log mean_{i<j} exp(-|x_i - x_j|^2 / (2 tau))`` over the global batch: rows [B, D] of this rank -> scalar.

    It is no mean over anchors, so every rank computes the whole of it; its gradient is still that of one process.
    """
    own = rank() * len(x) + torch.arange(len(x), device=x.device)  # [B]
    sums = gather_with_grad(potentials(x, tau, own))  # [W * B]
    return torch.logsumexp(sums, dim=0) - math.log(len(sums) * (len(sums) - 1))


def k_jem(c: Tensor, s: Tensor, tau: float) -> Tensor:
    """Kernel estimate of minus the joint entropy: ``mean_i log mean_j K(c_i, c_j) K(s_i, s_j)``, j = i included.

    Args:
        c, s: [B, D] and [B, D'] rows of this rank.
        tau: of both Gaussian kernels, whose product is one over the joined vectors.

    Returns:
        Scalar, the mean over this rank's anchors against the global batch.
    """
    sums = potentials(torch.cat([c, s], dim=1), tau, None)  # [B]
    return sums.mean() - math.log(len(gather(sums)))


def potentials(x: Tensor, tau: float, left_out: Tensor | None) -> Tensor:
    """``log sum_j exp(-|x_i - x_j|^2 / (2 tau))`` over the global batch, in linear memory: [B, D] -> [B].

    ``left_out`` [B] are columns that do not count, if any. The squared distance is written as an inner product of
    longer vectors; rows are taken about the mean of all, near which that loses least to rounding.
    """
    x = x - gather(x).mean(dim=0)
    half = x.square().sum(dim=1, keepdim=True) / 2  # [B, 1]
    anchors = torch.cat([x, torch.ones_like(half)], dim=1)  # [B, D + 1]
    keys = gather_with_grad(torch.cat([x, -half], dim=1))  # [W * B, D + 1]
    sums, _ = log_sum_exp(anchors, keys, tau, [] if left_out is None else [left_out])  # [B]
    return sums - half[:, 0] / tau


def share_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values [B] where ``mask`` [B] holds, over all ranks together; 0 where it holds nowhere.

    The local sum is divided by the mean count over ranks, so that W ranks equal one.
    """
    held = mask.to(values.dtype)  # [B]
    everyone = gather(held)  # [W * B]
    return (held * values).mean() / everyone.mean().clamp(min=1 / len(everyone))


def mean_of(views: Sequence[Tensor]) -> Tensor:
    """The mean of one scalar a view."""
    return torch.stack(list(views)).mean()
