"""Distillation of features: Navaneet et al., SimReg: Regression as a Simple Yet Effective Tool for Self-supervised
Knowledge Distillation, BMVC 2021 (arXiv:2201.05131), with the regressor of FitNets (Romero et al., ICLR 2015,
arXiv:1412.6550, eq. 3).

The student's features of a view, through its head and a linear regressor, come to those of a frozen teacher of the same
view, both of unit length. No negatives, no labels.

B samples, D numbers of the student's head, T of the teacher.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, guarded
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.byol import distance
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class Distill(Objective):
    """Mean squared distance of unit vectors over all views, ``2 - 2 cos`` in [0, 4], as the authors' code has it.

    Args:
        dim: D.
        head: name of the student's output that is regressed.
    """

    requires = frozenset({"teacher"})
    num_views = (1, None)

    def __init__(self, dim: Count, head: str = "projector") -> None:
        super().__init__()
        self.dim, self.head = dim, head
        self.reads, self.teacher_reads = (head,), ("pooled",)

    def meet(self, teacher: Mapping[str, int]) -> None:
        """Makes the regressor, D -> T."""
        self.regressor = nn.Linear(self.dim, teacher["pooled"])

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        seen, shown = outputs_of(student, self.head), outputs_of(teacher, "pooled")  # V x [B, D], V x [B, T]
        parts = [distance(unit(self.regressor(z)), unit(k)) for z, k in zip(seen, shown, strict=True)]  # V x [B]
        loss = torch.cat(parts).mean()
        return {"loss": loss, "cosine": 1 - loss.detach() / 2}
