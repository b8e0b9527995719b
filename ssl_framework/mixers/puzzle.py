"""Puzzle Mix: Kim, Choo and Song, Puzzle Mix: Exploiting Saliency and Local Statistics for Optimal Mixup, ICML 2020
(arXiv:2009.06962), equation 3 with masks on a grid of cells.

Every cell shows z of the own image and 1 - z of the partner. The mask z loses little of either image's score, changes
little from cell to cell, joins cells where the images fit, and has about the drawn share: the lowest sum of

    z_c theirs_c + (1 - z_c) own_c - eta / g^2 log Binomial(z_c; l)                       over the g x g cells c
    beta / (16 g) ((z_c - z_d)^2 + gamma seam_cd(z_c, z_d))                               over neighbours c, d

The minimum is exact: the grid is small, so the cells are taken one after another with the best cost for every mask of
the g cells before (dynamic programming), for all samples at once and without leaving the device.

B samples, C channels, h x w pixels, g cells along a side, n = g * g cells, L levels of the mask.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, Several, guarded
from ssl_framework.mixers.base import Context
from ssl_framework.mixers.rules import Share, owned, partners
from ssl_framework.mixers.saliency import by_cell
from ssl_framework.mixers.scores import Score, shares

STATES = 1024
"""Masks of the last g cells that are kept apart: levels ** blocks may not exceed it."""


@guarded
class PuzzleMix:
    """Cells of two images, chosen by what each has to show there.

    Args:
        score: how much each place of an image matters (the paper's saliency).
        alpha: of the Beta distribution of l, the share that the mask is pulled towards.
        per_sample: a share for every sample instead of one for the batch; the mask is always the sample's own.
        blocks: cells along a side (g), at least 2.
        levels: values of the mask, from 0 to 1 in equal steps (L), at least 2.
        beta: price of a change of the mask between neighbours, at least 0.
        gamma: price of a seam, the mean absolute difference of the pixels at both sides, at least 0.
        eta: weight of the share l, at least 0.
        transport: price of moving a cell over the whole image (the paper's xi), at least 0; ``None``: cells stay.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        score: Score,
        alpha: Positive,
        per_sample: bool,
        blocks: Annotated[int, Interval(ge=2, le=64)],
        levels: Several,
        beta: NonNegative,
        gamma: NonNegative,
        eta: NonNegative,
        transport: NonNegative | None,
    ) -> None:
        if levels**blocks > STATES:
            raise ValueError(
                f"mixer.rule.blocks is {blocks} and levels {levels}: levels ** blocks must be at most {STATES}"
            )
        self.score = score
        self.share = Share(alpha, per_sample, dominant=False)
        self.blocks = blocks
        self.levels = levels
        self.beta = beta / blocks / 16  # as the authors' code scales it
        self.gamma = gamma
        self.eta = eta / blocks**2
        self.transport = transport

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and how much of each pixel is of whom [B, 2, h, w].

        Raises:
            ValueError: there are more cells than pixels, or cells that are to move differ in size.
        """
        h, w = x.shape[2:]
        other = partners(x, source)  # [B, C, h, w]
        score = shares(F.adaptive_avg_pool2d(self.score(x, context), self.blocks).float())  # [B, g, g]
        theirs = score[source[:, 1]]  # [B, g, g]
        z = torch.linspace(0, 1, self.levels, device=x.device)  # [L]
        cells = z * theirs[..., None] + (1 - z) * score[..., None]  # [B, g, g, L]
        cells = cells + self.eta * rarity(self.share(x, context), self.levels)[:, None, None]  # [B, g, g, L]
        mask = z[lowest(cells, *self.borders(x, other, z))]  # [B, g, g]
        own = by_cell(mask, h, w, "mixer.rule.blocks")[:, None]  # [B, 1, h, w]
        if self.transport is not None:
            moves = [moves_of(s, m > 0, self.transport) for s, m in ((score, mask), (theirs, 1 - mask))]  # 2 x [B, n]
            x, other = moved(x, moves[0], self.blocks), moved(other, moves[1], self.blocks)  # [B, C, h, w] each
            if context.taken is not None:
                shown = [left(m, move) for m, move in zip((mask, 1 - mask), moves, strict=True)]  # 2 x [B, g, g]
                pixels = [by_cell(m, h, w, "mixer.rule.blocks") for m in shown]  # 2 x [B, h, w]
                context.taken.append(torch.stack(pixels, dim=1))  # [B, 2, h, w]
        return torch.lerp(other, x, own.to(x.dtype)), owned(own)

    def borders(self, x: Tensor, other: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Costs between a cell and the one below [B, g - 1, g, L, L], and the one to the right [B, g, g - 1, L, L]."""
        below, beside = seams(x, other, self.blocks), seams(x.mT, other.mT, self.blocks).mT  # [2, 2, B, ., .] each
        first, second = z[:, None], z  # [L, 1], [L]
        costs = []
        for seam in (below, beside):
            (pp, po), (op, oo) = seam[..., None, None]  # [B, ., ., 1, 1] each; p: partner, o: own
            # Seams of masks between 0 and 1, as the authors' code has them; for 0 and 1, that seam and a constant.
            fit = (1 - first) * (pp + po) + first * (op + oo) + (1 - second) * (pp + op) + second * (po + oo)
            change = (first - second).square() * (1 + self.gamma * (op + po - oo - pp) / 2)
            costs.append(self.beta * (change + self.gamma * fit / 2))
        return costs[0], costs[1]


def rarity(share: Tensor, levels: int) -> Tensor:
    """``-log Binomial(k; L - 1, l)`` of the levels k = 0 .. L - 1: [B] -> [B, L]."""
    most = levels - 1
    ways = [math.log(math.comb(most, k)) for k in range(levels)]
    share = share.clamp(1e-4, 1 - 1e-4)  # the square, of three levels, is the smallest the authors' code knows
    return torch.stack(
        [-ways[k] - k * share.log() - (most - k) * (1 - share).log() for k in range(levels)], dim=1
    )  # [B, L]


def seams(x: Tensor, other: Tensor, cells: int) -> Tensor:
    """How badly a cell fits the one below: mean absolute difference of the two rows of pixels that meet.

    Args:
        x, other: [B, C, h, w] own images and partners.
        cells: along a side.

    Returns:
        [2, 2, B, g - 1, g]: the upper cell shows the partner (0) or the own image (1), the lower likewise.
    """
    both = torch.stack([other, x])  # [2, B, C, h, w]
    h = x.shape[2]
    first = (torch.arange(1, cells, device=x.device) * h + cells - 1) // cells  # [g - 1] first rows of lower cells
    upper, lower = both.index_select(3, first - 1), both.index_select(3, first)  # [2, B, C, g - 1, w] each
    differences = (upper[:, None] - lower).float().abs().mean(dim=3)  # [2, 2, B, g - 1, w]
    return F.adaptive_avg_pool1d(differences.flatten(0, 2), cells).unflatten(0, differences.shape[:3])


def lowest(cells: Tensor, below: Tensor, beside: Tensor) -> Tensor:
    """Labels of a grid with the lowest sum of costs, exactly, for a whole batch.

    Args:
        cells: [B, rows, columns, L] cost of each label; at least two columns.
        below: [B, rows - 1, columns, L, L] cost of a cell's label and that of the cell below.
        beside: [B, rows, columns - 1, L, L] and of the cell to the right.

    Returns:
        [B, rows, columns] int64 labels.
    """
    count, rows, columns, levels = cells.shape
    # A state is the labels of the last so many cells, the latest one innermost: the oldest of them lies above the next
    # cell, the latest at its left.
    best, choices = cells.new_zeros(count, levels**columns), []  # [B, L ** columns]
    for row in range(rows):
        for column in range(columns):
            states = best.view(count, levels, -1, levels, 1)  # [B, L above, between, L left, 1]
            if row > 0:
                states = states + below[:, row - 1, column][:, :, None, None]  # [B, L above, between, L left, L]
            cost, above = states.min(dim=1)  # [B, between, L left, L or 1]
            if column > 0:
                cost = cost + beside[:, row, column - 1][:, None]  # [B, between, L left, L]
            best = (cost + cells[:, row, column][:, None, None]).flatten(1)  # [B, L ** columns]
            choices.append(above.expand(*above.shape[:3], levels).flatten(1).to(torch.int16))  # [B, L ** columns]
    state = best.argmin(dim=1, keepdim=True)  # [B, 1]
    labels = []
    for above in reversed(choices):
        labels.append(state % levels)
        state = above.gather(1, state) * levels ** (columns - 1) + state // levels  # [B, 1]
    return torch.cat(labels[::-1], dim=1).view(count, rows, columns)


def moves_of(score: Tensor, shown: Tensor, price: float) -> Tensor:
    """Which cell of an image goes to which place, so that those that matter are shown (algorithm 1 of the paper).

    Each cell asks for the place where ``price * distance^2 - score * shown`` is lowest. Where several ask for one
    place, the lowest gets it; the others ask for their next choice. There are as many rounds as cells; a place that
    nobody has asked for by then shows the cell that was there.

    Args:
        score: [B, g, g] of the cells.
        shown: [B, g, g] bool, the places that the mask shows.
        price: of moving over a side of the image.

    Returns:
        [B, n] int64, for each place the cell that it gets.
    """
    g = score.shape[1]
    place = torch.arange(g * g, device=score.device)  # [n]
    rows, columns = place // g, place % g  # [n] each
    distance = ((rows[:, None] - rows).square() + (columns[:, None] - columns).square()) / (g - 1) ** 2  # [n, n]
    cost = price * distance - score.flatten(1)[:, :, None] * shown.flatten(1)[:, None]  # [B, n, n places]
    for _ in range(g * g):
        asked = place == cost.argmin(dim=2, keepdim=True)  # [B, n, n places]
        offers = torch.where(asked, cost, torch.inf)  # [B, n, n places]
        won = place[:, None] == offers.argmin(dim=1, keepdim=True)  # [B, n, n places]
        cost = torch.where(asked & ~won, torch.inf, cost)
    asked = (place == cost.argmin(dim=2, keepdim=True)) & cost.isfinite()  # [B, n, n places]
    return torch.where(asked.any(dim=1), torch.where(asked, cost, torch.inf).argmin(dim=1), place)  # [B, n places]


def moved(x: Tensor, moves: Tensor, g: int) -> Tensor:
    """Images [B, C, h, w] with the cell ``moves`` [B, n] of g x g in each place.

    Raises:
        ValueError: g does not divide the sides.
    """
    count, channels, h, w = x.shape
    if h % g or w % g:
        raise ValueError(
            f"mixer.rule.blocks is {g}, which does not divide views of {h} x {w} pixels: choose one that does, or set "
            "mixer.rule.transport=null"
        )
    cells = x.view(count, channels, g, h // g, g, w // g).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [B, n, C, ., .]
    there = cells[torch.arange(count, device=x.device)[:, None], moves].unflatten(1, (g, g))  # [B, g, g, C, ., .]
    return there.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def left(shown: Tensor, moves: Tensor) -> Tensor:
    """How much of each cell is seen, where it went: at the place of two that shows more of it, 0 where at none.

    Args:
        shown: [B, g, g] in [0, 1], how much each place shows of the image.
        moves: [B, n] as of ``moves_of``.

    Returns:
        [B, g, g] in [0, 1].
    """
    seen = shown.flatten(1)  # [B, n places]
    return torch.zeros_like(seen).scatter_reduce(1, moves, seen, "amax").view(shown.shape)
