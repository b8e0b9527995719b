"""MoCo v2: Chen et al., Improved Baselines with Momentum Contrastive Learning (arXiv:2003.04297); the loss is eq. 1 of
MoCo (arXiv:1911.05722).

The query's positive is the teacher's key of the other view, its negatives are a queue of earlier keys. A feature mixer
may change the three or add negatives of its own; the queue always receives the unchanged keys. A mixed query has two
positives, its own key and its partner's, and the batch's other keys as further negatives (i-Mix, arXiv:2010.08887).
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, world_size
from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.functional import SameClass, hardest, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.dcl import dclw_weight
from ssl_framework.objectives.infonce import contrast, mixed_queries
from ssl_framework.objectives.siamese import Siamese, unit_rows
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MoCo(Objective):
    """InfoNCE against a queue.

    Args:
        temperature: tau.
        queue: the memory of negative keys, K rows.
        positive_in_denominator: ``False`` gives DCL's denominator.
        weight_sigma: sigma of DCLW's weight of the positives; ``None`` weighs them alike.
        class_oracle: ``True`` removes rows of the query's own class from the negatives (MoCHi, section 3.2: what false
            negatives cost) and logs which share they had among the K / 16 hardest. Needs labels.
        head: name of the head of student and teacher whose outputs are compared.

    Logs the mean positive similarity and mean and variance of the negative ones, by which feature transformation
    (arXiv:2108.02982, section 3) chooses momentum and temperature; before any mixing. And how many steps ago the
    queue's keys were made on average (under gradient accumulation: batches, if the queue is full).
    """

    requires = frozenset({"teacher"})
    accepts = frozenset(
        {"mixer", "terms of mixtures", "positive pairs", "negatives", "negatives shared by all queries"}
    )
    num_views = (1, 1)  # queries; and as many keys

    classes: Tensor  # [K] int64 class of each row of the queue, -1 before it is filled

    def __init__(
        self,
        temperature: Positive,
        queue: Queue,
        positive_in_denominator: bool = True,
        weight_sigma: Positive | None = None,
        class_oracle: bool = False,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue
        self.positive_in_denominator = positive_in_denominator
        self.weight_sigma = weight_sigma
        self.head = head
        self.reads = self.teacher_reads = (head,)
        self.class_oracle = class_oracle
        if class_oracle:
            self.requires = self.requires | {"label"}
            self.accepts = self.accepts - {"negatives shared by all queries", "mixer", "terms of mixtures"}
            self.register_buffer("classes", torch.full((queue.size,), -1))

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (q,) = map(unit, outputs_of(student, self.head))  # [B, D]
        (k,) = map(unit, outputs_of(teacher, self.head))  # [B, D]
        negatives = self.queue.read()  # [K, D]
        out = score_statistics(q.detach(), k, negatives)
        out["queue_age"] = k.new_full((), self.queue.mean_age(clock.step, world_size() * len(k)))
        mix = next((each for seen, each in zip(student, batch.mix or [], strict=False) if seen is not None), None)
        features = MixedFeatures(q, k, negatives) if mix is None else mixed_queries(q, k, mix, negatives)
        if self.class_oracle:
            assert batch.label is not None
            same = SameClass(batch.label, self.classes.clone())
            features = features._replace(left_out=(same,))
            near, _ = hardest(q, negatives, max(1, len(negatives) // 16))  # [B, K / 16]
            out["false_negatives"] = (same.key[near] == batch.label[:, None]).float().mean()
        features = self.mixed(features, clock)
        weight = dclw_weight(features.q, features.k, self.weight_sigma)
        found = contrast(features, self.temperature, self.positive_in_denominator, weight)
        written = self.queue.push(k)  # [W * B]
        if self.class_oracle:
            assert batch.label is not None
            self.classes[written] = gather(batch.label)
        return {"loss": found.loss.mean(), **found.logged(), **out}

    def siamese(self, student: list[Outputs | None], teacher: list[Outputs | None] | None) -> Siamese:
        """The teacher answers; a pair's negatives are the queue."""
        negatives = self.queue.read()  # [K, D]

        def cost(q: Tensor, k: Tensor) -> Tensor:
            weight = dclw_weight(q, k, self.weight_sigma)
            features = MixedFeatures(q, k, negatives)
            return contrast(features, self.temperature, self.positive_in_denominator, weight).loss  # [B]

        return Siamese(self.head, unit_rows(teacher, self.head), negatives, cost)


def score_statistics(q: Tensor, k: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """Means over queries of: the positive's similarity, the mean and the variance of the negatives'.

    From the negatives' second moment, O(K D^2): no query meets every row a second time.

    Args:
        q, k: [B, D]; negatives: [K, D]; unit rows without gradient.
    """
    mean = q @ negatives.mean(dim=0)  # [B]
    moment = negatives.T @ negatives / len(negatives)  # [D, D]
    variance = ((q @ moment) * q).sum(dim=1) - mean.square()  # [B]
    return {
        "positive_similarity": (q * k).sum(dim=1).mean(),
        "negative_similarity": mean.mean(),
        "negative_variance": variance.mean(),
    }
