"""CACR on MoCo and on MoCo v3: Zheng et al., Contrastive Attraction and Contrastive Repulsion for Representation
Learning, TMLR 2023 (arXiv:2105.03746), and its code for ImageNet.

Positives are the teacher's keys of a sample's other views. Negatives come from a queue and repel by their weighted
distance, or are the keys of the batch, in MoCo v3's cross-entropy, weighed by how far its query is from its key.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.functional import unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.cacr import attract, repel
from ssl_framework.objectives.mocov3 import find_key
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CACRMoCo(Objective):
    """CACR against a queue. No gradient flows through the weights.

    Args:
        alpha: weight of the attraction.
        beta: weight of the repulsion.
        t_pos: t+, how much more far positives weigh; 0: all alike.
        t_neg: t-, how much more near negatives weigh; 0: all alike.
        queue: the memory of negative keys, K rows. The keys of the last view enter it.
        head: name of the head of student and teacher whose outputs are compared.
    """

    requires = frozenset({"teacher"})
    num_views = (2, None)

    def __init__(
        self,
        alpha: NonNegative,
        beta: NonNegative,
        t_pos: NonNegative,
        t_neg: NonNegative,
        queue: Queue,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.t_pos = t_pos
        self.t_neg = t_neg
        self.queue = queue
        self.head = head
        self.reads = self.teacher_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        queries, keys = by_view(student, self.head), by_view(teacher, self.head)
        negatives = self.queue.read()  # [K, D]
        near = [attract(q, others(keys, v), self.t_pos, weights_learn=False) for v, q in queries.items()]  # V x [B, 2]
        far = [repel(q, negatives, self.t_neg, weights_learn=False) for q in queries.values()]  # V x [B, 2]
        attraction, attraction_entropy = torch.stack(near).mean(dim=(0, 1))
        repulsion, repulsion_entropy = torch.stack(far).mean(dim=(0, 1))
        self.queue.push(keys[max(keys)])
        return {
            "loss": self.alpha * attraction - self.beta * repulsion,
            "attraction_entropy": attraction_entropy.detach(),
            "repulsion_entropy": repulsion_entropy.detach(),
        }


@guarded
class CACRMoCoV3(Objective):
    """MoCo v3's loss of every query of a sample against a key of another view, far queries weighing more.

    Args:
        temperature: tau, of the cross-entropy and of the weights.
        student_head: the predictor's name.
        teacher_head: the projector's name.
    """

    requires = frozenset({"teacher"})
    num_views = (2, None)

    def __init__(self, temperature: Positive, student_head: str = "predictor", teacher_head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.student_head = student_head
        self.teacher_head = teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        queries, keys = by_view(student, self.student_head), by_view(teacher, self.teacher_head)
        rows = [self.attract(others(queries, v), k) for v, k in keys.items()]  # [B, 2] for each key
        loss, entropy = torch.stack(rows).mean(dim=(0, 1))
        return {"loss": 2 * self.temperature * loss, "attraction_entropy": entropy.detach()}

    def attract(self, queries: list[Tensor], key: Tensor) -> Tensor:
        """K x [B, D] queries and their key [B, D] -> [B, 2]: weighted cross-entropy, entropy of the weights in nats."""
        distance = torch.stack([(q.detach() - key).square().sum(dim=1) for q in queries], dim=1)  # [B, K]
        weight = (distance / self.temperature).softmax(dim=1)  # [B, K]
        cost = torch.stack([find_key(q, key, self.temperature) for q in queries], dim=1)  # [B, K]
        return torch.stack([(weight * cost).sum(dim=1), torch.special.entr(weight).sum(dim=1)], dim=1)  # [B, 2]


def by_view(outputs: list[Outputs | None] | None, head: str) -> dict[int, Tensor]:
    """View -> unit rows [B, D] of the named head, for the views that were encoded."""
    assert outputs is not None
    return {v: unit(view[head]) for v, view in enumerate(outputs) if view is not None}


def others(views: dict[int, Tensor], view: int) -> list[Tensor]:
    """All views but one."""
    return [x for v, x in views.items() if v != view]
