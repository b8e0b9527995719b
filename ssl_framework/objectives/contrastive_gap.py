"""Contrastive gap: Fahim, Murphy and Fyshe, It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap,
2024 (arXiv:2405.18570), section 4: ``L = L_CLIP + uniformity + cross-uniformity + alignment``.

The contrastive loss leaves the two modalities in regions of their own. Uniformity inside each (Wang and Isola,
arXiv:2005.10242) and across them spreads them over the whole sphere, alignment draws pairs together.

N pairs of all ranks.
"""

import math

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import alignment, log_sum_exp
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class ContrastiveGap(Objective):
    """CLIP's loss and three terms of where embeddings lie.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        uniform: weight of the mean uniformity of both modalities.
        cross: weight of the cross-uniformity.
        align: weight of the alignment.
        t: of the Gaussian potential ``exp(-t |x - y|^2)``.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        uniform: NonNegative,
        cross: NonNegative,
        align: NonNegative,
        t: Positive,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.weights = (uniform, cross, align)
        self.t = t
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        out = self.clip(student, teacher, batch, clock)
        z0, z1 = rows_of(student, self.head)  # [B, D] each
        # Every rank computes the terms of all pairs: averaged by DDP, the gradient is that of one process.
        x, y = gather_with_grad(z0), gather_with_grad(z1)  # [N, D] each
        uniform = (log_potential(x, x, self.t) + log_potential(y, y, self.t)) / 2
        cross, align = log_potential(x, y, self.t), alignment(z0, z1)
        extra = sum(weight * term for weight, term in zip(self.weights, (uniform, cross, align), strict=True))
        logged = {"uniform": uniform.detach(), "cross": cross.detach(), "align": align.detach()}
        return {**out, "loss": out["loss"] + extra, "clip_loss": out["loss"].detach(), **logged}


def log_potential(x: Tensor, y: Tensor, t: float) -> Tensor:
    """``log mean over i != j of exp(-t |x_i - y_j|^2)`` for unit rows: two [N, D] -> scalar; no term of i = j counts.

    By ``|x - y|^2 = 2 - 2 x . y``; a few rows at a time, and with a gradient where rows are equal, too.

    Raises:
        ValueError: there is one row only.
    """
    if len(x) < 2:
        raise ValueError("uniformity is of pairs of samples, but the global batch has one: raise data.batch_size")
    own = torch.arange(len(x), device=x.device)  # [N]
    sums = log_sum_exp(x, y, 1 / (2 * t), [own])[0]  # [N]
    return sums.logsumexp(dim=0) - 2 * t - math.log(len(x) * (len(x) - 1))
