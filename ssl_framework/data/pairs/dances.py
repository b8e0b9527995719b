"""Dances: a rhythm as a sound and, beside it, as a motion, drawn from a seed, no files and no network.

A sample has a tempo, a beginning, and beats that are left out. In the sound every beat is a short tone in noise; in the
motion the body goes down and up again around it. What both have in common is when the beats are.

N samples, T points of a sound, P points of a motion.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor

from ssl_framework.arguments import BelowOne, Count, NonNegative, Positive, Seed, guarded
from ssl_framework.data.base import Drawn, Split

TONE, DECAY, BEND = 220.0, 0.03, 0.08
"""Hz of a beat's tone, seconds in which it fades to 37 %, and seconds of half a motion."""

TEMPI = ("slow", "middle", "fast")
"""The classes: thirds of the range of tempi."""


@guarded
class Dances(Drawn):
    """Sounds with motions beside them, "series"; the label is the tempo's third.

    Args:
        num_train, num_test: samples.
        rate: points of a sound a second.
        length: T.
        points: P, over the same time.
        tempo: [lo, hi], range of the number of beats a second.
        rest: probability of a beat being left out.
        sound_noise, motion_noise: standard deviations of independent noise at every point; a beat has 1.
        seed: of the drawing.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        rate: Annotated[int, Interval(ge=1000, le=192_000)],
        length: Annotated[int, Ge(64)],
        points: Annotated[int, Ge(8)],
        tempo: Annotated[Sequence[Positive], Len(2, 2)],
        rest: BelowOne,
        sound_noise: NonNegative,
        motion_noise: NonNegative,
        seed: Seed,
    ) -> None:
        if not tempo[0] < tempo[1]:
            raise ValueError(f"data.source.tempo is {list(tempo)}: give two numbers, lo < hi")
        super().__init__(num_train, num_test, seed)
        self.rate, self.length, self.points = rate, length, points
        self.tempo = tempo[0], tempo[1]
        self.rest = rest
        self.sound_noise, self.motion_noise = sound_noise, motion_noise

    def draw(self, count: int, seed: int) -> Split:
        """``count`` samples, a function of the seed: [N, T] float32, "series" [N, 1, P] beside, the tempo as class."""
        generator = torch.Generator().manual_seed(seed)
        low, high = self.tempo
        share = torch.rand(count, generator=generator)  # [N]
        tempo, seconds = low + (high - low) * share, self.length / self.rate  # [N]
        beats = self.beats(tempo, seconds, generator)  # [N, K] seconds
        sound = self.sound_noise * torch.randn(count, self.length, generator=generator)  # [N, T]
        motion = self.motion_noise * torch.randn(count, self.points, generator=generator)  # [N, P]
        time = torch.arange(self.length) / self.rate  # [T] seconds
        frames = (torch.arange(self.points) + 0.5) * seconds / self.points  # [P] seconds
        for beat in beats.T[..., None]:  # [N, 1]
            since = (time - beat).clamp(min=0)  # [N, T]; 0 before the beat, where the tone is silent
            sound += torch.sin(2 * math.pi * TONE * since) * (-since / DECAY).exp()
            motion -= (-((frames - beat) / BEND).square()).exp()
        label = (share * len(TEMPI)).long().clamp(max=len(TEMPI) - 1)  # [N]
        return Split(sound, label, TEMPI, beside={"series": motion[:, None]}, numbers={"tempo": tempo})

    def beats(self, tempo: Tensor, seconds: float, generator: torch.Generator) -> Tensor:
        """When the beats of tempi [N] are, in seconds; those left out are far away: [N, K]."""
        number = torch.arange(math.ceil(seconds * self.tempo[1]) + 1)  # [K]
        begin = torch.rand(len(tempo), 1, generator=generator)  # [N, 1] of a beat
        when = (begin + number) / tempo[:, None]  # [N, K]
        silent = torch.rand(when.shape, generator=generator) < self.rest  # [N, K]
        return when.masked_fill(silent, 1e4)
