"""MoCo v2: Chen et al., Improved Baselines with Momentum Contrastive Learning (arXiv:2003.04297); the loss is eq. 1 of
MoCo (arXiv:1911.05722).

The query's positive is the teacher's key of the other view, its negatives are a queue of earlier keys. A feature mixer
may change the three or add negatives of its own; the queue always receives the unchanged keys.
"""

import torch
from torch import Tensor

from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.functional import log_sum_exp, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of, positive_temperature
from ssl_framework.types import Batch, Clock, Outputs


class MoCo(Objective):
    """InfoNCE against a queue.

    Args:
        temperature: tau.
        queue: the memory of negative keys, K rows.
        positive_in_denominator: ``False`` gives DCL's denominator.
        head: name of the head of student and teacher whose outputs are compared.
    """

    requires = frozenset({"teacher"})
    accepts = frozenset({"feature_mixer"})
    num_views = (1, 1)  # queries; and as many keys

    def __init__(
        self, temperature: float, queue: Queue, positive_in_denominator: bool = True, head: str = "projector"
    ) -> None:
        super().__init__()
        self.temperature = positive_temperature(temperature)
        self.queue = queue
        self.positive_in_denominator = positive_in_denominator
        self.head = head

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (q,) = map(unit, outputs_of(student, self.head))  # [B, D]
        (k,) = map(unit, outputs_of(teacher, self.head))  # [B, D]
        mixed = MixedFeatures(q, k, self.queue.read())  # negatives [K, D]
        if self.feature_mixer is not None:
            mixed = self.feature_mixer(q, k, mixed.negatives, clock)
        positive = (mixed.q * mixed.k).sum(dim=1) / self.temperature  # [B]
        negatives, hardest = log_sum_exp(mixed.q, mixed.negatives, self.temperature)  # [B] each
        terms = [positive, negatives] if self.positive_in_denominator else [negatives]
        if mixed.extra is not None:
            extra = torch.einsum("bd,bsd->bs", mixed.q, mixed.extra) / self.temperature  # [B, S]
            terms.append(extra.logsumexp(dim=1))
            hardest = torch.maximum(hardest, extra.detach().amax(dim=1))
        loss = (torch.stack(terms).logsumexp(dim=0) - positive).mean()
        # Share of queries whose positive ranks before every negative.
        proxy_accuracy = (positive.detach() > hardest).float().mean()
        self.queue.push(k)
        return {"loss": loss, "proxy_accuracy": proxy_accuracy}
