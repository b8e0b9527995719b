"""Series from files of the UCR and UEA archives (Dau et al., arXiv:1810.07758; Bagnall et al., arXiv:1811.00075).

A data set is two files in a folder, <name>_TRAIN and <name>_TEST, each ending in

    .ts     the archives' present form: header lines of @ and #, then one sample a line, channels divided by ":",
            values by ",", the class last, "?" for a missing value
    .tsv    UCR 2018: one sample a line, the class first, values divided by tabs, NaN for missing ones
    .arff   Weka's form, of one channel or of several
    .npz    X [N, C, T] or [N, T] and y [N]

Rules: a gap is filled by the line between its neighbours, at an end by the nearest value; a series of another length
than ``length`` is stretched to it, linearly; then the mean of each channel is taken away and the rest divided by its
standard deviation, both over all values of the training file.

N samples, C channels, T points.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ssl_framework.arguments import Channels, Several, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.residence import note

SUFFIXES = (".ts", ".tsv", ".arff", ".npz")
SPLITS = {"train": "_TRAIN", "test": "_TEST"}


class Read(NamedTuple):
    """What a file holds."""

    series: list[np.ndarray]  # N x [C, T_n] float64, NaN where a value is missing
    label: list[str]  # N


@guarded
class Archive:
    """A data set of the UCR or UEA archive, read from a folder.

    Args:
        root: the folder with the two files, of one data set.
        length: T, points that every series of another length is stretched to; a note says so.
        channels: C.

    Raises:
        ValueError: a file that is none of this module's docstring, or other channels than ``channels``.
        FileNotFoundError: the folder, or one of the two files, is not there.
    """

    def __init__(self, root: str, length: Several, channels: Channels) -> None:
        self.root = Path(root).expanduser()
        self.length = length
        self.channels = channels
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, C, T] float32 with classes in the order of their names; pretrain and train are the same."""
        check_split(split)
        if not self.loaded:
            read = {name: read_file(self.file(ending)) for name, ending in SPLITS.items()}
            self.check(read)
            classes = tuple(sorted({label for part in read.values() for label in part.label}, key=by_number))
            arrays = {name: np.stack([self.fitted(x) for x in part.series]) for name, part in read.items()}
            mean, std = (f(arrays["train"], axis=(0, 2), keepdims=True) for f in (np.mean, np.std))
            for name, part in read.items():
                rows = torch.from_numpy((arrays[name] - mean) / np.maximum(std, 1e-12)).float()  # [N, C, T]
                self.loaded[name] = Split(rows, torch.tensor([classes.index(label) for label in part.label]), classes)
        return self.loaded["test" if split == "test" else "train"]

    def file(self, ending: str) -> Path:
        """The file of a split."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"data.root is {self.root}, which is no folder: name the one with the two files")
        there = sorted(path for path in self.root.iterdir() if path.suffix.lower() in SUFFIXES)
        found = [path for path in there if path.stem.upper().endswith(ending)]
        if len(found) != 1:
            names = ", ".join(path.name for path in there) or "none of them"
            what = "more than one file" if found else "no file"
            raise FileNotFoundError(
                f"{self.root} has {what} called *{ending}.ts, .tsv, .arff or .npz, but {names}: put the two files of "
                "one data set into a folder, and set data.root to it"
            )
        return found[0]

    def check(self, read: dict[str, Read]) -> None:
        """Refuses what the settings do not say."""
        channels = sorted({len(x) for part in read.values() for x in part.series})
        if channels != [self.channels]:
            several = " and ".join(map(str, channels))
            raise ValueError(
                f"the series in {self.root} have {several} channel(s), but data.channels is {self.channels}: set "
                f"data.channels={channels[0]}"
            )
        lengths = sorted({x.shape[1] for part in read.values() for x in part.series})
        if lengths != [self.length]:
            said = " to ".join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))
            note(f"the series in {self.root} have {said} points and are stretched to data.length={self.length}")
        if unlike := sorted({*read["test"].label} - {*read["train"].label}):
            raise ValueError(f"the test file in {self.root} has the class {unlike[0]}, which the training file has not")

    def fitted(self, x: np.ndarray) -> np.ndarray:
        """A series [C, any] without gaps, of ``length`` points: [C, T]."""
        at = np.linspace(0, x.shape[1] - 1, self.length)  # [T]
        rows = []
        for channel in x:
            known = np.flatnonzero(np.isfinite(channel))
            rows.append(np.interp(at, known, channel[known]))
        return np.stack(rows)


def by_number(name: str) -> tuple[float, str]:
    """Numbers by their value, before names."""
    try:
        return float(name), name
    except ValueError:
        return math.inf, name


def read_file(path: Path) -> Read:
    """The samples of a file of the archive; raises ValueError: it is none, with the line where that shows."""
    reader = {".ts": read_ts, ".tsv": read_tsv, ".arff": read_arff, ".npz": read_npz}[path.suffix.lower()]
    try:
        found = reader(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: save it as such") from error
    if not found.series:
        raise ValueError(f"{path} has no samples")
    for number, x in enumerate(found.series, start=1):
        if x.shape[1] < 2 or not np.isfinite(x).any(1).all():
            raise ValueError(f"{path}, sample {number}: a channel has fewer than two values, or only missing ones")
    return found


def values_of(texts: Sequence[str], where: str) -> list[float]:
    """Numbers, NaN for a missing one."""
    try:
        return [math.nan if text.strip() in ("?", "NaN", "nan", "") else float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def padded(channels: Sequence[Sequence[float]]) -> np.ndarray:
    """Channels of one sample, the shorter ones missing at their end: [C, longest]."""
    x = np.full((len(channels), max(map(len, channels))), math.nan)
    for row, channel in zip(x, channels, strict=True):
        row[: len(channel)] = channel
    return x


def read_ts(path: Path) -> Read:
    """The archives' present form."""
    series, label, begun = [], [], False
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line, where = text.strip(), f"{path}, line {number}"
        if not line or line.startswith(("#", "%")):
            continue
        if line.startswith("@"):
            begun = begun or line.lower() == "@data"
            if line.lower().split()[:2] in (["@timestamps", "true"], ["@targetlabel", "true"]):
                raise ValueError(f"{where}: time stamps or numbers as labels: only classes at regular times are read")
            continue
        if not begun:
            raise ValueError(f"{where}: values come before @data, so this is no .ts file of the archives")
        *channels, name = line.split(":")
        if not channels:
            raise ValueError(f'{where}: there is no ":" before a class, so the sample has no label')
        series.append(padded([values_of(channel.split(","), where) for channel in channels]))
        label.append(name.strip())
    return Read(series, label)


def read_tsv(path: Path) -> Read:
    """UCR 2018; missing values at the end only fill shorter series up."""
    series, label = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            name, *values = line.split("\t")
            x = np.array(values_of(values, f"{path}, line {number}"))
            last = np.flatnonzero(np.isfinite(x)).max(initial=-1) + 1
            series.append(x[None, :last])
            label.append(name.strip())
    return Read(series, label)


def read_arff(path: Path) -> Read:
    """Weka's form by scipy; several channels are one attribute of rows."""
    from scipy.io.arff import ArffError, loadarff  # slow to import

    try:
        data, _ = loadarff(str(path))
    except (ArffError, ValueError, NotImplementedError, StopIteration) as error:
        raise ValueError(f"{path} cannot be read as .arff: {error}") from error
    *columns, last = data.dtype.names
    label = [name.decode() if isinstance(name, bytes) else str(name) for name in data[last].tolist()]
    if len(columns) == 1 and data[columns[0]].dtype == object:
        return Read([np.array([list(row) for row in sample], dtype=np.float64) for sample in data[columns[0]]], label)
    x = np.stack([data[name].astype(np.float64) for name in columns], axis=1)  # [N, T]
    return Read(list(x[:, None]), label)


def read_npz(path: Path) -> Read:
    """Arrays X and y, no pickles."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in ("X", "y") if name not in stored]
            if missing:
                raise ValueError(f"there is no array {missing[0]}, but {', '.join(stored) or 'none'}")
            x, y = stored["X"], stored["y"]
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as .npz with X and y: {error}") from error
    x = x[:, None] if x.ndim == 2 else x  # [N, C, T]
    if x.ndim != 3 or len(x) != len(y) or x.dtype.kind not in "fiu":
        raise ValueError(f"{path} has X of shape {x.shape} and y of {y.shape}: give numbers [N, C, T] and classes [N]")
    return Read(list(x.astype(np.float64)), [str(name) for name in y.tolist()])
