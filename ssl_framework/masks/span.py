"""Spans of frames that are hidden (wav2vec 2.0: Baevski et al., NeurIPS 2020, arXiv:2006.11477, section 3.1)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len

from ssl_framework.arguments import Count, Natural, OpenFraction, guarded
from ssl_framework.masks.base import Drawn, Draws, ViewMasker, first


@guarded
class SpanMask(ViewMasker):
    """Hides spans along the columns of patches, all rows of them; spans may overlap.

    Args:
        share: of the columns, at which a span begins; at least one does.
        length: columns of a span.
        views: positions of the views that are masked; ``None``: all that the student encodes.
    """

    def __init__(
        self, share: OpenFraction, length: Count, views: Annotated[Sequence[Natural], Len(1)] | None = None
    ) -> None:
        super().__init__(views)
        self.share, self.length = share, length

    @property
    def even(self) -> bool:
        return False

    def check(self, rows: int, columns: int) -> None:
        if columns <= self.length:
            raise ValueError(
                f"masker.length is {self.length}, but a view has {columns} columns of patches: set it to fewer"
            )

    def draw(self, count: int, grid: tuple[int, int], draws: Draws, device: torch.device) -> Drawn:
        rows, columns = grid
        score = draws.uniform(count, columns - self.length + 1, device=device)  # [B, places]
        begins = first(score, max(1, round(self.share * columns)))  # [B, places]
        hidden = torch.zeros(count, columns, dtype=torch.bool, device=device)  # [B, w]
        for step in range(self.length):
            hidden[:, step : step + begins.shape[1]] |= begins
        return Drawn(hidden[:, None].expand(-1, rows, -1).flatten(1))  # [B, N]
