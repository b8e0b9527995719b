"""The default set of series: one periodic wave a sample, drawn from a seed in a second, no files and no network.

The class is the form of the wave. What makes it hard to read from the values themselves: every sample has a random
phase, so no place of the series means anything (the mean over a class is flat), a random number of cycles that also
changes along the series, a random amplitude and sign of the slow drift below it, and noise. What two crops of a sample
share is the form.

N samples, T points. A form is a function of the phase in [0, 1) with mean 0 and variance 1.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Seed, guarded
from ssl_framework.data.base import Drawn, Split


def sine(p: Tensor) -> Tensor:
    return math.sqrt(2) * torch.sin(2 * math.pi * p)


def triangle(p: Tensor) -> Tensor:
    return math.sqrt(3) * (1 - 4 * (p - 0.5).abs())


def square(p: Tensor) -> Tensor:
    return torch.where(p < 0.5, 1.0, -1.0)


def pulse(p: Tensor) -> Tensor:
    """High for a fifth of the period."""
    return torch.where(p < 0.2, 2.0, -0.5)


def rising(p: Tensor) -> Tensor:
    """A sawtooth that rises slowly and falls at once."""
    return math.sqrt(3) * (2 * p - 1)


def falling(p: Tensor) -> Tensor:
    """A sawtooth that falls slowly and rises at once."""
    return -rising(p)


def arches(p: Tensor) -> Tensor:
    """A rectified sine: round above, pointed below."""
    return ((math.pi * p).sin() - 2 / math.pi) / math.sqrt(0.5 - 4 / math.pi**2)


def double(p: Tensor) -> Tensor:
    """Two sines of one and of two cycles: a high and a low hump."""
    return torch.sin(2 * math.pi * p) + torch.sin(4 * math.pi * p)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    form.__name__: form for form in (sine, triangle, square, pulse, rising, falling, arches, double)
}
"""The classes, in the order of their labels."""


@guarded
class Waves(Drawn):
    """Series of eight forms of waves.

    Args:
        num_train, num_test: samples; every class equally often as far as the number allows.
        length: T, points.
        cycles: [lo, hi], range of the mean number of cycles in a series.
        bend: how much the frequency changes along a series: by at most this share of it, either way.
        amplitude: [lo, hi], range of the wave's standard deviation.
        drift: greatest standard deviation of the slow drift below the wave, in the same units.
        noise: standard deviation of independent noise at every point.
        seed: of the drawing.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        length: Annotated[int, Interval(ge=16, le=2**20)],
        cycles: Annotated[Sequence[Annotated[float, Ge(0.5)]], Len(2, 2)],
        bend: Annotated[float, Interval(ge=0, le=0.9)],
        amplitude: Annotated[Sequence[Annotated[float, Ge(1e-3)]], Len(2, 2)],
        drift: NonNegative,
        noise: NonNegative,
        seed: Seed,
    ) -> None:
        for key, (low, high), most in (("cycles", cycles, length / 4), ("amplitude", amplitude, math.inf)):
            if not low <= high <= most:
                limit = f" <= data.length / 4 = {most:g}" if most < math.inf else ""
                raise ValueError(f"data.source.{key} is {[low, high]}: give two numbers, lo <= hi{limit}.")
        super().__init__(num_train, num_test, seed)
        self.length = length
        self.cycles = cycles[0], cycles[1]
        self.bend = bend
        self.amplitude = amplitude[0], amplitude[1]
        self.drift = drift
        self.noise = noise

    def draw(self, count: int, seed: int) -> Split:
        """``count`` samples, a function of the seed: [N, 1, T] float32 with the form as class."""
        generator = torch.Generator().manual_seed(seed)

        def between(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, 1, generator=generator)  # [N, 1]

        time = torch.arange(self.length) / self.length  # [T]
        label = torch.arange(count) % len(FORMS)  # [N]
        cycles, bend = between(*self.cycles), between(-self.bend, self.bend)  # [N, 1] each
        phase = between(0, 1) + cycles * (time + bend * (time - time**2))  # [N, T]
        wave = torch.zeros(count, self.length)  # [N, T]
        for number, form in enumerate(FORMS.values()):
            wave[label == number] = form(phase[label == number] % 1)
        wave = between(*self.amplitude) * wave
        slow = torch.sin(2 * math.pi * (between(0, 1) + between(0.3, 1.0) * time))  # [N, T]
        wave = wave + math.sqrt(2) * self.drift * between(0, 1) * slow
        wave = wave + self.noise * torch.randn(count, self.length, generator=generator)
        return Split(wave[:, None], label, tuple(FORMS), numbers={"cycles": cycles[:, 0], "bend": bend[:, 0]})
