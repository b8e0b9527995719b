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

    ``Batch.targets`` are the numbers of the first and of the second fragment of each pair, [B] int64 each; and, where
    the data tell, which point of view 1 lies on each point of view 0, [B, T] int64, -1: none.

    Args:
        count, length, channels, mean, std, jitter, mask: as of ``SeriesViews``.
        pairs: of neighbours that a sheet has; they lie one behind the other, and its fragments are one more.

    Raises:
        ValueError: a number out of its range.
    """

    tells = frozenset({"fragments"})

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
        made = [self.begun_anywhere(self.clean(raw[:, v % raw.shape[1]]), generator) for v in range(self.num_views)]
        views, starts = [view for view, _ in made], [start for _, start in made]
        first = samples.index + samples.index // self.pairs  # [B]
        targets = [first, first + 1]
        if (partner := (samples.beside or {}).get("partner")) is not None and self.num_views > 1:
            targets.append(partner_of(partner, starts[0], starts[1]))
        return Batch(views, samples.index, samples.label, targets=targets)

    def begun_anywhere(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """A view of each contour [B, C, T], rolled along itself; and the points that they begin at, [B, 1] int64."""
        where = x.device if generator is None else generator.device
        start = (torch.rand(len(x), 1, generator=generator, device=where).to(x.device) * self.length).long()  # [B, 1]
        at = (start + torch.arange(self.length, device=x.device)) % self.length  # [B, T]
        return self.view(x.gather(2, at[:, None].expand_as(x)), generator), start

    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        """One contour, of several the first: [B, C, T] or [B, K, C, T] -> [B, C, T] float32, normalised."""
        return super().clean(raw[:, 0] if raw.ndim == 4 else raw)

    def raw(self, rows: Tensor) -> Tensor:
        """The values of the first contour: [B, K, C, T] -> [B, C * T] float32."""
        return super().raw(rows[:, 0] if rows.ndim == 4 else rows)


def partner_of(partner: Tensor, start0: Tensor, start1: Tensor) -> Tensor:
    """Which points of two contours lie on each other once they begin elsewhere.

    Args:
        partner: [B, T] which point of the second lies on each of the first, -1: none.
        start0, start1: [B, 1] int64 points that they begin at.

    Returns:
        [B, T] int64, likewise of the points in their new order.
    """
    length = partner.shape[1]
    at = (start0 + torch.arange(length, device=partner.device)) % length  # [B, T]
    found = partner.long().gather(1, at)  # [B, T]
    return torch.where(found < 0, -1, (found - start1) % length)
