"""Patches that are hidden in blocks: BEiT's (Bao et al., ICLR 2022, arXiv:2106.08254, algorithm 1), of which iBOT and
data2vec take some, and I-JEPA's, which also say what is to be predicted (Assran et al., CVPR 2023, arXiv:2301.08243,
section 3).

All samples of a batch are drawn at once. B samples, h x w = N patches, T target blocks of n patches.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, Natural, OpenFraction, Positive, PositiveFraction, guarded
from ssl_framework.masks.base import Drawn, Draws, ViewMasker, first, number_of, refuse_smaller

BLOCKS = 12
"""Blocks that are tried for each sample; what is still missing then is hidden at random."""


@guarded
class BlockMask(ViewMasker):
    """Hides rectangles until a share of the patches is hidden; the number is then made exact at random.

    Args:
        ratio: least and greatest share that is hidden, drawn for each sample; equal: always the same.
        probability: of a sample being masked at all.
        smallest: patches of the smallest block (BEiT: 16 of 196).
        aspect: least height over width of a block; the greatest is its inverse (BEiT: 0.3).
        views: positions of the views that are masked; ``None``: all that the student encodes.

    Raises:
        ValueError: the least share is above the greatest.
    """

    def __init__(
        self,
        ratio: Annotated[Sequence[OpenFraction], Len(2, 2)],
        probability: Fraction,
        smallest: Count,
        aspect: PositiveFraction,
        views: Annotated[Sequence[Natural], Len(1)] | None = None,
    ) -> None:
        super().__init__(views)
        if ratio[0] > ratio[1]:
            raise ValueError(f"masker.ratio is {list(ratio)}: give the least share first")
        self.ratio = tuple(ratio)
        self.probability = probability
        self.smallest = smallest
        self.aspect = aspect

    @property
    def even(self) -> bool:
        return self.ratio[0] == self.ratio[1] and self.probability == 1

    def draw(self, count: int, grid: tuple[int, int], draws: Draws, device: torch.device) -> Drawn:
        total = math.prod(grid)
        low, high = (number_of(share, total) for share in self.ratio)
        chance = draws.uniform(2, count, device=device)  # [2, B]
        wanted = low + (chance[0] * (high + 1 - low)).long().clamp(max=high - low)  # [B]
        wanted = wanted * (chance[1] < self.probability)  # [B]
        hidden = torch.zeros(count, total, dtype=torch.bool, device=device)  # [B, N]
        least = min(self.smallest, total)
        for _ in range(BLOCKS):
            area, slant, *corner = draws.uniform(4, count, device=device)  # [B] each
            missing = (wanted - hidden.sum(dim=1)).clamp(min=0)  # [B]
            area = least + area * (missing - least).clamp(min=0)  # [B]
            slant = torch.exp((2 * slant - 1) * -math.log(self.aspect))  # [B], from the aspect to its inverse
            sides = torch.stack([(area * slant).sqrt(), (area / slant).sqrt()])  # [2, B]
            block = blocks(sides.round(), torch.stack(corner), grid)  # [B, N]
            hidden |= block & (missing > 0)[:, None]
        score = hidden + draws.uniform(count, total, device=device)  # [B, N]; what lies in a block comes first
        return Drawn(first(score, wanted))


@guarded
class IJEPAMask(ViewMasker):
    """One context block, which the student sees without the target blocks; all else is hidden.

    The sizes are drawn once a step, the places for each sample. A context has as many patches in every sample as the
    smallest one of the batch.
    Differs: what is left out for that is drawn, where the authors' code cuts off the last patches.

    Args:
        targets: T, blocks to be predicted.
        target_scale: least and greatest share of the patches in a target block.
        target_aspect: least and greatest height over width of a target block.
        context_scale: likewise of the context block, whose height is its width.
        views: positions of the views that are masked; ``None``: all that the student encodes.
    """

    gives_targets = True

    def __init__(
        self,
        targets: Count,
        target_scale: Annotated[Sequence[PositiveFraction], Len(2, 2)],
        target_aspect: Annotated[Sequence[Positive], Len(2, 2)],
        context_scale: Annotated[Sequence[PositiveFraction], Len(2, 2)],
        views: Annotated[Sequence[Natural], Len(1)] | None = None,
    ) -> None:
        super().__init__(views)
        self.targets = targets
        self.target_scale = target_scale
        self.target_aspect = target_aspect
        self.context_scale = context_scale

    def check(self, rows: int, columns: int) -> None:
        refuse_smaller(rows, columns, 4, type(self).__name__)

    def draw(self, count: int, grid: tuple[int, int], draws: Draws, device: torch.device) -> Drawn:
        chance = draws.alike(3).tolist()
        size = self.size(chance[0], self.target_scale, chance[1], self.target_aspect, grid)
        n = int(math.prod(size))
        corner = draws.uniform(2, count * self.targets, device=device)  # [2, B * T]
        target = blocks(torch.tensor(size, device=device)[:, None], corner, grid).view(
            count, self.targets, -1
        )  # [B, T, N]
        size = self.size(chance[2], self.context_scale, 0.0, (1.0, 1.0), grid)
        corner = draws.uniform(2, count, device=device)  # [2, B]
        block = blocks(torch.tensor(size, device=device)[:, None], corner, grid)  # [B, N]
        context = block & ~target.any(dim=1)  # [B, N]
        # Small grids: where the targets leave nothing, all become the first one, which leaves something.
        empty = ~context.any(dim=1)  # [B]
        target = torch.where(empty[:, None, None], target[:, :1], target)  # [B, T, N]
        context = torch.where(empty[:, None], block & ~target[:, 0], context)  # [B, N]
        score = context + draws.uniform(*context.shape, device=device)  # [B, N]
        seen = first(score, int(context.sum(dim=1).min()))  # [B, N]
        return Drawn(~seen, target.byte().argsort(dim=2, descending=True, stable=True)[:, :, :n])  # [B, T, n]

    @staticmethod
    def size(
        scale: float, scales: Sequence[float], aspect: float, aspects: Sequence[float], grid: tuple[int, int]
    ) -> tuple[float, float]:
        """Rows and columns of a block, by where in their ranges two draws lie; it is smaller than the grid."""
        area = math.prod(grid) * (scales[0] + scale * (scales[1] - scales[0]))
        ratio = aspects[0] + aspect * (aspects[1] - aspects[0])
        sides = (round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio)))
        rows, columns = (float(min(max(side, 1), most - 1)) for side, most in zip(sides, grid, strict=True))
        return rows, columns


def blocks(sides: Tensor, corner: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rectangles on a grid.

    Args:
        sides: [2, B] or [2, 1] float32 whole rows and columns; they are cut to 1 and the grid.
        corner: [2, B] in [0, 1): where the upper left corner lies, of all places that it may have.
        grid: h, w.

    Returns:
        [B, N] bool, True inside.
    """
    within = []
    for side, start, total in zip(sides, corner, grid, strict=True):
        side = side.clamp(1, total)  # [B] or [1]
        begin = (start * (total - side + 1)).floor()  # [B]
        place = torch.arange(total, device=corner.device)  # [h] or [w]
        within.append((place >= begin[:, None]) & (place < (begin + side)[:, None]))  # [B, h] or [B, w]
    return (within[0][:, :, None] & within[1][:, None, :]).flatten(1)  # [B, N]
