"""The default set of sounds: the ten English digits, spoken by a synthesiser in seconds, no files and no network.

A word is a row of sounds. A sound is its three resonances (formants), how much of it is voice and how much is hiss, and
how loud it is. A source of pulses and noise passes, window by window, through a filter with these resonances, which
glide from sound to sound (source-filter model: Fant, Acoustic Theory of Speech Production, 1960). The formants of
vowels are the means over men of Peterson and Barney, J. Acoust. Soc. Am. 24 (1952), table II; those of consonants are
coarse.

What makes it hard: every sample has a voice of its own (pitch, its fall, length of the vocal tract), a pace and a place
of its own, the echo of a room, a channel that damps high frequencies, a loudness and noise.

N samples, T points, W windows, F frequencies.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Seed, guarded
from ssl_framework.data.base import Drawn, Split
from ssl_framework.views.text import Vocabulary


class Sound(NamedTuple):
    """What the mouth does."""

    formants: tuple[float, float, float]  # Hz
    voice: float  # amplitude of the pulses
    hiss: float  # amplitude of the noise
    centre: float = 0.0  # Hz, of the hiss; 0: it passes through the formants
    length: float = 1.0  # relative


SOUNDS = {
    "AA": Sound((730, 1090, 2440), 1.0, 0.0),
    "AH": Sound((640, 1190, 2390), 1.0, 0.0),
    "AO": Sound((570, 840, 2410), 1.0, 0.0),
    "EH": Sound((530, 1840, 2480), 1.0, 0.0),
    "ER": Sound((490, 1350, 1690), 1.0, 0.0),
    "IH": Sound((390, 1990, 2550), 0.9, 0.0),
    "IY": Sound((270, 2290, 3010), 0.9, 0.0),
    "UW": Sound((300, 870, 2240), 0.9, 0.0),
    "OW": Sound((500, 900, 2300), 1.0, 0.0),
    "W": Sound((300, 610, 2200), 0.6, 0.0, length=0.5),
    "R": Sound((310, 1060, 1380), 0.6, 0.0, length=0.6),
    "N": Sound((250, 1400, 2500), 0.4, 0.0, length=0.8),
    "V": Sound((300, 1200, 2400), 0.35, 0.1, 3000, length=0.6),
    "Z": Sound((300, 1700, 2500), 0.3, 0.3, 3600, length=0.8),
    "S": Sound((300, 1700, 2500), 0.0, 0.5, 3600, length=1.2),
    "F": Sound((300, 1200, 2400), 0.0, 0.2, 2800, length=0.9),
    "TH": Sound((300, 1400, 2500), 0.0, 0.15, 2400, length=0.8),
    "T": Sound((300, 1700, 2600), 0.0, 0.45, 3200, length=0.35),
    "K": Sound((300, 1700, 2300), 0.0, 0.4, 1800, length=0.35),
    "-": Sound((300, 1500, 2500), 0.0, 0.0, length=0.4),
}
"""Sounds by their names in the ARPAbet; "-" is the closed mouth before T and K."""

WORDS = {
    "zero": "Z IY R OW", "one": "W AH N", "two": "- T UW", "three": "TH R IY", "four": "F AO R",
    "five": "F AA IY V", "six": "S IH - K S", "seven": "S EH V AH N", "eight": "EH IY - T", "nine": "N AA IY N",
}  # fmt: skip
"""The classes, in the order of their labels."""

BANDWIDTHS = (80.0, 110.0, 160.0)
"""Hz of the three resonances."""

WINDOW = 256
"""Points of a window; the next begins after half of them."""

CHUNK = 500
"""Samples that are synthesised at once."""

Range = Annotated[Sequence[Annotated[float, Ge(1e-3)]], Len(2, 2)]


@guarded
class SpokenDigits(Drawn):
    """Waveforms of spoken digits.

    Args:
        num_train, num_test: samples; every word equally often as far as the number allows.
        rate: points a second.
        length: T, points, of which a word takes the share ``pace`` and begins anywhere.
        pitch: [lo, hi] Hz, range of the voice's frequency at the beginning of a word.
        tract: [lo, hi], range of the factor on all formants: a short vocal tract has high ones.
        pace: [lo, hi], range of the share of the length that a word takes.
        echo: greatest time in which a room's echo falls by 60 dB, seconds; 0: no room.
        channel: [lo, hi] Hz, range of the frequency above which a channel damps by 12 dB an octave.
        snr: [lo, hi] dB, range of the ratio of word and noise.
        seed: of the drawing.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        rate: Annotated[int, Interval(ge=4000, le=48000)],
        length: Annotated[int, Interval(ge=2048, le=2**20)],
        pitch: Range,
        tract: Range,
        pace: Range,
        echo: NonNegative,
        channel: Range,
        snr: Annotated[Sequence[float], Len(2, 2)],
        seed: Seed,
    ) -> None:
        limits = {"pitch": rate / 8, "tract": 2.0, "pace": 1.0, "channel": rate / 2, "snr": 100.0}
        given = {"pitch": pitch, "tract": tract, "pace": pace, "channel": channel, "snr": snr}
        for key, (low, high) in given.items():
            if not low <= high <= limits[key]:
                raise ValueError(
                    f"data.source.{key} is {[low, high]}: give two numbers, lo <= hi, of at most {limits[key]:g}"
                )
        super().__init__(num_train, num_test, seed)
        self.rate = rate
        self.length = length
        self.ranges = given
        self.echo = echo

    def draw(self, count: int, seed: int) -> Split:
        """``count`` samples, a function of the seed: [N, T] int16 with the word as class."""
        generator = torch.Generator().manual_seed(seed)
        label = torch.arange(count) % len(WORDS)  # [N]
        drawn = {key: between(count, low, high, generator) for key, (low, high) in self.ranges.items()}  # [N] each
        parts = [
            self.speak(label[at], {key: value[at] for key, value in drawn.items()}, generator)
            for at in torch.arange(count).split(CHUNK)
        ]
        numbers = {key: drawn[key] for key in ("pitch", "tract", "pace")}
        return Split(torch.cat(parts), label, tuple(WORDS), numbers=numbers)

    def speak(self, label: Tensor, drawn: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Words [n] with what was drawn for each, as waveforms [n, T] int16."""
        count, length = len(label), self.length
        time = (torch.arange(0, length + WINDOW, WINDOW // 2) / length)[None]  # [1, W]: middles of windows
        begin = (1 - drawn["pace"]) * torch.rand(count, generator=generator)  # [n]
        within = (time - begin[:, None]) / drawn["pace"][:, None]  # [n, W]: 0 to 1 in the word
        formants, voice, hiss, centre = tracks(label, within)  # [n, W, 3] and [n, W] each
        formants = formants * drawn["tract"][:, None, None]
        frequency = torch.fft.rfftfreq(WINDOW, 1 / self.rate)  # [F]
        shape = resonances(frequency, formants)  # [n, W, F]
        broad = (-(((frequency - centre[..., None]) / 700) ** 2)).exp()  # [n, W, F]
        broad = torch.where(centre[..., None] > 0, broad, shape)

        fall = 1 - 0.25 * within.clamp(0, 1)  # [n, W]: the voice sinks by a quarter
        pitch = at_points(drawn["pitch"][:, None] * fall, length + WINDOW)  # [n, T + 256]
        phase = (pitch.double() / self.rate).cumsum(1)  # [n, T + 256]
        pulses = (phase.floor() != torch.nn.functional.pad(phase, (1, 0))[:, :-1].floor()).float()
        pulses = pulses * (self.rate / pitch).sqrt()  # of one power at every pitch
        noise = torch.randn(pulses.shape, generator=generator)
        spoken = filtered(pulses, shape * voice[..., None]) + filtered(noise, broad * hiss[..., None])
        x = spoken[:, WINDOW // 2 : WINDOW // 2 + length]  # [n, T]
        x = self.through_room(x, drawn["channel"], generator)
        power = x.square().mean(1, keepdim=True).clamp(min=1e-12)  # [n, 1]
        x = x / power.sqrt()
        x = x + torch.randn(x.shape, generator=generator) * 10 ** (-drawn["snr"][:, None] / 20)
        loud = between(count, 0.2, 0.9, generator)[:, None]  # [n, 1]
        return (x / x.abs().amax(1, keepdim=True) * loud * 32767).round().to(torch.int16)

    def through_room(self, x: Tensor, cut: Tensor, generator: torch.Generator) -> Tensor:
        """Waveforms [n, T] with echo, damped above the frequencies ``cut`` [n]: [n, T]."""
        count, length = x.shape
        decay = self.echo * torch.rand(count, 1, generator=generator)  # [n, 1] seconds to -60 dB
        time = torch.arange(length)[None] / self.rate  # [1, T]
        tail = torch.randn(count, length, generator=generator) * (-6.9 * time / decay.clamp(min=1e-4)).exp()  # [n, T]
        tail[:, 0] = 0.0
        room = 0.7 * tail / tail.norm(dim=1, keepdim=True).clamp(min=1e-12)  # [n, T]: half the sound's own power
        room[:, 0] = 1.0
        frequency = torch.fft.rfftfreq(2 * length, 1 / self.rate)  # [T + 1]
        channel = 1 / (1 + (frequency / cut[:, None]) ** 4).sqrt()  # [n, T + 1]: Butterworth's of second order
        spectrum = torch.fft.rfft(x, 2 * length) * torch.fft.rfft(room, 2 * length) * channel  # [n, T + 1]
        return torch.fft.irfft(spectrum, 2 * length)[:, :length]


class DigitVocabulary(Vocabulary):
    """The words, in the order of their labels."""

    def __init__(self) -> None:
        super().__init__(list(WORDS))


@guarded
class SpokenWords(SpokenDigits):
    """The same sounds, each with the word that is spoken beside it.

    Args:
        num_train, num_test, rate, length, pitch, tract, pace, echo, channel, snr, seed: as of ``SpokenDigits``.
    """

    def draw(self, count: int, seed: int) -> Split:
        """As of ``SpokenDigits``, with "text" [N, 1, 3] int32 beside: one wording of begin, word and end."""
        found = super().draw(count, seed)
        assert found.label is not None
        texts = DigitVocabulary().encode(list(WORDS), 3)[:, None]  # [10, 1, 3]
        return found._replace(beside={"text": texts[found.label]})


def between(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """[count], uniform."""
    return low + (high - low) * torch.rand(count, generator=generator)


def tracks(label: Tensor, within: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the mouth does over time.

    Args:
        label: [n] words.
        within: [n, W], where each window lies in its word, 0 the begin and 1 the end; silence outside.

    Returns:
        Formants [n, W, 3] in Hz, which glide for a third of a sound, and voice, hiss and its centre [n, W].
    """
    formants = torch.zeros(*within.shape, 3)  # [n, W, 3]
    rest = torch.zeros(3, *within.shape)  # [3, n, W]
    for number, word in enumerate(WORDS.values()):
        sounds = [SOUNDS[name] for name in word.split()]
        ends = torch.tensor([sound.length for sound in sounds]).cumsum(0)  # [S]
        ends = ends / ends[-1]
        rows = (label == number).nonzero()[:, 0]  # [m]
        at = within[rows]  # [m, W]
        index = torch.bucketize(at, ends[:-1], right=True)  # [m, W]
        wanted = torch.tensor([sound.formants for sound in sounds], dtype=torch.float32)  # [S, 3]
        begins = torch.cat([torch.zeros(1), ends[:-1]])  # [S]
        share = ((at - begins[index]) / (ends - begins)[index] * 3).clamp(0, 1)[..., None]  # [m, W, 1]
        before = wanted[(index - 1).clamp(min=0)]  # [m, W, 3]
        formants[rows] = torch.lerp(before, wanted[index], share)
        spoken = (at >= 0) & (at < 1)  # [m, W]
        for row, key in enumerate(("voice", "hiss", "centre")):
            value = torch.tensor([float(getattr(sound, key)) for sound in sounds])[index]  # [m, W]
            rest[row, rows] = value * spoken if key != "centre" else value
    return formants.clamp(min=100), rest[0], rest[1], rest[2]


def resonances(frequency: Tensor, formants: Tensor) -> Tensor:
    """Gain of a vocal tract: the product of three resonances of second order, each 1 at 0 Hz; higher ones are left out.

    Args:
        frequency: [F] Hz.
        formants: [n, W, 3] Hz.

    Returns:
        [n, W, F]
    """
    gain = torch.ones(*formants.shape[:2], len(frequency))  # [n, W, F]
    for number, width in enumerate(BANDWIDTHS):
        centre = formants[..., number, None]  # [n, W, 1]
        ratio = frequency / centre  # [n, W, F]
        gain = gain / ((1 - ratio**2) ** 2 + (width / centre * ratio) ** 2).sqrt()
    return gain / (1 + frequency / 500)  # the source falls towards high frequencies


def at_points(windows: Tensor, points: int) -> Tensor:
    """Values of windows [n, W] at every point, linear between their middles: [n, points]."""
    return torch.nn.functional.interpolate(windows[:, None], points, mode="linear", align_corners=True)[:, 0]


def filtered(x: Tensor, gain: Tensor) -> Tensor:
    """Waveforms through filters that change from window to window, joined by overlap and add.

    Args:
        x: [n, P].
        gain: [n, W, F] of each window's frequencies.

    Returns:
        [n, P]; windows of a raised cosine that begin half a window apart add up to 1.
    """
    count, points = x.shape
    step = WINDOW // 2
    windows = torch.nn.functional.pad(x, (0, (-points) % step + WINDOW)).unfold(1, WINDOW, step)  # [n, V, 256]
    used = min(windows.shape[1], gain.shape[1])
    shaped = torch.fft.rfft(windows[:, :used] * torch.hann_window(WINDOW)) * gain[:, :used]  # [n, V, F]
    parts = torch.fft.irfft(shaped, WINDOW)  # [n, V, 256]
    out = torch.zeros(count, (used + 1) * step)  # [n, (V + 1) * 128]
    out[:, : used * step] += parts[..., :step].flatten(1)
    out[:, step:] += parts[..., step:].flatten(1)
    return torch.nn.functional.pad(out, (0, max(0, points - out.shape[1])))[:, :points]
