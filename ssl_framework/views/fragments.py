"""Views of pairs of contours: every view is one fragment of the pair, begun anywhere on its contour.

B samples, K contours of a sample, C channels, T points.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Interval, Len
from torch import Tensor

from ssl_framework.arguments import Channels, Count, Fraction, NonNegative, Positive, Several, guarded
from ssl_framework.types import Batch, Samples
from ssl_framework.views.series import SeriesViews


@guarded
class FragmentViews(SeriesViews):
    """View v is fragment v of its pair, for further views the first one again; the contour begins at a random point.

    ``Batch.targets`` are the numbers of the first and of the second fragment of each pair, [B] int64 each.

    Args:
        count, length, channels, mean, std, jitter, mask: as of ``SeriesViews``.
        pairs: of neighbours that a sheet has; they lie one behind the other, and its fragments are one more.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        count: Annotated[int, Interval(ge=1, le=1024)],
        length: Several,
        channels: Channels,
        mean: Annotated[Sequence[float], Len(1)],
        std: Annotated[Sequence[Positive], Len(1)],
        jitter: NonNegative,
        mask: Fraction,
        pairs: Count,
    ) -> None:
        super().__init__(count, length, channels, mean, std, jitter=jitter, mask=mask)
        self.pairs = pairs

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """[B, K, C, T] -> V x [B, C, T] float32, normalised. A CPU generator draws the same whatever the device.

        Raises:
            ValueError: samples are not pairs of contours.
        """
        raw = samples.inputs
        assert isinstance(raw, Tensor)
        if raw.ndim != 4:
            raise ValueError(
                f"views=fragments takes pairs of contours, but the data have samples of "
                f"{' x '.join(map(str, raw.shape[1:]))}: choose data=fragments, or views=series"
            )
        views = [self.begun_anywhere(self.clean(raw[:, v % raw.shape[1]]), generator) for v in range(self.num_views)]
        first = samples.index + samples.index // self.pairs  # [B]
        return Batch(views, samples.index, samples.label, targets=[first, first + 1])

    def begun_anywhere(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """A view of each contour [B, C, T], rolled along itself."""
        where = x.device if generator is None else generator.device
        start = (torch.rand(len(x), 1, generator=generator, device=where).to(x.device) * self.length).long()  # [B, 1]
        at = (start + torch.arange(self.length, device=x.device)) % self.length  # [B, T]
        return self.view(x.gather(2, at[:, None].expand_as(x)), generator)

    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        """One contour, of several the first: [B, C, T] or [B, K, C, T] -> [B, C, T] float32, normalised."""
        return super().clean(raw[:, 0] if raw.ndim == 4 else raw)

    def raw(self, rows: Tensor) -> Tensor:
        """The values of the first contour: [B, K, C, T] -> [B, C * T] float32."""
        return super().raw(rows[:, 0] if rows.ndim == 4 else rows)
