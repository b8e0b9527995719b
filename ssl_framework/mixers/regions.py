"""A region of the partner in the place of another region of one's own.

    SMMix    Chen et al., ICCV 2023 (arXiv:2212.12977): the partner's square with the highest score on the own square
             with the lowest
    SnapMix  Huang et al., AAAI 2021 (arXiv:2012.04846): a box of the partner, resized into a box of another size

Both tell label laws which pixels of the partner are shown (``Mix.taken``), for those are not where they came from.

B samples, C channels, h x w pixels, h' x w' places of a score map.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Positive, PositiveFraction, guarded
from ssl_framework.mixers.base import Context, uniform
from ssl_framework.mixers.rules import Share, inside, partners, pasted, resampling
from ssl_framework.mixers.scores import Score

Part = tuple[Tensor, Tensor]
"""First pixel and length of a part of an axis, whole numbers [B] each."""


@guarded
class SMMix:
    """The partner's square with the highest score in the place of the own square with the lowest.

    Args:
        score: of whole squares the sum counts; the paper takes the attention of the student's class token.
        least, most: the square's side in places of the score map is a whole number, uniform between these shares of the
            map's shorter side, rounded down, at least 1.
        per_sample: a side for every sample instead of one for the batch; the places are always the sample's own.
    """

    def __init__(self, score: Score, least: PositiveFraction, most: PositiveFraction, per_sample: bool) -> None:
        if not least <= most:
            raise ValueError(f"mixer.rule.least is {least} and most {most}: it takes least <= most")
        self.score = score
        self.least = least
        self.most = most
        self.per_sample = per_sample

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and of whom each pixel is [B, 2, h, w]."""
        other, score = partners(x, source), self.score(x, context)  # [B, C, h, w], [B, h', w']
        shorter = min(score.shape[1:])
        low, high = (max(int(share * shorter), 1) for share in (self.least, self.most))
        draw = uniform((len(x) if self.per_sample else 1,), x, context.draws(self.per_sample)).expand(len(x))  # [B]
        side = low + (draw * (high - low + 1)).long().clamp(max=high - low)  # [B] places
        sums = squares(score, side)  # [B, h', w'], infinite where a square does not fit
        lowest = sums.flatten(1).argmin(dim=1)  # [B]
        # The partner's highest square of this sample's own size.
        highest = squares(score[source[:, 1]], side).masked_fill(sums.isinf(), -1.0).flatten(1).argmax(dim=1)  # [B]
        to, of = (
            [
                pixels(place, side, places, size)
                for place, places, size in zip(
                    (where // score.shape[2], where % score.shape[2]), score.shape[1:], x.shape[2:], strict=True
                )
            ]
            for where in (lowest, highest)
        )
        return moved(x, other, to, of, context)


@guarded
class SnapMix:
    """A box of the partner with area 1 - l', resized into a box of the own image with area 1 - l; l, l' ~ Beta(alpha,
    alpha). Both are cut where they leave their image. The paper's labels are ``labels.ScoreMass``.

    Args:
        alpha: of the Beta distributions.
        per_sample: boxes for every sample instead of for the batch.
    """

    def __init__(self, alpha: Positive, per_sample: bool) -> None:
        self.share = Share(alpha, per_sample, dominant=False)
        self.per_sample = per_sample

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``SMMix``; resized pixels are means of the partner's."""
        to, of = self.box(x, context), self.box(x, context)
        return moved(x, partners(x, source), to, of, context)

    def box(self, x: Tensor, context: Context) -> list[Part]:
        """Rows and columns of a box, at least one pixel each way."""
        count = len(x) if self.per_sample else 1
        side = (1 - self.share(x, context)).sqrt()  # [B]
        centre = uniform((2, count), x, context.draws(self.per_sample)).expand(2, len(x))  # [2, B]
        found = []
        for middle, size in zip(centre, x.shape[2:], strict=True):
            first = (middle * size - side * size / 2).round().clamp(0, size - 1)  # [B]
            last = (middle * size + side * size / 2).round().clamp(max=size)  # [B]
            found.append((first, (last - first).clamp(min=1)))
        return found


def squares(score: Tensor, side: Tensor) -> Tensor:
    """Sum of the score over the square that begins at each place: [B, h', w'], infinite where it leaves the map.

    Args:
        score: [B, h', w'].
        side: [B] int64 places, at most the shorter side.
    """
    _, h, w = score.shape
    sums = F.pad(score.cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))  # [B, h' + 1, w' + 1]
    row, column = torch.arange(h, device=score.device), torch.arange(w, device=score.device)
    below, beside = row + side[:, None], column + side[:, None]  # [B, h'], [B, w']
    sample = torch.arange(len(score), device=score.device)[:, None, None]
    ends = [(row[None], below.clamp(max=h)), (column[None], beside.clamp(max=w))]
    corner = [[sums[sample, r[:, :, None], c[:, None]] for c in ends[1]] for r in ends[0]]  # 2 x 2 of [B, h', w']
    total = corner[1][1] - corner[0][1] - corner[1][0] + corner[0][0]  # [B, h', w']
    fits = (below <= h)[:, :, None] & (beside <= w)[:, None]  # [B, h', w']
    return torch.where(fits, total, torch.inf)


def pixels(place: Tensor, side: Tensor, places: int, size: int) -> Part:
    """Some places of an axis of a map as pixels: as many wherever they begin."""
    return (place * size // places).float(), (side * size // places).clamp(min=1).float()


def moved(x: Tensor, other: Tensor, to: Sequence[Part], of: Sequence[Part], context: Context) -> tuple[Tensor, Tensor]:
    """A box of another image, resized bilinearly into a box of one's own.

    Args:
        x, other: [B, C, h, w].
        to, of: rows and columns of the box that is filled, and of that which is shown.
        context: is told which pixels of the other are shown.

    Returns:
        Mixed images [B, C, h, w], and of whom each pixel is [B, 2, h, w].
    """
    for axis, size in enumerate(x.shape[2:]):
        weights = resampling(*to[axis], *of[axis], size).to(x.dtype)  # [B, size, size]
        with torch.autocast(x.device.type, enabled=False):  # half precision would round the pixels
            other = torch.einsum(("bij,bcjw->bciw", "bij,bchj->bchi")[axis], weights, other)  # [B, C, h, w]
    filled, shown = (
        (inside(r, r + n, x.shape[2])[:, :, None] & inside(c, c + m, x.shape[3])[:, None])[:, None].float()
        for (r, n), (c, m) in (to, of)
    )  # [B, 1, h, w] each
    if context.taken is not None:
        context.taken.append(torch.cat([1 - filled, shown], dim=1))  # [B, 2, h, w]
    return pasted(x, other, filled)
