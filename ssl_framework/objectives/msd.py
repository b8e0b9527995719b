"""MSD: Pham et al., Boosting Medical Vision-Language Pretraining via Momentum Self-Distillation under Limited
Computing Resources, WACV 2026 (arXiv:2512.02438), known by its abstract: CLIP on one small device.

Moving averages of both towers encode all small batches of a step first, which costs no activations. Every small batch
of the student then meets this window of keys, its targets partly what the averages themselves find alike, as in ALBEF
(Li et al., NeurIPS 2021, arXiv:2107.07651, eq. 6).

b samples of a small batch, B of this rank, M of all ranks.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Fraction, Positive, guarded
from ssl_framework.distributed import gather, rank
from ssl_framework.functional import nce
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MSD(Objective):
    """Mean of both directions: each view finds the other one among the moving average's, with softened targets.

    Args:
        temperature, largest_scale: as in ``CLIP``; the moving average's similarities are scaled alike.
        alpha: share of the target that is the moving average's softmax; the rest is the sample's own pair.
        ramp: share of the run over which alpha rises from 0, in [0, 1].
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    requires = frozenset({"teacher"})
    meets_keys = True

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        alpha: Fraction,
        ramp: Fraction,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.alpha = alpha
        self.ramp = ramp
        self.head = head
        self.reads = self.teacher_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        assert teacher is not None
        self.clip.bound()
        z, k = rows_of(student, self.head), rows_of(teacher, self.head)  # 2 x [b, D], 2 x [B, D]
        rows = batch.first + torch.arange(len(z[0]), device=z[0].device)  # [b]
        own = rank() * len(k[0]) + rows  # [b]
        alpha, temperature = ramped(self.alpha, self.ramp, clock), self.clip.temperature.to(z[0].dtype)
        each = [distilled(z[v], gather(k[1 - v]), k[v][rows], own, temperature, alpha) for v in range(2)]  # 2 x [b]
        return {"loss": torch.cat(each).mean(), "scale": self.clip.log_scale.detach().exp()}


def ramped(alpha: float, ramp: float, clock: Clock) -> float:
    """``alpha``, which rises in a line over the first ``ramp`` of the run."""
    return alpha * min(1.0, clock.progress / ramp) if ramp else alpha


def distilled(anchors: Tensor, keys: Tensor, queries: Tensor, own: Tensor, temperature: Tensor, alpha: float) -> Tensor:
    """Cross-entropies of anchors among a teacher's keys, whose targets are ``softened``.

    Args:
        anchors: [b, D] unit rows.
        keys, queries, own, temperature, alpha: as in ``softened``; a gradient reaches the temperature here.

    Returns:
        [b]
    """
    return nce(anchors, keys, softened(keys, queries, own, temperature, alpha), temperature)


def softened(keys: Tensor, queries: Tensor, own: Tensor, temperature: Tensor, alpha: float) -> Tensor:
    """The targets ``alpha softmax(queries . keys / temperature) + (1 - alpha) one-hot``, without gradient.

    Args:
        keys: [M, D] unit rows of a teacher, those of the other view.
        queries: [b, D] the teacher's unit rows of the anchors' views.
        own: [b] int64 column of each anchor's pair.
        temperature: scalar.
        alpha: in [0, 1].

    Returns:
        [b, M], rows sum to one.
    """
    target = alpha * (queries @ keys.T / temperature.detach()).softmax(dim=1)  # [b, M]
    target[torch.arange(len(own), device=own.device), own] += 1 - alpha
    return target
