"""BYOL: Grill et al., Bootstrap Your Own Latent, NeurIPS 2020 (arXiv:2006.07733), eq. 2.

The student's prediction of one view regresses the teacher's projection of the other, both of unit length; no negatives.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.infonce import mean_of_sources
from ssl_framework.objectives.siamese import Siamese, unit_rows
from ssl_framework.types import Batch, Clock, Mix, Outputs


@guarded
class BYOL(Objective):
    """Symmetric squared distance of unit vectors, in [0, 8]: the sum of both directions, as in the paper.

    Its gradient is four times that of lightly's form, half the sum of negative cosines.

    Args:
        student_head: the predictor's name.
        teacher_head: the projector's name.
    """

    requires = frozenset({"teacher"})
    against_collapse = ("student_head",)
    accepts = frozenset({"mixer", "terms of mixtures"})

    def __init__(self, student_head: str = "predictor", teacher_head: str = "projector") -> None:
        super().__init__()
        self.student_head = student_head
        self.teacher_head = teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        p0, p1 = map(unit, outputs_of(student, self.student_head))  # [B, D] each
        k0, k1 = map(unit, outputs_of(teacher, self.teacher_head))  # [B, D] each
        mix = batch.mix or [None, None]
        loss = distance(p0, target(k1, mix[0])).mean() + distance(p1, target(k0, mix[1])).mean()
        # Near zero means collapse: all projections of the batch have become the same vector.
        spread = torch.stack([k0, k1]).std(dim=1).mean()
        return {"loss": loss, "target_std": spread}

    def siamese(self, student: list[Outputs | None], teacher: list[Outputs | None] | None) -> Siamese:
        """The teacher answers; a pair costs its squared distance."""
        return Siamese(self.student_head, unit_rows(teacher, self.teacher_head), None, distance)


def target(k: Tensor, mix: Mix | None) -> Tensor:
    """What a view regresses: the other view's keys [B, D], or for a mixed view their mean by the shares (i-Mix)."""
    return k if mix is None else mean_of_sources(k, mix)


def distance(p: Tensor, k: Tensor) -> Tensor:
    """``2 - 2 cos`` of each pair, in [0, 4] for unit rows: two [B, D] -> [B]."""
    return 2 - 2 * (p * k).sum(dim=1)
