"""DenseCL: Wang et al., Dense Contrastive Learning for Self-Supervised Visual Pre-Training, CVPR 2021
(arXiv:2011.09157), eq. 1 to 4.

MoCo v2, and the same at every position: the positive of a position is the position of the other view whose backbone
features are most similar, its negatives are a second queue, of earlier views' mean dense keys. No geometry is read.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Fraction, Positive, guarded
from ssl_framework.distributed import world_size
from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.functional import positions, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.infonce import contrast
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class DenseCL(Objective):
    """InfoNCE of views and of positions, each against a queue of its own.

    Args:
        temperature: tau of both.
        dense_weight: lambda, share of the dense loss, in [0, 1].
        dense_start: share of the run before which lambda is 0, in [0, 1): matches of an untrained net mean little.
        queue: the memory of the views' keys.
        dense_queue: that of dense keys, averaged over a view's positions.
        head: name of the head of student and teacher that gives a vector a view.
        dense_head: name of the one that gives a vector a position.

    Logs how many of the other view's positions are matched at all, as a share of them.
    """

    requires = frozenset({"teacher", "maps"})
    num_views = (1, 1)  # queries; and as many keys

    def __init__(
        self,
        temperature: Positive,
        dense_weight: Fraction,
        dense_start: BelowOne,
        queue: Queue,
        dense_queue: Queue,
        head: str = "projector",
        dense_head: str = "dense_projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.dense_weight = dense_weight
        self.dense_start = dense_start
        self.queue = queue
        self.dense_queue = dense_queue
        self.head = head
        self.dense_head = dense_head
        self.reads = self.teacher_reads = (head, dense_head, "map")

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (q,), (k,) = (map(unit, outputs_of(side, self.head)) for side in (student, teacher))  # [B, D] each
        (dense_q,), (dense_k,) = (map(positions, outputs_of(side, self.dense_head)) for side in (student, teacher))
        (map_q,), (map_k,) = (map(positions, outputs_of(side, "map")) for side in (student, teacher))  # [B, P, D']
        match = matches(map_q.detach(), map_k)  # [B, P]
        matched = dense_k.gather(1, match[..., None].expand(-1, -1, dense_k.shape[2]))  # [B, P, D]
        whole = contrast(MixedFeatures(q, k, self.queue.read()), self.temperature, True)
        pairs = MixedFeatures(unit(dense_q.flatten(0, 1)), unit(matched.flatten(0, 1)), self.dense_queue.read())
        dense = contrast(pairs, self.temperature, True)  # of [B * P, D]
        weight = 0.0 if clock.progress < self.dense_start else self.dense_weight
        out = {
            "loss": (1 - weight) * whole.loss.mean() + weight * dense.loss.mean(),
            **whole.logged(),
            "dense_loss": dense.loss.detach().mean(),
            "dense_accuracy": dense.first.mean(),
            "matched_positions": share_matched(match, dense_k.shape[1]),
            "queue_age": k.new_full((), self.queue.mean_age(clock.step, world_size() * len(k))),
        }
        self.queue.push(k)
        self.dense_queue.push(unit(dense_k.mean(dim=1)))
        return out


def matches(q: Tensor, k: Tensor) -> Tensor:
    """For every position of ``q`` [B, P, D] the position of ``k`` [B, Q, D] whose cosine is greatest: [B, P] int64."""
    return (unit(q) @ unit(k).transpose(1, 2)).argmax(dim=2)  # [B, P]


def share_matched(match: Tensor, count: int) -> Tensor:
    """How many of ``count`` positions occur among the matches [B, P] of their image, as a share: scalar."""
    met = torch.zeros(len(match), count, device=match.device).scatter_(1, match, 1.0)  # [B, count]
    return met.mean()
