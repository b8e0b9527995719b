"""Sounds from files on disk, in the layouts of images: flat, in class folders, or with folders of splits.

Rules: several channels become their mean; a file of another rate is resampled (polyphase filter); a sound that is
longer than ``length`` keeps its middle, a shorter one lies in the middle of silence. WAV needs nothing further; FLAC,
OGG, MP3, AIFF and AU are read by the package soundfile.

N samples, T points.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import BelowOne, Seed, Several, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.images.folder import ON_ERROR, check_failed, kept
from ssl_framework.data.images.layout import Kind, Layout

SOUNDS = Kind("sound", "sounds", (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"))


@guarded
class SoundFolder:
    """Waveforms of one rate and length.

    Args:
        root: the folder.
        rate: points a second, to which every file is resampled.
        length: T, points.
        on_error: what an unreadable file does: "refuse" the whole set, or "skip" the file with a warning.
        test_fraction, seed, test_folder: as in ``Layout``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        root: str,
        rate: Annotated[int, Interval(ge=1000, le=192_000)],
        length: Several,
        on_error: str,
        test_fraction: BelowOne,
        seed: Seed,
        test_folder: str | None = None,
    ) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={on_error} is not known: choose one of {', '.join(ON_ERROR)}.")
        self.layout = Layout(root, test_fraction, seed, test_folder, kind=SOUNDS)
        self.rate = rate
        self.length = length
        self.on_error = on_error
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, T] int16; label None for a flat folder; pretrain and train are the same sounds.

        Warns:
            with ``on_error="skip"``, how many files were left out, and which come first.

        Raises:
            FileNotFoundError: the root is not there.
            ValueError: a layout that is not known, or unreadable files.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.loaded:
            paths, label, classes = self.layout.split(name)
            rows, failed = self.read(paths)
            check_failed(self.layout.root, name, paths, failed, self.on_error, SOUNDS.many)
            self.loaded[name] = Split(rows, kept(label, len(paths), failed), classes)
        return self.loaded[name]

    def read(self, paths: Sequence[Path]) -> tuple[Tensor, dict[int, str]]:
        """The readable ones [n, T] int16, and why each of the others is not, by its position."""
        rows = torch.zeros(len(paths), self.length, dtype=torch.int16)
        failed: dict[int, str] = {}
        for number, path in enumerate(paths):
            try:
                x, rate = read_file(path)
                rows[number - len(failed)] = torch.from_numpy(fitted(resampled(x, rate, self.rate), self.length))
            except ModuleNotFoundError:
                raise
            except (ValueError, OSError, RuntimeError, EOFError) as error:
                failed[number] = f"{error}"
        return rows[: len(paths) - len(failed)], failed


def read_file(path: Path) -> tuple[np.ndarray, int]:
    """A sound as numbers in [-1, 1], the mean of its channels, [points] float64, and its rate.

    Raises:
        ModuleNotFoundError: the package soundfile is needed and not there.
        ValueError: the file cannot be read, is empty, or holds what is not finite.
    """
    if path.suffix.lower() in (".wav", ".wave"):
        from scipy.io import wavfile  # slow to import

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of text beside the sound
            rate, x = wavfile.read(path)
        if x.dtype == np.uint8:
            x = (x.astype(np.float64) - 128) / 128
        elif x.dtype.kind == "i":
            x = x / -float(np.iinfo(x.dtype).min)
    else:
        try:
            import soundfile
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{path.name} needs the package soundfile: pip install -e '.[audio]', or save it as .wav"
            ) from error
        x, rate = soundfile.read(path, dtype="float64")
    x = x.mean(axis=1) if x.ndim == 2 else x  # [points]
    if not len(x):
        raise ValueError("it is empty")
    if not np.isfinite(x).all():
        raise ValueError("it has values that are not finite")
    return x.astype(np.float64), int(rate)


def resampled(x: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """[points] at one rate -> [points * wanted / rate] at another."""
    if rate == wanted:
        return x
    from scipy.signal import resample_poly  # slow to import

    common = math.gcd(rate, wanted)
    return resample_poly(x, wanted // common, rate // common)


def fitted(x: np.ndarray, length: int) -> np.ndarray:
    """The middle of a long sound, or a short one in the middle of silence: [points] -> [length] int16."""
    begin = max(0, (len(x) - length) // 2)
    x = x[begin : begin + length]
    before = (length - len(x)) // 2
    x = np.pad(x, (before, length - len(x) - before))
    return (x * 32768).round().clip(-32768, 32767).astype(np.int16)
