"""Losses of metric learning in the one form that Metrix gives them (arXiv:2106.04990, section 3): of an anchor a,

``l(a) = sigma_pos(sum over positives of w rho_pos(s)) + sigma_neg(sum over negatives of w rho_neg(s))``

with similarities s and weights w, which are one for clean examples. A mixture stands in both sums.

    Contrastive      Hadsell et al., CVPR 2006, without the squares
    MultiSimilarity  Wang et al., CVPR 2019 (arXiv:1904.06627), eq. 15
    ProxyAnchor      Kim et al., CVPR 2020 (arXiv:2003.13911), eq. 4: the anchors are learned, one a class

A anchors, M examples, D dimensions; B samples of this rank, W ranks.
"""

from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from ssl_framework.arguments import Classes, Count, Positive, guarded
from ssl_framework.distributed import gather, rank
from ssl_framework.functional import unit


class Anchors(NamedTuple):
    """What examples are compared with."""

    z: Tensor  # [A, D] unit rows
    label: Tensor  # [A] int64
    own: Tensor | None  # [A] int64: where the anchors stand among all examples; None: they are no examples


class MetricLoss(nn.Module):
    """Base of the losses.

    Attributes:
        num_classes: labels it has room for; ``None`` if it does not count them.
    """

    num_classes: int | None = None

    def anchors(self, z: Tensor, label: Tensor) -> Anchors:
        """This rank's own rows [B, D] and their classes [B], unless a loss has anchors of its own."""
        return Anchors(z, label, rank() * len(z) + torch.arange(len(z), device=z.device))

    def mined(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Which clean pairs count, of [A, M] bool each; all of them, unless a loss chooses."""
        return positive, negative

    def forward(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The mean over this rank's anchors, whose mean over the ranks is that over all anchors.

        Args:
            similarity: [A, M] of anchors and examples.
            positive, negative: [A, M] weights in [0, 1]; 0: no such pair.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")


@guarded
class Contrastive(MetricLoss):
    """``relu(d - m_pos)`` of positives and ``relu(m_neg - d)`` of negatives, d the distance of unit vectors.

    Args:
        positive_margin: m_pos; positives closer than that do not count.
        negative_margin: m_neg; negatives further apart than that do not count.
    """

    def __init__(
        self,
        positive_margin: Annotated[float, Interval(ge=0, lt=2)],
        negative_margin: Annotated[float, Interval(gt=0, le=2)],
    ) -> None:
        super().__init__()
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin

    def forward(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """As in ``MetricLoss``; each sum is divided by how many of its terms are not zero, on all ranks."""
        distance = (2 - 2 * similarity).clamp(min=1e-12).sqrt()  # [A, M]; at 0 the root has no gradient
        attract = positive * (distance - self.positive_margin).relu()  # [A, M]
        repel = negative * (self.negative_margin - distance).relu()  # [A, M]
        return mean_of_active(attract) + mean_of_active(repel)


@guarded
class MultiSimilarity(MetricLoss):
    """``log(1 + sum exp(-alpha (s - base))) / alpha + log(1 + sum exp(beta (s - base))) / beta``.

    Args:
        alpha: of the positives.
        beta: of the negatives.
        base: lambda, the similarity where the terms pass one.
        mining_margin: epsilon. A clean negative counts if it is more similar than the least similar positive less
            epsilon, a clean positive if it is less similar than the most similar negative plus epsilon; ``None``: all
            count.
    """

    def __init__(self, alpha: Positive, beta: Positive, base: float, mining_margin: float | None) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.mining_margin = mining_margin

    def mined(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """As in ``MetricLoss``; without a positive no negative counts, and without a negative no positive."""
        if self.mining_margin is None:
            return positive, negative
        similarity = similarity.detach()
        least = similarity.masked_fill(~positive, float("inf")).amin(dim=1, keepdim=True)  # [A, 1]
        most = similarity.masked_fill(~negative, float("-inf")).amax(dim=1, keepdim=True)  # [A, 1]
        return (
            positive & (similarity < most + self.mining_margin),
            negative & (similarity > least - self.mining_margin),
        )

    def forward(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """As in ``MetricLoss``."""
        above = similarity - self.base  # [A, M]
        attract = log_one_plus(-self.alpha * above, positive) / self.alpha  # [A]
        repel = log_one_plus(self.beta * above, negative) / self.beta  # [A]
        return (attract + repel).mean()


@guarded
class ProxyAnchor(MetricLoss):
    """``log(1 + sum exp(-alpha (s - delta)))``, the mean over the proxies that have a positive, plus
    ``log(1 + sum exp(alpha (s + delta)))``, the mean over all proxies.

    Args:
        num_classes: as many proxies.
        dim: D, of the embedding.
        alpha: scale of the similarities.
        margin: delta.
    """

    def __init__(self, num_classes: Classes, dim: Count, alpha: Positive, margin: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.alpha = alpha
        self.margin = margin
        self.proxies = nn.Parameter(torch.empty(num_classes, dim))  # [num_classes, D]
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")  # as the authors' code

    def anchors(self, z: Tensor, label: Tensor) -> Anchors:
        """The proxies, alike on every rank."""
        return Anchors(unit(self.proxies.to(z.dtype)), torch.arange(len(self.proxies), device=z.device), None)

    def forward(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """As in ``MetricLoss``; every rank has all anchors."""
        attract = log_one_plus(-self.alpha * (similarity - self.margin), positive)  # [A]
        repel = log_one_plus(self.alpha * (similarity + self.margin), negative)  # [A]
        return attract.sum() / (positive > 0).any(dim=1).sum().clamp(min=1) + repel.mean()


def log_one_plus(exponent: Tensor, weight: Tensor) -> Tensor:
    """``log(1 + sum_j w_ij exp(e_ij))``: [A, M] each -> [A]."""
    return F.pad(exponent + weight.log(), (1, 0)).logsumexp(dim=1)


def mean_of_active(terms: Tensor) -> Tensor:
    """The mean of the terms [A, M] of all ranks that are above zero, as a mean over this rank's anchors; 0 of none."""
    active = gather((terms > 0).sum(dim=1)).to(terms.dtype)  # [W * A]
    return terms.sum(dim=1).mean() / active.mean().clamp(min=1 / len(active))
