"""Losses against a memory of all samples: Wang and Liu, Understanding the Behaviour of Contrastive Loss, CVPR 2021
(arXiv:2012.09740), with the memory of Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
Discrimination, CVPR 2018 (arXiv:1805.01978).

Every sample has a row in the memory, the moving average of its embeddings; one view of a sample is drawn to its own row
and pushed from those of other samples. The losses differ in which rows push, all or the nearest, and how.
"""

from typing import Protocol

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Count, Positive, PositiveFraction, guarded
from ssl_framework.functional import by_tiles, nce, tolerance, uniformity, unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


class BankLoss(Protocol):
    """One of the losses of this file."""

    def __call__(self, q: Tensor, rows: Tensor, own: Tensor) -> Tensor:
        """Embeddings [B, D], the memory [N, D], both unit rows, and each sample's row [B] int64 -> loss [B]."""
        ...


@guarded
class InstanceDiscrimination(Objective):
    """A loss of one view against the memory, which starts with random rows, as in Wu et al.'s code.

    The memory takes 4 N D bytes on every rank and in every checkpoint (26 MB for CIFAR and D = 128, 656 MB for
    ImageNet), and as much again during a step. Logged for this rank's batch: uniformity, with the sign of Wang and
    Isola (this paper prints it without), and, where there are labels, tolerance.

    Args:
        dim: D, length of a row.
        momentum: share of the old row that is kept when a sample is seen.
        loss: which of them.
        head: name of the student's head whose output is compared.
    """

    requires = frozenset({"index"})
    num_views = (1, 1)
    bank: SampleBank

    def __init__(self, dim: Count, momentum: BelowOne, loss: BankLoss, head: str = "projector") -> None:
        super().__init__()
        self.dim = dim
        self.momentum = momentum
        self.loss = loss
        self.head = head
        self.reads = (head,)

    def allocate(self, num_samples: int) -> None:
        self.bank = SampleBank({"row": unit(torch.randn(num_samples, self.dim))})

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (q,) = map(unit, outputs_of(student, self.head))  # [B, D]
        rows = self.bank.column("row")  # [N, D]
        out = {"loss": self.loss(q, rows, batch.index).mean(), "uniformity": uniformity(q.detach())}
        if batch.label is not None:
            out["tolerance"] = tolerance(q.detach(), batch.label)
        mean = self.momentum * rows[batch.index] + (1 - self.momentum) * q.detach()  # [B, D]
        self.bank.write(batch.index, {"row": unit(mean)})
        return out


@guarded
class Contrastive:
    """Softmax over the whole memory, exactly; Wu et al.'s code has that too, and by default draws 4096 rows.

    Args:
        temperature: tau.
    """

    def __init__(self, temperature: Positive) -> None:
        self.temperature = temperature

    def __call__(self, q: Tensor, rows: Tensor, own: Tensor) -> Tensor:
        return nce(q, rows, own, self.temperature)


@guarded
class HardContrastive:
    """Softmax over the own row and the nearest others.

    Args:
        temperature: tau.
        share: of the other rows, the nearest ones, that push (alpha in the paper); in (0, 1].
    """

    def __init__(self, temperature: Positive, share: PositiveFraction) -> None:
        self.temperature = temperature
        self.share = share

    def __call__(self, q: Tensor, rows: Tensor, own: Tensor) -> Tensor:
        positive = (q * rows[own]).sum(dim=1, keepdim=True)  # [B, 1]
        negatives = nearest(q, rows, own, self.share)  # [B, K]
        logits = torch.cat([positive, negatives], dim=1) / self.temperature  # [B, 1 + K]
        return logits.logsumexp(dim=1) - logits[:, 0]


@guarded
class SimpleContrastive:
    """``-s_ii + weight mean_j s_ij`` over all other rows: every negative counts alike.

    Args:
        weight: lambda times the number of negatives, so that it does not depend on the size of the data set. 1 is the
            limit of ``Contrastive`` for large temperatures, times tau.
    """

    def __init__(self, weight: Positive) -> None:
        self.weight = weight

    def __call__(self, q: Tensor, rows: Tensor, own: Tensor) -> Tensor:
        positive = rows[own]  # [B, D]
        # Inner products are linear: the mean similarity is the similarity to the mean row.
        others = (rows.sum(dim=0) - positive) / (len(rows) - 1)  # [B, D]
        return (q * (self.weight * others - positive)).sum(dim=1)


@guarded
class HardSimpleContrastive:
    """``-s_ii + weight mean_j s_ij`` over the nearest other rows.

    Args:
        weight: lambda times the number of negatives.
        share: of the other rows, the nearest ones, that push (alpha in the paper); in (0, 1].
    """

    def __init__(self, weight: Positive, share: PositiveFraction) -> None:
        self.weight = weight
        self.share = share

    def __call__(self, q: Tensor, rows: Tensor, own: Tensor) -> Tensor:
        positive = (q * rows[own]).sum(dim=1)  # [B]
        return self.weight * nearest(q, rows, own, self.share).mean(dim=1) - positive


def nearest(q: Tensor, rows: Tensor, own: Tensor, share: float) -> Tensor:
    """Similarities of each embedding to the rows nearest to it, its own row left out.

    Args:
        q: [B, D].
        rows: [N, D], at least two.
        own: [B] int64.
        share: of the N - 1 others; at least one row is taken.

    Returns:
        [B, K] in no particular order; which rows they are is a choice without gradient.
    """
    count = max(1, round(share * (len(rows) - 1)))

    def largest(rows: Tensor, q: Tensor, own: Tensor) -> tuple[Tensor]:
        s = (q @ rows.T).scatter(1, own[:, None], float("-inf"))  # [R, N]
        return (s.topk(count, dim=1, sorted=False).values,)  # [R, K]

    return by_tiles(largest, rows, q, own)[0]
