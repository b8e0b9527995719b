"""Patches that are hidden at random, each for itself or in square units of several (MAE, arXiv:2111.06377; SimMIM,
arXiv:2111.09886)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len

from ssl_framework.arguments import Count, Natural, OpenFraction, guarded
from ssl_framework.masks.base import Drawn, Draws, ViewMasker, first, number_of, refuse_smaller


@guarded
class RandomMask(ViewMasker):
    """Hides the same number of patches in every sample.

    Args:
        ratio: share that is hidden, in (0, 1).
        unit: side of what is hidden together, in patches; SimMIM's units of 32 px have two of 16.
        views: positions of the views that are masked; ``None``: all that the student encodes.
    """

    def __init__(
        self, ratio: OpenFraction, unit: Count = 1, views: Annotated[Sequence[Natural], Len(1)] | None = None
    ) -> None:
        super().__init__(views)
        self.ratio = ratio
        self.unit = unit

    def check(self, rows: int, columns: int) -> None:
        if rows % self.unit or columns % self.unit:
            raise ValueError(
                f"masker.unit is {self.unit}, which does not divide the {rows} x {columns} patches of a view: set it "
                "to 1, or another backbone.options.patch_size"
            )
        refuse_smaller(rows, columns, 2 * self.unit, type(self).__name__)

    def draw(self, count: int, grid: tuple[int, int], draws: Draws, device: torch.device) -> Drawn:
        rows, columns = (side // self.unit for side in grid)
        score = draws.uniform(count, rows * columns, device=device)  # [B, units]
        units = first(score, number_of(self.ratio, rows * columns)).view(count, rows, columns)  # [B, h / u, w / u]
        hidden = units.repeat_interleave(self.unit, dim=1).repeat_interleave(self.unit, dim=2)  # [B, h, w]
        return Drawn(hidden.flatten(1))  # [B, N]
