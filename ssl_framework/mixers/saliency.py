"""Boxes, cells and pixels of the partner, taken where it has something to show.

    SaliencyMix    Uddin et al., ICLR 2021 (arXiv:2006.01791): a box around the partner's highest score
    AttentiveMix   Walawalkar et al., ICASSP 2020 (arXiv:2003.13048): the partner's cells with the highest scores
    GuidedMixup    Kang and Kim, AAAI 2023 (arXiv:2306.16612): every pixel by both scores, partners that differ most

B samples, C channels, h x w pixels, g cells along a side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Positive, Several, guarded
from ssl_framework.mixers.base import Context
from ssl_framework.mixers.rules import Share, beta_share, box, owned, partners
from ssl_framework.mixers.scores import Score
from ssl_framework.types import Batch


@guarded
class SaliencyMix:
    """A box with area 1 - l, l ~ Beta(alpha, alpha), around the highest score of the partner, at the same place.

    Args:
        score: where the partner has something to show.
        alpha: of the Beta distribution.
        per_sample: an area for every sample instead of one for the batch; the place is always the sample's own.
        dominant: l becomes max(l, 1 - l), so that the own image keeps at least about half.
    """

    def __init__(self, score: Score, alpha: Positive, per_sample: bool, dominant: bool) -> None:
        self.score = score
        self.share = Share(alpha, per_sample, dominant)

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and of whom each pixel is [B, 2, h, w]."""
        other = partners(x, source)  # [B, C, h, w]
        score = self.score(x, context)  # [B, h', w']
        rows, columns = score.shape[1:]
        highest = score.flatten(1).argmax(dim=1)[source[:, 1]]  # [B]
        centre = torch.stack([(highest // columns + 0.5) / rows, (highest % columns + 0.5) / columns])  # [2, B]
        where = box(centre, (1 - self.share(x, context)).sqrt(), x.shape[2:])  # [B, 1, h, w]
        return torch.where(where, other, x), owned((~where).float())


@guarded
class AttentiveMix:
    """The partner's cells with the highest scores: a share l ~ Beta(alpha, beta) of all cells, at least one.

    Args:
        score: where the partner has something to show.
        alpha, beta: of the Beta distribution.
        per_sample: a number of cells for every sample instead of one for the batch.
        grid: cells along a side, at most the pixels.
    """

    def __init__(self, score: Score, alpha: Positive, beta: Positive, per_sample: bool, grid: Several) -> None:
        self.score = score
        self.alpha = alpha
        self.beta = beta
        self.per_sample = per_sample
        self.grid = grid

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``SaliencyMix``."""
        other = partners(x, source)  # [B, C, h, w]
        score = F.adaptive_avg_pool2d(self.score(x, context), self.grid).flatten(1)[source[:, 1]]  # [B, g * g]
        share = beta_share(self.alpha, self.beta, x, self.per_sample, context)  # [B]
        count = (share * self.grid**2).floor().clamp(min=1)  # [B]
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # [B, g * g], 0 is the highest
        chosen = (rank < count[:, None]).unflatten(1, (self.grid, self.grid))  # [B, g, g]
        where = by_cell(chosen, x.shape[2], x.shape[3], "mixer.rule.grid")[:, None]  # [B, 1, h, w]
        return torch.where(where, other, x), owned((~where).float())


@guarded
class GuidedMixup:
    """``m x + (1 - m) other`` with ``m = S / (S + S_other)`` at every pixel, S the score.

    Args:
        score: what every pixel has to show.
    """

    def __init__(self, score: Score) -> None:
        self.score = score

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and how much of each pixel is of whom [B, 2, h, w]."""
        other = partners(x, source)  # [B, C, h, w]
        score = self.score(x, context)[:, None]  # [B, 1, h', w']
        score = F.interpolate(score, x.shape[2:], mode="bilinear") if score.shape[2:] != x.shape[2:] else score
        both = score + score[source[:, 1]]  # [B, 1, h, w]
        own = torch.where(both > 0, score / torch.where(both > 0, both, 1.0), 0.5)  # [B, 1, h, w]
        return torch.lerp(other, x, own.to(x.dtype)), owned(own)


@guarded
class MostDifferent:
    """One circle through all samples, greedily: from the pair with the most different scores on, each
    one's partner is the sample that differs most among those that are nobody's partner yet, and the last one's is the
    first.

    Args:
        score: whose distance counts, Euclidean over all places.
    """

    def __init__(self, score: Score) -> None:
        self.score = score

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, 1] int64."""
        assert context.images is not None
        score = self.score(context.images, context).flatten(1)  # [B, h' * w']
        count, every = len(score), torch.arange(len(score), device=score.device)
        with torch.autocast(score.device.type, enabled=False):
            apart = torch.cdist(score, score).masked_fill(every[:, None] == every, -1.0)  # [B, B]
        first = apart.flatten().argmax(dim=0, keepdim=True) // count  # [1]
        partner, now, free = torch.empty_like(every), first, every != first  # [B], [1], [B]
        for _ in range(count - 1):
            furthest = torch.where(free, apart.index_select(0, now)[0], -2.0).argmax(dim=0, keepdim=True)  # [1]
            partner = torch.where(every == now, furthest, partner)
            now, free = furthest, free & (every != furthest)
        return torch.where(every == now, first, partner)[:, None]


def by_cell(value: Tensor, h: int, w: int, key: str) -> Tensor:
    """What every pixel's cell has: [B, g, g] -> [B, h, w]; cells differ by a pixel where g does not divide the side.

    Args:
        value: of the cells.
        h, w: pixels.
        key: that sets g, for the error.

    Raises:
        ValueError: there are more cells than pixels.
    """
    cells = value.shape[1]
    if cells > min(h, w):
        raise ValueError(f"{key} is {cells}, but the views have {h} x {w} pixels: lower it")
    row, column = (torch.arange(side, device=value.device) * cells // side for side in (h, w))  # [h], [w]
    return value[:, row[:, None], column]  # [B, h, w]
