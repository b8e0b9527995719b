"""Random views of series, made for the whole batch at once on the device it lies on.

A part of the series is cut out and stretched to the old length, which shifts the phase and changes the pace; then its
values are scaled, noise is added, and single points are hidden. Scaling and jitter: Um et al., ICMI 2017
(arXiv:1706.00527); overlapping crops and hidden points: TS2Vec (arXiv:2106.10466, sections 3.1 and 3.2). Every sample
has its own random parameters.

B samples, C channels, T points.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn

from ssl_framework.arguments import Channels, Fraction, NonNegative, Positive, PositiveFraction, Several, guarded
from ssl_framework.types import Batch, Samples
from ssl_framework.views.reading import read_numbers

HEIGHT, WIDTH = 48, 96
"""Pixels of the drawing of a series."""


REACH = 3.5
"""Values from minus to plus this, in standard deviations, are drawn; others at the border."""


@guarded
class SeriesViews(nn.Module):
    """Makes V views of every series of a batch.

    Args:
        count: V.
        length: T of the series, points; views are as long.
        channels: C of the series.
        mean, std: one number a channel, or one for all, for normalisation.
        crop: [lo, hi], range of the share of the series that is cut out; [1, 1]: the whole.
        scaling: standard deviation of the factor around 1 by which a channel's values are multiplied.
        jitter: standard deviation of the noise added to every value, in units of ``std``.
        mask: probability of a point, all its channels, being set to the mean.

    Raises:
        ValueError: a number out of its range.
    """

    mean: Tensor  # [C, 1]
    std: Tensor  # [C, 1]

    def __init__(
        self,
        count: Annotated[int, Interval(ge=1, le=1024)],
        length: Several,
        channels: Channels,
        mean: Annotated[Sequence[float], Len(1)],
        std: Annotated[Sequence[Positive], Len(1)],
        crop: Annotated[Sequence[PositiveFraction], Len(2, 2)] = (1.0, 1.0),
        scaling: NonNegative = 0.0,
        jitter: NonNegative = 0.0,
        mask: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.num_views = count
        self.length = length
        self.in_channels = channels
        mean, std = (list(each) * (channels if len(each) == 1 else 1) for each in (mean, std))
        mean = read_numbers(mean, "views.mean", self.in_channels, "one number per channel", -torch.inf, torch.inf)
        std = read_numbers(std, "views.std", self.in_channels, "one number per channel above 0", 1e-12, torch.inf)
        self.register_buffer("mean", torch.tensor(mean)[:, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None], persistent=False)
        low, high = read_numbers(crop, "views.crop", 2, "two shares, 0 < lo <= hi <= 1", 0.0, 1.0)
        if not 0 < low <= high:
            raise ValueError(f"views.crop is {list(crop)}: give two shares, 0 < lo <= hi <= 1")
        self.crop = low, high
        self.scaling = scaling
        self.jitter = jitter
        self.mask = mask
        self.modality = ("series",) * self.num_views
        self.channels = None  # no picture
        self.crops = None
        self.raw_name = "raw_input"

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """[B, C, T] -> V x [B, C, T] float32, normalised. A CPU generator draws the same whatever the device."""
        x = self.clean(samples.inputs)  # type: ignore[arg-type]  # [B, C, T]
        return Batch([self.view(x, generator) for _ in range(self.num_views)], samples.index, samples.label)

    def of(self, raw: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Views of plain samples, in a loop of one's own: [B, C, T] -> V x [B, C, T] float32."""
        index = torch.arange(len(raw), device=raw.device)  # [B]
        return self(Samples(raw, index), generator).views

    def view(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """One view of each normalised series, [B, C, T]."""
        where = x.device if generator is None else generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=where).to(x.device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=where).to(x.device)

        if self.crop[0] < 1:
            share = self.crop[0] + (self.crop[1] - self.crop[0]) * uniform(len(x))  # [B]
            x = stretched(x, uniform(len(x)) * (1 - share), share)  # [B, C, T]
        if self.scaling > 0:
            x = x * (1 + self.scaling * normal(*x.shape[:2], 1))  # [B, C, T]
        if self.jitter > 0:
            x = x + self.jitter * normal(*x.shape)  # [B, C, T]
        if self.mask > 0:
            x = x.masked_fill(uniform(len(x), 1, self.length) < self.mask, 0.0)  # [B, C, T]
        return x

    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        """The whole series, normalised: [B, C, T] float32.

        Raises:
            ValueError: they are of another shape.
        """
        if raw.ndim != 3 or raw.shape[1:] != (self.in_channels, self.length):
            raise ValueError(
                f"views take series of {self.in_channels} channel(s) and {self.length} points, but the data have "
                f"samples of {' x '.join(map(str, raw.shape[1:]))}: set views.channels and views.length to the data's"
            )
        return (raw.float() - self.mean) / self.std

    def raw(self, rows: Tensor) -> Tensor:
        """The values: [B, C, T] -> [B, C * T] float32."""
        return rows.flatten(1).cpu().float()

    def example(self, view: int) -> tuple[int, ...]:
        """C, T."""
        return self.in_channels, self.length

    def picture(self, view: Tensor, modality: str | None = None) -> Tensor:
        """The lines of a series [C, T], black on white: [1, HEIGHT, WIDTH]."""
        return drawing(view.cpu())

    def describe(self) -> str:
        """What ``clean`` does."""
        mean, std = (", ".join(f"{x:.4g}" for x in part.flatten().tolist()) for part in (self.mean, self.std))
        return f"all {self.length} points of {self.in_channels} channel(s); minus mean [{mean}], divided by std [{std}]"

    def compile_parts(self) -> None:
        """Nothing: a few operations on small tensors."""


def stretched(x: Tensor, start: Tensor, share: Tensor) -> Tensor:
    """Parts of series, stretched to the length of the whole.

    Args:
        x: [B, C, T].
        start, share: [B] in [0, 1], start + share <= 1: where each part begins, and its length, of the whole.

    Returns:
        [B, C, T], linear between the points.
    """
    length = x.shape[2]
    at = (torch.arange(length, device=x.device) + 0.5) / length  # [T]: centres of the new points
    at = (start[:, None] + share[:, None] * at) * length - 0.5  # [B, T] in points of the whole
    at = at.clamp(0, length - 1)
    left = at.floor().long().clamp(max=length - 2)  # [B, T]
    right = (at - left)[:, None]  # [B, 1, T]: weight of the point behind
    index = left[:, None].expand(-1, x.shape[1], -1)  # [B, C, T]
    return torch.lerp(x.gather(2, index), x.gather(2, index + 1), right)


def drawing(x: Tensor) -> Tensor:
    """The lines of a normalised series [C, T] as a picture [1, HEIGHT, WIDTH] in [0, 1]."""
    points = nn.functional.interpolate(x[None].float(), WIDTH + 1, mode="linear", align_corners=True)[
        0
    ]  # [C, WIDTH + 1]
    row = ((REACH - points) / (2 * REACH) * (HEIGHT - 1)).round().clamp(0, HEIGHT - 1)  # [C, WIDTH + 1]
    top, bottom = torch.minimum(row[:, :-1], row[:, 1:]), torch.maximum(row[:, :-1], row[:, 1:])  # [C, WIDTH] each
    rows = torch.arange(HEIGHT)[None, :, None]  # [1, HEIGHT, 1]
    ink = (top[:, None] <= rows) & (rows <= bottom[:, None])  # [C, HEIGHT, WIDTH]
    return 1 - ink.any(0, keepdim=True).float()  # [1, HEIGHT, WIDTH]
