"""Scenes: captioned shapes with a sound, three modalities of the same factors, drawn from a seed; or without captions.

The sound is a tone that a beat switches on and off: its pitch is the colour, its beat the shape, its loudness the size.
Place and background make no sound, so a picture and its caption say more of each other than either of the sound.

N samples, T points of a sound.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Seed, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.pairs.captioned_shapes import CaptionedShapes
from ssl_framework.types import step_seed

PITCH = (1 / 24, 1 / 18, 1 / 13.5, 1 / 10, 1 / 7.5, 1 / 5.6)
"""Cycles a point, colour by colour."""

LOUDNESS = (0.5, 0.8, 1.25, 2.0)
"""Amplitude, size by size."""

BEATS = (
    *("10000000", "10001000", "10101010", "11001100", "11110000"),
    *("10010010", "11101110", "11011010", "10110000", "11111111"),
)
"""When the tone sounds, shape by shape, in eighths of a bar; two bars are a sound."""


@guarded
class Scenes:
    """Captioned shapes with their sounds beside them.

    Args:
        captioned: builds the pictures with captions of (num_train, num_test, seed, label), partly configured.
        num_train, num_test, seed, label: as in ``CaptionedShapes``.
        length: T.
        noise: standard deviation of independent noise at every point.
        detune: standard deviation of the pitch, of itself.
    """

    def __init__(
        self,
        captioned: Callable[..., CaptionedShapes],
        num_train: Count,
        num_test: Count,
        seed: Seed,
        label: str,
        length: Annotated[int, Ge(64)],
        noise: NonNegative,
        detune: NonNegative,
    ) -> None:
        self.captioned = captioned(num_train=num_train, num_test=num_test, seed=seed, label=label)
        self.seed = seed
        self.length = length
        self.noise = noise
        self.detune = detune
        self.drawn: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """As ``CaptionedShapes``, with "series" [N, 1, T] float32 beside the texts; ValueError for an unknown split."""
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.drawn:
            shown = self.captioned.load(name)
            assert shown.beside is not None and shown.numbers is not None
            sounds = self.sounds(shown.numbers, step_seed(self.seed, 20 + (name == "test")))  # [N, 1, T]
            self.drawn[name] = shown._replace(beside={**shown.beside, "series": sounds})
        return self.drawn[name]

    def sounds(self, factors: Mapping[str, Tensor], seed: int) -> Tensor:
        """A tone of every sample, a function of its factors [N] and the seed: [N, 1, T]."""
        draws = torch.Generator().manual_seed(seed)
        count, time = len(factors["shape"]), torch.arange(self.length)  # [T]
        pitch = torch.tensor(PITCH)[factors["colour"]] * (1 + self.detune * torch.randn(count, generator=draws))  # [N]
        phase = 2 * math.pi * (torch.rand(count, 1, generator=draws) + pitch[:, None] * time)  # [N, T]
        beats = torch.tensor([[float(beat) for beat in bar] for bar in BEATS])  # [shapes, 8]
        begin = (torch.rand(count, 1, generator=draws) * self.length / 2).long()  # [N, 1]: anywhere in the bar
        eighth = ((time + begin) * 16 // self.length) % 8  # [N, T]
        on = beats[factors["shape"]].gather(1, eighth)  # [N, T]
        loud = torch.tensor(LOUDNESS)[factors["scale"]][:, None]  # [N, 1]
        noise = self.noise * torch.randn(count, self.length, generator=draws)  # [N, T]
        return (loud * on * phase.sin() + noise)[:, None]  # [N, 1, T]


@guarded
class SoundScenes(Scenes):
    """The same as pictures with sounds alone, which views turn into log-mel pictures.

    Args:
        captioned, num_train, num_test, seed, label, length, noise, detune: as in ``Scenes``.
    """

    def load(self, split: str) -> Split:
        """Pictures with "sound" [N, T] float32 beside them; ValueError for an unknown split."""
        shown = super().load(split)
        assert shown.beside is not None
        return shown._replace(beside={"sound": shown.beside["series"][:, 0]}, prompts=None, swapped=None, named=None)
