"""SDMP: Ren et al., A Simple Data Mixing Prior for Improving Self-Supervised Learning, CVPR 2022 (arXiv:2206.07692), on
MoCo v3.

Beside the clean views a mixture of each is encoded. It has to find the images that it shows, and the mixtures of the
other view that show the same images, each with the probability that is due to it.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.functional import by_tiles
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.mixture_pairs import Pair, costs, mixture_pairs
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SDMP(Objective):
    """MoCo v3, and two terms for the mixtures; all times 2 tau.

    Args:
        temperature: tau.
        student_head: the predictor's name.
        teacher_head: the projector's name.
    """

    requires = frozenset({"teacher", "added mixtures", "keys of mixtures"})

    def __init__(self, temperature: Positive, student_head: str = "predictor", teacher_head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.student_head = student_head
        self.teacher_head = teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        pairs = mixture_pairs(student, teacher, batch, self.student_head, self.teacher_head)
        terms = costs(pairs, lambda pair: log_of_mean(pair, self.temperature))
        loss = 2 * self.temperature * torch.stack(list(terms.values())).sum()
        return {"loss": loss, **{f"{kind}_loss": term for kind, term in terms.items()}}


def log_of_mean(pair: Pair, temperature: float) -> Tensor:
    """``-log sum_j share_ij p_ij``, p_i the softmax over all keys: [B]. The logarithm of the mean probability where
    cross-entropy is the mean logarithm: it is enough to find one of the sources.
    """

    def cost(keys: Tensor, q: Tensor, share: Tensor) -> tuple[Tensor]:
        logits = q @ keys.T / temperature  # [R, W * B]
        return (logits.logsumexp(dim=1) - (logits + share.log()).logsumexp(dim=1),)

    (loss,) = by_tiles(cost, pair.keys, pair.q, pair.share)
    return loss
