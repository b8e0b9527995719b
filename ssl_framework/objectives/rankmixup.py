"""RankMixup: Noh et al., RankMixup: Ranking-Based Mixup Training for Network Calibration, ICCV 2023 (arXiv:2308.11990).

The classifier learns from clean images only; mixtures beside them say how sure it may be: less sure of a mixture than
of the clean image (MRL), and the less sure the smaller the largest class share of the mixture is (M-NDCG).

B samples of this rank, C classes, N mixtures of a sample.
"""

from typing import Protocol

import torch
from torch import Tensor

from ssl_framework.arguments import Classes, NonNegative, guarded
from ssl_framework.mixers.targets import class_targets
from ssl_framework.objectives.base import Objective, parted
from ssl_framework.objectives.supervised import accuracy, cross_entropy
from ssl_framework.types import Batch, Clock, Outputs


class Ranking(Protocol):
    """Compares how sure a classifier is of samples and of their mixtures."""

    def __call__(self, clean: Tensor, mixed: Tensor, targets: Tensor) -> Tensor:
        """Logits [B, C] of clean samples and [N, B, C] of mixtures, class shares of these [N, B, C] -> loss [B]."""
        ...


@guarded
class RankMixup(Objective):
    """Cross-entropy of the clean view plus a ranking loss of clean view and mixtures.

    Args:
        num_classes: C, of the training set.
        ranking: ``MRL`` or ``MNDCG``.
        weight: of the ranking loss.
        head: name of the student's classifier.
    """

    requires = frozenset({"label", "added mixtures"})
    num_views = (1, 1)

    def __init__(self, num_classes: Classes, ranking: Ranking, weight: NonNegative, head: str = "classifier") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ranking = ranking
        self.weight = weight
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (clean,), mixtures = parted(student, batch, self.head)  # [B, C]
        assert batch.label is not None and self.num_classes is not None
        loss = cross_entropy(clean, class_targets(None, batch.label, self.num_classes)).mean()
        logged = {"cross_entropy": loss, **accuracy([clean], batch.label)}
        if not mixtures:  # outside the mixer's schedule
            return {"loss": loss, **logged}
        logits = torch.stack([z for z, _ in mixtures])  # [N, B, C]
        targets = torch.stack([class_targets(mix, batch.label, self.num_classes) for _, mix in mixtures])  # [N, B, C]
        ranking = self.ranking(clean, logits, targets.to(logits.dtype)).mean()
        return {"loss": loss + self.weight * ranking, "ranking": ranking, **logged}


@guarded
class MRL:
    """Mixup-based ranking loss: ``relu(max_c mixture_c - max_c clean_c + m)`` on logits, as in the authors' code; the
    paper speaks of confidences. A mixture of one class only counts 0.

    Args:
        margin: m.
    """

    def __init__(self, margin: NonNegative) -> None:
        self.margin = margin

    def __call__(self, clean: Tensor, mixed: Tensor, targets: Tensor) -> Tensor:
        """As ``Ranking``; the mean over the mixtures."""
        excess = (mixed.amax(dim=2) - clean.amax(dim=1) + self.margin).relu()  # [N, B]
        several = (targets > 0).sum(dim=2) > 1  # [N, B]
        return torch.where(several, excess, 0).mean(dim=0)


class MNDCG:
    """``1 - NDCG`` of the confidences (the largest softmax probabilities) of clean sample and mixtures, ranked by their
    largest class shares, the clean one first: discounted by ``log2(rank + 1)``, and divided by the same sum of the
    shares themselves. Confidences may also be too high: of a quotient above 1 the inverse counts.
    """

    def __call__(self, clean: Tensor, mixed: Tensor, targets: Tensor) -> Tensor:
        """As ``Ranking``."""
        share, order = targets.amax(dim=2).sort(dim=0, descending=True, stable=True)  # [N, B] each
        confidence = mixed.softmax(dim=2).amax(dim=2).gather(0, order)  # [N, B]
        first = clean.softmax(dim=1).amax(dim=1)  # [B]
        found = torch.cat([first[None], confidence])  # [1 + N, B]
        ideal = torch.cat([torch.ones_like(first)[None], share])  # [1 + N, B]
        rank = torch.arange(1, len(found) + 1, device=clean.device)  # [1 + N]
        discount = 1 / (rank + 1.0).log2()[:, None]  # [1 + N, 1]
        gained, possible = (discount * found).sum(dim=0), (discount * ideal).sum(dim=0)  # [B] each
        return 1 - torch.minimum(gained / possible, possible / gained)
