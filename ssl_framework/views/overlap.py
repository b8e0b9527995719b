"""Two crops of a series that have a part in common (TS2Vec: Yue et al., AAAI 2022, arXiv:2106.10466, section 3.2).

Which points they share is told beside them: ``Batch.targets`` are the shared points' positions in either view. B
samples, C channels, T points of a series, S points of a view, O points in common.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Channels, Positive, PositiveFraction, Several, guarded
from ssl_framework.types import Batch, Samples
from ssl_framework.views.series import SeriesViews


@guarded
class OverlapViews(SeriesViews):
    """Cuts two views out of every series, at the pace of the series: the earlier one first.

    Lengths are alike in all batches, so that all ranks have as many points in common; where the pair begins is drawn
    for every sample.

    Args:
        length: T of the series, points.
        channels: C of the series.
        mean, std: one number a channel, or one for all, for normalisation.
        crop: share of the series that a view shows.
        overlap: share of the series that both views show.

    Raises:
        ValueError: a number out of its range, or two such views do not fit into a series.
    """

    num_views = 2
    tells = frozenset({"common points"})

    def __init__(
        self,
        length: Several,
        channels: Channels,
        mean: Annotated[Sequence[float], Len(1)],
        std: Annotated[Sequence[Positive], Len(1)],
        crop: PositiveFraction,
        overlap: PositiveFraction,
    ) -> None:
        super().__init__(self.num_views, length, channels, mean, std)
        self.size, self.common = round(crop * length), round(overlap * length)
        self.span = 2 * self.size - self.common  # of both together
        if not 1 <= self.common < self.size or self.span > length:
            raise ValueError(
                f"views.crop is {crop} and views.overlap {overlap}, which together take {self.span} of {length} "
                "points: set views.overlap below views.crop, and 2 crop - overlap to at most 1"
            )

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """[B, C, T] -> 2 x [B, C, S] float32, normalised, and as targets 2 x [B, O] int64."""
        x = self.clean(samples.inputs)  # type: ignore[arg-type]  # [B, C, T]
        where = x.device if generator is None else generator.device
        room = self.length - self.span + 1
        start = (room * torch.rand(len(x), generator=generator, device=where)).long().to(x.device)  # [B]
        later = start + self.size - self.common  # [B]
        point = torch.arange(self.common, device=x.device).expand(len(x), -1)  # [B, O]
        shared = [point + self.size - self.common, point]  # 2 x [B, O]
        views = [self.cut(x, begin) for begin in (start, later)]  # 2 x [B, C, S]
        return Batch(views, samples.index, samples.label, targets=shared)

    def cut(self, x: Tensor, start: Tensor) -> Tensor:
        """The points from ``start`` [B] int64 on: [B, C, T] -> [B, C, S]."""
        at = start[:, None] + torch.arange(self.size, device=x.device)  # [B, S]
        return x.gather(2, at[:, None].expand(-1, x.shape[1], -1))  # [B, C, S]

    def example(self, view: int) -> tuple[int, ...]:
        """C, S."""
        return self.in_channels, self.size
