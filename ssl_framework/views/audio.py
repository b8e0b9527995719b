"""Random views of sounds, made for the whole batch at once on the device it lies on: log-mel pictures.

A waveform is shifted, gets noise and another loudness; of its log-mel picture a part is cut out and stretched to the
whole, along time and along frequency (BYOL for Audio: Niizumi et al., IJCNN 2021, arXiv:2103.06695, section III-B3),
and bands of time and of frequency are hidden (SpecAugment: Park et al., Interspeech 2019, arXiv:1904.08779, section 2).
Every sample has its own random parameters. What comes out has one channel, so all that is made for pictures takes it.

B samples, T points, M mel bands, F frames.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn

from ssl_framework.arguments import (
    BelowOne,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    PositiveFraction,
    Several,
    guarded,
)
from ssl_framework.types import Batch, Samples
from ssl_framework.views.pretext import Question
from ssl_framework.views.reading import read_numbers

FLOOR = 1e-6
"""Power below which there is silence, of waveforms in [-1, 1]."""

SHOWN = 2.5
"""Standard deviations from black to grey in a report."""

Shares = Annotated[Sequence[PositiveFraction], Len(2, 2)]


@guarded
class AudioViews(nn.Module):
    """Makes V log-mel pictures of every waveform of a batch.

    Args:
        count: V.
        rate: points a second.
        length: T of the waveforms, points; at least F.
        mels: M, bands from 0 Hz to half the rate (HTK's scale).
        frames: F, windows along time.
        mean, std: one number, of all log-mel values, for normalisation.
        shift: greatest shift either way, share of the length; silence comes in.
        gain: greatest change of loudness either way, dB.
        noise: [lo, hi] dB below the sound's own power, at which white noise is added; ``None``: none.
        crop_time, crop_mel: [lo, hi], range of the share of the picture that is cut out and stretched along each axis.
        hide_time, hide_mel: greatest share of frames, and of bands, that are set to the mean in one piece.
        weak: the first so many views are shifted and made louder or softer, and nothing else.
        question: changes one view in a way that an objective asks for (see ``pretext``); ``None``: none is changed.

    Raises:
        ValueError: a number out of its range.
    """

    tells: frozenset[str] = frozenset()

    filters: Tensor  # [M, window / 2 + 1]
    window: Tensor  # [window]

    def __init__(
        self,
        count: Annotated[int, Interval(ge=1, le=1024)],
        rate: Annotated[int, Interval(ge=1000, le=192_000)],
        length: Several,
        mels: Annotated[int, Interval(ge=4, le=512)],
        frames: Annotated[int, Interval(ge=4, le=8192)],
        mean: Annotated[Sequence[float], Len(1, 1)],
        std: Annotated[Sequence[Positive], Len(1, 1)],
        shift: BelowOne = 0.0,
        gain: NonNegative = 0.0,
        noise: Annotated[Sequence[float], Len(2, 2)] | None = None,
        crop_time: Shares = (1.0, 1.0),
        crop_mel: Shares = (1.0, 1.0),
        hide_time: Fraction = 0.0,
        hide_mel: Fraction = 0.0,
        weak: Natural = 0,
        question: Question | None = None,
    ) -> None:
        super().__init__()
        if length < frames:
            raise ValueError(f"views.frames is {frames}, but a sound has only {length} points: set it to fewer")
        for key, ends in (("noise", noise), ("crop_time", crop_time), ("crop_mel", crop_mel)):
            if ends is not None and not ends[0] <= ends[1]:
                raise ValueError(f"views.{key} is {list(ends)}: give two numbers, lo <= hi")
        self.num_views = count
        self.rate = rate
        self.length = length
        self.mels = mels
        self.frames = frames
        self.mean, self.std = mean[0], std[0]
        self.shift = shift
        self.gain = gain
        self.noise = None if noise is None else read_numbers(noise, "views.noise", 2, "two numbers", -200.0, 200.0)
        self.crop = {2: (mels, crop_mel), 3: (frames, crop_time)}
        self.hide = {2: (mels, hide_mel), 3: (frames, hide_time)}
        self.weak, self.question = weak, question
        if question is not None:
            self.tells = question.tells
        self.hop = length // frames
        points = 2 ** max(4, (2 * self.hop - 1).bit_length())  # windows overlap by half at least
        self.register_buffer("window", torch.hann_window(points), persistent=False)
        self.register_buffer("filters", mel_filters(rate, points, mels), persistent=False)
        self.modality = ("sound",) * count
        self.channels = 1  # a log-mel picture is one
        self.crops = None
        self.raw_name = "raw_input"

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """[B, T] -> V x [B, 1, M, F] float32, normalised. A CPU generator draws the same whatever the device."""
        x = self.waves(samples.inputs)  # type: ignore[arg-type]  # [B, T]
        views = [self.view(x, generator, v < self.weak) for v in range(self.num_views)]
        batch = Batch(views, samples.index, samples.label)
        return batch if self.question is None else self.question(batch, generator)

    def of(self, raw: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Views of plain samples, in a loop of one's own: [B, T] -> V x [B, 1, M, F] float32."""
        index = torch.arange(len(raw), device=raw.device)  # [B]
        return self(Samples(raw, index), generator).views

    def view(self, x: Tensor, generator: torch.Generator | None, weak: bool = False) -> Tensor:
        """One view of each waveform, [B, 1, M, F]."""
        where = x.device if generator is None else generator.device

        def uniform(low: float, high: float) -> Tensor:
            return (low + (high - low) * torch.rand(len(x), generator=generator, device=where)).to(x.device)  # [B]

        if self.shift > 0:
            x = shifted(x, (uniform(-self.shift, self.shift) * self.length).round().long())  # [B, T]
        if self.noise is not None and not weak:
            level = x.square().mean(1).sqrt() * 10 ** (-uniform(*self.noise) / 20)  # [B]
            x = x + level[:, None] * torch.randn(x.shape, generator=generator, device=where).to(x.device)  # [B, T]
        if self.gain > 0:
            x = x * 10 ** (uniform(-self.gain, self.gain) / 20)[:, None]  # [B, T]
        picture = self.pictures(x)  # [B, 1, M, F]
        if weak:
            return picture
        boxes = []
        for _, (low, high) in self.crop.values():
            share = uniform(low, high)  # [B]
            boxes += [uniform(0, 1) * (1 - share), share]
        if min(low for _, (low, _) in self.crop.values()) < 1:
            picture = cut_out(picture, *boxes)  # [B, 1, M, F]
        for axis, (size, most) in self.hide.items():
            if most > 0:
                width = uniform(0, most) * size  # [B]
                begin = uniform(0, 1) * (size - width)  # [B]
                at = torch.arange(size, device=x.device)  # [size]
                hidden = (at >= begin[:, None].round()) & (at < (begin + width)[:, None].round())  # [B, size]
                shape = (-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size)
                picture = picture.masked_fill(hidden.view(shape), 0.0)  # [B, 1, M, F]
        return picture

    def waves(self, raw: Tensor) -> Tensor:
        """Waveforms as numbers in [-1, 1]: [B, T] int16 or float -> [B, T] float32.

        Raises:
            ValueError: they are of another shape.
        """
        if raw.ndim != 2 or raw.shape[1] != self.length:
            raise ValueError(
                f"views take sounds of {self.length} points, but the data have samples of "
                f"{' x '.join(map(str, raw.shape[1:])) or 'one number'}: set views.length to the data's"
            )
        return raw.float() if raw.is_floating_point() else raw.float() / 32768

    def pictures(self, x: Tensor) -> Tensor:
        """Log-mel pictures of waveforms [B, T], normalised: [B, 1, M, F] float32."""
        spectrum = torch.stft(
            x, len(self.window), self.hop, window=self.window, center=True, pad_mode="constant", return_complex=True
        )[..., : self.frames]  # [B, window / 2 + 1, F]
        power = self.filters @ (spectrum.abs().square() / self.window.square().sum())  # [B, M, F]
        return ((power + FLOOR).log()[:, None] - self.mean) / self.std

    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        """The whole sound: [B, T] -> [B, 1, M, F] float32, normalised. Raises ValueError: of another shape."""
        return self.pictures(self.waves(raw))

    def raw(self, rows: Tensor) -> Tensor:
        """The values of the log-mel pictures: [B, T] -> [B, M * F] float32."""
        return self.clean(rows.to(self.window.device)).flatten(1).cpu()

    def example(self, view: int) -> tuple[int, ...]:
        """1, M, F."""
        return 1, self.mels, self.frames

    def picture(self, view: Tensor, modality: str | None = None) -> Tensor:
        """A log-mel picture [1, M, F], low bands below and loud ones bright: [1, M, F] in [0, 1]."""
        return ((view.cpu().float() + SHOWN) / (2 * SHOWN)).clamp(0, 1).flip(1)

    def describe(self) -> str:
        """What ``clean`` does."""
        return (
            f"log-mel pictures of {self.mels} bands and {self.frames} frames, windows of {len(self.window)} points at "
            f"{self.rate} Hz; minus mean {self.mean:.4g}, divided by std {self.std:.4g}"
        )

    def compile_parts(self) -> None:
        """Nothing: a few operations on small tensors."""


def mel_filters(rate: int, points: int, mels: int) -> Tensor:
    """Triangles over frequencies, each from the middle of the band below to that of the band above, on HTK's mel scale
    mel = 2595 log10(1 + f / 700): [mels, points / 2 + 1] float32, each of sum 1, so that a band is a mean.

    A band narrower than the distance of two frequencies takes the nearest one.
    """
    top = 2595 * torch.log10(torch.tensor(1 + rate / 2 / 700, dtype=torch.float64))
    ends = 700 * (10 ** (torch.linspace(0, 1, mels + 2, dtype=torch.float64) * top / 2595) - 1)  # [mels + 2] Hz
    frequency = torch.fft.rfftfreq(points, 1 / rate, dtype=torch.float64)  # [points / 2 + 1]
    low, middle, high = ends[:-2, None], ends[1:-1, None], ends[2:, None]  # [mels, 1] each
    triangles = torch.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)).clamp(min=0)
    nearest = nn.functional.one_hot((frequency - middle).abs().argmin(1), len(frequency)).double()
    triangles = torch.where(triangles.sum(1, keepdim=True) > 0, triangles, nearest)  # [mels, points / 2 + 1]
    return (triangles / triangles.sum(1, keepdim=True)).float()


def shifted(x: Tensor, by: Tensor) -> Tensor:
    """Waveforms [B, T], each later by so many points [B] int64, earlier where negative; silence comes in."""
    at = torch.arange(x.shape[1], device=x.device) - by[:, None]  # [B, T]
    inside = (at >= 0) & (at < x.shape[1])  # [B, T]
    return x.gather(1, at.clamp(0, x.shape[1] - 1)) * inside


def cut_out(x: Tensor, top: Tensor, height: Tensor, left: Tensor, width: Tensor) -> Tensor:
    """Parts of pictures, stretched to the size of the whole, linear between the pixels.

    Args:
        x: [B, C, H, W].
        top, height, left, width: [B] in [0, 1], of the whole; top + height <= 1, left + width <= 1.

    Returns:
        [B, C, H, W]
    """
    zero = torch.zeros_like(top)
    rows = torch.stack([zero, height, 2 * top + height - 1], 1)  # [B, 3]: y of the whole, -1 to 1, from y of the part
    columns = torch.stack([width, zero, 2 * left + width - 1], 1)  # [B, 3]
    grid = nn.functional.affine_grid(torch.stack([columns, rows], 1), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
