"""DINO: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (arXiv:2104.14294), eq. 1
to 4.

Every view of the student predicts the teacher's distribution over K outputs for another view of its sample; there are
no negatives. The teacher's outputs are centred, so that not one output wins everywhere, and sharpened, so that not all
win alike: collapse has both as its ways, and each step keeps from the other.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Fraction, Positive, guarded
from ssl_framework.memory import Centre
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class DINO(Objective):
    """Cross-entropy of teacher and student over all pairs of different views, of any sizes; their mean.

    Args:
        temperature: tau_s, of the student.
        teacher_temperature: tau_t, of the teacher, once it is warm.
        first_teacher_temperature: tau_t at the first step, from where it rises along a line.
        temperature_warmup: share of the run over which it rises, in [0, 1].
        centre: of the teacher's outputs; it moves after it was used.
        head: name of the head of student and teacher whose outputs are compared.

    Logs the mean entropy of the teacher's distributions (log K: they tell nothing, the collapse that sharpening keeps
    off) and the entropy of their mean (0: one output wins everywhere, the collapse that centring keeps off), in nats.
    """

    requires = frozenset({"teacher"})
    num_views = (2, None)

    def __init__(
        self,
        temperature: Positive,
        teacher_temperature: Positive,
        first_teacher_temperature: Positive,
        temperature_warmup: Fraction,
        centre: Centre,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.first_teacher_temperature = first_teacher_temperature
        self.temperature_warmup = temperature_warmup
        self.centre = centre
        self.head = head
        self.reads = self.teacher_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert teacher is not None
        seen = {v: view[self.head] for v, view in enumerate(student) if view is not None}  # [B, K] each
        outputs = {v: view[self.head] for v, view in enumerate(teacher) if view is not None}  # [B, K] each
        log_p = {v: (x / self.temperature).log_softmax(dim=-1) for v, x in seen.items()}  # [B, K] each
        tau = warmed(self.first_teacher_temperature, self.teacher_temperature, self.temperature_warmup, clock)
        targets = {v: ((x - self.centre.read()) / tau).softmax(dim=-1) for v, x in outputs.items()}  # [B, K] each
        costs = [-(t * p).sum(dim=-1).mean() for v, t in targets.items() for s, p in log_p.items() if s != v]
        self.centre.update(torch.cat([*outputs.values()]))  # [V_t * B, K]
        every = torch.cat([*targets.values()])  # [V_t * B, K]
        spread = {"target_entropy": entropy(every).mean(), "mean_target_entropy": entropy(every.mean(dim=0))}
        return {"loss": torch.stack(costs).mean(), **spread}


def warmed(first: float, last: float, share: float, clock: Clock) -> float:
    """A value that rises from ``first`` to ``last`` along a line over the first ``share`` of the run."""
    return last if clock.progress >= share else first + (last - first) * clock.progress / share


def entropy(p: Tensor) -> Tensor:
    """Of distributions, in nats: [..., K] -> [...]."""
    return -torch.xlogy(p, p).sum(dim=-1)
