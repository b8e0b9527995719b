"""m2-Mix: Oh et al., Geodesic Multi-Modal Mixup for Robust Fine-Tuning, NeurIPS 2023 (arXiv:2203.03897), eq. 3 to 5.

Beside CLIP's loss, negatives from between the modalities: a picture's and its text's embedding mixed along the great
circle that joins them. Pictures, texts or both may be mixed with those of another pair as well (V-, L- and VL-Mix).

B pairs of this rank, M of all ranks.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, own_rows
from ssl_framework.functional import Mixture, log_sum_exp, nce
from ssl_framework.mixers.base import beta
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs

MIXES = ("modalities", "main", "other", "both")


@guarded
class M2Mix(Objective):
    """CLIP's loss and, times a weight that falls with 1 / (epoch + 1), the sum of the chosen losses of mixtures.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        mixes: which losses, of "modalities" (m2-Mix), "main" (V-Mix), "other" (L-Mix) and "both" (VL-Mix).
        weight: of their sum in the first epoch.
        alpha: of Beta(alpha, alpha), from which one share a step is drawn.
        mix_temperature: of m2-Mix.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        mixes: Annotated[Sequence[str], Len(1)],
        weight: NonNegative,
        alpha: Positive,
        mix_temperature: Positive,
        head: str = "projector",
    ) -> None:
        super().__init__()
        if unknown := [mix for mix in mixes if mix not in MIXES]:
            raise ValueError(f"objective.mixes has {unknown[0]}: choose some of {', '.join(MIXES)}")
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.mixes = tuple(mixes)
        self.weight = weight
        self.alpha = alpha
        self.mix_temperature = mix_temperature
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        out = self.clip(student, teacher, batch, clock)
        z0, z1 = rows_of(student, self.head)  # [B, D] each
        share = beta(self.alpha, self.alpha, (), z0, clock.generator())
        mixed = torch.stack([self.of(mix, z0, z1, share) for mix in self.mixes]).sum()
        loss = out["loss"] + self.weight / (clock.epoch + 1) * mixed
        return {**out, "loss": loss, "clip_loss": out["loss"].detach(), "mix_loss": mixed.detach()}

    def of(self, mix: str, z0: Tensor, z1: Tensor, share: Tensor) -> Tensor:
        """The loss of one kind of mixture: [B, D] unit rows of both modalities -> scalar."""
        if mix == "modalities":
            keys, own = self.clip.candidates(geodesic(z0, z1, share))  # [M, D], [B]
            true = (z0 * z1).sum(dim=1)  # [B]
            return torch.stack([harder(z, keys, own, true, self.mix_temperature) for z in (z0, z1)]).sum()
        if mix != "other":
            z0 = geodesic(z0, flipped(z0), share)  # [B, D]
        if mix != "main":
            z1 = geodesic(z1, flipped(z1), share)  # [B, D]
        both = share**2 + (1 - share) ** 2  # how far two mixtures of the same two agree
        kept = both if mix == "both" else share
        return (self.to_two(z0, z1, kept) + self.to_two(z1, z0, kept)) / 2

    def to_two(self, anchors: Tensor, others: Tensor, kept: Tensor) -> Tensor:
        """Cross-entropy of anchors [B, D] that have to find their own of the others, and that of the flipped batch."""
        keys, own = self.clip.candidates(others)  # [M, D], [B]
        columns = torch.stack([own, len(keys) - 1 - own], dim=1)  # [B, 2]
        shares = torch.stack([kept, 1 - kept]).expand(len(own), 2)  # [B, 2]
        return nce(anchors, keys, Mixture(columns, shares), self.clip.temperature.to(anchors.dtype)).mean()


def geodesic(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Mixture along the great circle (eq. 3): unit rows [B, D] each and the share of ``a`` -> unit rows [B, D].

    Rows that are nearly equal are a hair apart: the formula is 0 / 0 where they are equal.
    """
    angle = (a * b).sum(dim=1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).acos()  # [B, 1]
    return ((share * angle).sin() * a + ((1 - share) * angle).sin() * b) / angle.sin()


def flipped(z: Tensor) -> Tensor:
    """Each row's partner, of the global batch from its end: [B, D] -> [B, D]."""
    return own_rows(gather_with_grad(z).flip(0))


def harder(anchors: Tensor, keys: Tensor, own: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of a true pair's cosine against the mixtures of all other pairs (eq. 4).

    Args:
        anchors: [B, D] unit rows.
        keys: [M, D] mixtures.
        own: [B] the column of each anchor's own pair.
        positive: [B] cosines of the true pairs.
        temperature: above 0.
    """
    negatives = log_sum_exp(anchors, keys, temperature, [own])[0]  # [B], -inf without any
    return (torch.logaddexp(negatives, positive / temperature) - positive / temperature).mean()
