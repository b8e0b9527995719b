"""MoCo v3: Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021
(arXiv:2104.02057), algorithm 1.

The student's prediction of one view has to find the teacher's key of the other view among the keys of the global
batch, in both directions; no queue. A mixed view has to find the keys of all its sources, by their shares (i-Mix,
arXiv:2010.08887).
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, rank
from ssl_framework.functional import nce, unit
from ssl_framework.mixers.targets import targets
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Mix, Outputs


@guarded
class MoCoV3(Objective):
    """InfoNCE against the keys of the batch, times 2 tau: the sum of both directions.

    Args:
        temperature: tau.
        student_head: the predictor's name.
        teacher_head: the projector's name.
    """

    requires = frozenset({"teacher"})
    accepts = frozenset({"mixer"})

    def __init__(self, temperature: Positive, student_head: str = "predictor", teacher_head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.student_head = student_head
        self.teacher_head = teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        q0, q1 = map(unit, outputs_of(student, self.student_head))  # [B, D] each
        k0, k1 = map(unit, outputs_of(teacher, self.teacher_head))  # [B, D] each
        mixes = batch.mix or [None] * len(student)
        mix0, mix1 = (mix for view, mix in zip(student, mixes, strict=True) if view is not None)
        both = find_key(q0, k1, self.temperature, mix0) + find_key(q1, k0, self.temperature, mix1)  # [B]
        # Times tau, so that the gradient's size does not depend on the temperature.
        return {"loss": 2 * self.temperature * both.mean()}


def find_key(q: Tensor, k: Tensor, temperature: float, mix: Mix | None = None) -> Tensor:
    """Cross-entropy of finding each query's own key among those of all ranks: two [B, D] of unit rows -> [B].

    A mixture has the keys of its sources. No gradient reaches the keys.
    """
    own = rank() * len(k) + torch.arange(len(k), device=k.device)  # [B]
    return nce(q, gather(k), own if mix is None else targets(mix), temperature)  # [B]
