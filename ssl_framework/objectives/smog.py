"""SMoG: Pang et al., Unsupervised Visual Representation Learning by Synchronous Momentum Grouping, ECCV 2022
(arXiv:2207.06167), eq. 3 to 6.

Every sample's key joins the nearest of K groups, whose features move with a momentum in the same step; the query of the
other view has to find that group among the groups so moved. So groups follow the encoder step by step, and k-means of
recent keys starts them anew now and then, which keeps them from dying out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import BelowOne, Count, Positive, Several, guarded
from ssl_framework.distributed import from_first_rank, gather, world_size
from ssl_framework.functional import class_sums, kmeans, nearest_centres, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SMoG(Objective):
    """Cross-entropy of finding the key's group; gradient through the query only.

    Args:
        temperature: tau.
        num_groups: K.
        momentum: beta, share of a group's old feature that is kept when keys join it.
        restart: steps from one k-means of the recent keys to the next; the first is made once there are enough.
        iterations: of k-means.
        queue: the recent keys.
        dim: D, width of the heads' outputs.
        student_head: the predictor's name.
        teacher_head: the projector's name.

    Logs how many of the groups keys have joined in this step.
    """

    requires = frozenset({"teacher"})
    num_views = (1, 1)
    groups: Tensor  # [K, D] not of unit length: they have lost some of it by their moves

    def __init__(
        self,
        temperature: Positive,
        num_groups: Several,
        momentum: BelowOne,
        restart: Count,
        iterations: Count,
        queue: Queue,
        dim: Count,
        student_head: str = "predictor",
        teacher_head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        self.restart = restart
        self.iterations = iterations
        self.queue = queue
        self.student_head = student_head
        self.teacher_head = teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)
        self.register_buffer("groups", unit(torch.randn(num_groups, dim)))  # [K, D]

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (q,) = map(unit, outputs_of(student, self.student_head))  # [B, D]
        (k,) = map(unit, outputs_of(teacher, self.teacher_head))  # [B, D]
        full = -(-self.queue.size // (world_size() * len(k)))  # the first step at which the queue holds keys only
        if clock.step == full or (clock.step > full and clock.step % self.restart == 0):
            from_first_rank([self.groups], lambda: [self.grouped(clock)])
        joined = nearest_centres(k, unit(self.groups))  # [B]
        counts = self.move(gather(k), gather(joined))  # [K]
        self.queue.push(k)
        logits = q @ unit(self.groups.clone()).T / self.temperature  # [B, K]
        return {"loss": F.cross_entropy(logits, joined), "groups_joined": (counts > 0).sum().float()}

    @torch.no_grad()
    def move(self, keys: Tensor, joined: Tensor) -> Tensor:
        """Moves every group towards the mean of the keys that joined it, and counts them: [N, D] and [N] -> [K]"""
        sums, counts = class_sums(keys, joined, torch.arange(len(self.groups), device=keys.device))  # [K, D], [K]
        means = sums / counts.clamp(min=1)[:, None]  # [K, D]
        self.groups.lerp_(means, (1 - self.momentum) * (counts > 0).to(means)[:, None])
        return counts

    def grouped(self, clock: Clock) -> Tensor:
        """Centres of the recent keys: [K, D] unit rows"""
        rows, count = self.queue.read(), len(self.groups)  # [M, D]
        return kmeans(rows, count, self.iterations, spherical=True, generator=clock.generator()).centres
