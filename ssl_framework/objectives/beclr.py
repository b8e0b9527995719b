"""BECLR: Poulakakis-Daktylidis and Jamali-Rad, BECLR: Batch Enhanced Contrastive Few-Shot Learning, ICLR 2024
(arXiv:2402.02444), eq. 1 to 5.

The student's prediction of one view meets the teacher's projection of the other, and a weak term spreads the student's
projections. Later in the run every row of the batch brings its neighbours along, from a memory that is divided among
prototypes (DyCE): those of its own prototype.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Fraction, Natural, NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank, world_size
from ssl_framework.functional import log_sum_exp, unit
from ssl_framework.memory import DyCE
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class BECLR(Objective):
    """Negative cosine of positives plus a weighted logarithm of the mean similarity of negatives.

    Neighbours carry no gradient: in the positive term they are constants, in the other they push the batch's rows.

    Args:
        weight: lambda, of the negatives' term.
        temperature: T of that term.
        neighbours: k, that each row brings along; 0: none.
        start: share of the run after which they come, once the memory is full, in [0, 1].
        memory: builds a DyCE; predictions and projections of the student and projections of the teacher have one each.
        projector: name of the head of student and teacher.
        predictor: name of the student's head on it.
    """

    requires = frozenset({"teacher"})
    against_collapse = ("predictor",)

    def __init__(
        self,
        weight: NonNegative,
        temperature: Positive,
        neighbours: Natural,
        start: Fraction,
        memory: Callable[[], DyCE],
        projector: str = "projector",
        predictor: str = "predictor",
    ) -> None:
        super().__init__()
        self.weight = weight
        self.temperature = temperature
        self.neighbours = neighbours
        self.start = start
        self.memories = nn.ModuleList(memory() for _ in range(3))
        self.reads, self.teacher_reads = (predictor, projector), (projector,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        outputs = [outputs_of(student, head) for head in self.reads] + [outputs_of(teacher, self.teacher_reads[0])]
        rows = [torch.stack([unit(x) for x in views]) for views in outputs]  # predictions, projections, keys: [2, B, D]
        p, z, k = (self.enhanced(x, memory, clock) for x, memory in zip(rows, self.memories, strict=True))
        positive = -((p[0] * k[1]).sum(dim=1).mean() + (p[1] * k[0]).sum(dim=1).mean()) / 2
        negative = mean_similarity(z, self.temperature)
        spread = {"positive_loss": positive, "negative_loss": negative, "target_std": rows[2].std(dim=1).mean()}
        return {"loss": positive + self.weight * negative, **spread}

    def enhanced(self, x: Tensor, memory: nn.Module, clock: Clock) -> Tensor:
        """The rows and, once it is time, their neighbours: [2, B, D] -> [2, (1 + k) * B, D]. Changes the memory."""
        assert isinstance(memory, DyCE)
        own, both = x, x.flatten(0, 1)  # [2 * B, D]
        full = memory.full_since(world_size() * len(both))
        if clock.step == full:
            memory.begin(clock.generator())
        if self.neighbours and clock.progress >= self.start and clock.step >= full:
            near = memory.neighbours(both, self.neighbours).reshape(2, -1, x.shape[2])  # [2, k * B, D]
            x = torch.cat([x, near], dim=1)  # [2, (1 + k) * B, D]
        for view in own:  # one after the other, so that the order of rows does not depend on the number of ranks
            memory.push(view)
        return x


def mean_similarity(z: Tensor, temperature: float) -> Tensor:
    """Logarithm of the mean over all rows of all ranks of the mean of ``exp(cos / temperature)`` to all rows but itself
    and its pair: [2, N, D] unit rows -> scalar, alike on all ranks."""
    rows, number = z.flatten(0, 1), z.shape[1]  # [2 * N, D]
    keys, own = gather_with_grad(rows), torch.arange(len(rows), device=z.device)  # [W * 2 * N, D], [2 * N]
    left_out = rank() * len(rows) + torch.stack([own, own.roll(number)], dim=1)  # [2 * N, 2]
    sums = gather_with_grad(log_sum_exp(rows, keys, temperature, [left_out])[0])  # [W * 2 * N]
    return sums.logsumexp(dim=0) - math.log(len(keys) * (len(keys) - 2))
