"""Vectors of a backbone for every image of a folder, or for every sample of a data set, as one file.

They are written in parts, each whole or not at all, and put together at the end: a command that was stopped goes on
where it was, and no more than a part lies in memory.

N samples, D features.
"""

import csv
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_framework.data.base import Split, chosen
from ssl_framework.data.images.decoding import decode_in_order
from ssl_framework.data.images.layout import SPLIT_FOLDERS, SUFFIXES, image_files, seen_from, split_called
from ssl_framework.data.images.table import Table
from ssl_framework.data.loader import ahead
from ssl_framework.evaluation.features import CHUNK_VALUES, CHUNK_VALUES_GPU, Bare, in_eval_mode
from ssl_framework.module import SSLModule
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.folder import read_json, write_json
from ssl_framework.runs.held import held, holder

PART = 4096
"""Samples of a part: what a stopped command may have to compute again."""

THREADS = os.cpu_count() or 1
"""Files decoded at once."""


class Item(NamedTuple):
    """What the table says of a sample beside its vector."""

    path: str  # below the folder, or the number within the split
    label: str  # the folder's or the class's name, or the number; "" where there is none
    split: str  # "" where the folder has none


class Samples(Protocol):
    """N samples in an order of their own."""

    items: Sequence[Item]

    @property
    def values_each(self) -> int:
        """Numbers that a sample consists of."""
        ...

    def fingerprint(self) -> str:
        """Of which samples they are."""
        ...

    def read(self, positions: range) -> tuple[Tensor, dict[int, str]]:
        """The readable ones at these positions, [n, ...], and position -> why, for the others."""
        ...


class FileSamples:
    """Image files: those anywhere below a folder, or those that a CSV file lists.

    The folder that a file lies in is its label; a first folder named train, val or test is the split instead. A CSV
    file says both in columns, as ``data.table`` does.

    Args:
        place: the folder, or the CSV file.
        size: S, side that the middle square of every image is decoded to, pixels.
        channels: C, 1 or 3.
        columns: other names of the CSV file's columns.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: it has no images, or the file is no such table.
    """

    def __init__(self, place: Path, size: int, channels: int, columns: Mapping[str, str] | None = None) -> None:
        if not place.exists():
            raise FileNotFoundError(f"images={place} is no folder: give a folder of image files, or a CSV file of them")
        if columns and place.is_dir():
            raise ValueError(f"columns= are of a CSV file, but images={place} is a folder: leave them out")
        if place.is_file() and place.suffix.lower() in SUFFIXES:
            raise ValueError(f"images={place} is one file: give the folder it lies in, or a CSV file of images")
        self.size, self.channels = size, channels
        found = below(place) if place.is_dir() else listed(Table(place, columns or {}, skips=True))
        self.paths: list[Path] = [path for path, _ in found]
        self.items: Sequence[Item] = [item for _, item in found]

    @property
    def values_each(self) -> int:
        return self.channels * self.size * self.size

    def fingerprint(self) -> str:
        found = hashlib.sha256(repr((self.size, self.channels)).encode())
        for path, item in zip(self.paths, self.items, strict=True):
            status = path.stat() if path.is_file() else None  # what a table lists need not be there
            found.update(repr((item.path, status and (status.st_size, status.st_mtime_ns))).encode())
        return found.hexdigest()

    def read(self, positions: range) -> tuple[Tensor, dict[int, str]]:
        decoded = decode_in_order([self.paths[p] for p in positions], self.size, self.channels, THREADS)
        results = dict(zip(positions, decoded, strict=True))
        images = [image for image in results.values() if isinstance(image, Tensor)]
        failed = {position: why for position, why in results.items() if isinstance(why, str)}
        empty = torch.empty(0, self.channels, self.size, self.size, dtype=torch.uint8)
        return torch.stack(images) if images else empty, failed  # [n, C, S, S]


def below(root: Path) -> list[tuple[Path, Item]]:
    """The image files anywhere below a folder, or a ValueError where there are none."""
    if not (paths := image_files(root)):
        raise ValueError(f"images={root} has no images: it must have {', '.join(s[1:] for s in SUFFIXES)} files")
    return [(path, item_of(path.relative_to(root))) for path in paths]


def listed(table: Table) -> list[tuple[Path, Item]]:
    """The files of a table in the order of its lines, each called as the table calls it; raises as ``Table.lines``."""
    root = table.path.parent
    return [
        (line.path, Item(seen_from(root, line.path).as_posix(), line.label or line.target, split_called(line.split)))
        for line in table.lines()
    ]


def item_of(path: Path) -> Item:
    """What a file's place says of it."""
    folders = path.parts[:-1]
    split = folders[0] if folders and folders[0] in SPLIT_FOLDERS else ""
    return Item(path.as_posix(), "/".join(folders[1:] if split else folders), split)


class SplitSamples:
    """The samples of the splits of a data set, one after another.

    Args:
        splits: name -> split.
        settings: of the source, which say which samples they are.
    """

    def __init__(self, splits: dict[str, Split], settings: str) -> None:
        self.splits, self.settings = splits, settings
        self.items: Sequence[Item] = [item for name, split in splits.items() for item in items_of(name, split)]

    @property
    def values_each(self) -> int:
        return max(split.values_each for split in self.splits.values())

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.settings, len(self.items))).encode()).hexdigest()

    def read(self, positions: range) -> tuple[Tensor, dict[int, str]]:
        parts, start = [], 0
        for split in self.splits.values():
            first, last = max(positions.start, start), min(positions.stop, start + len(split.rows))
            if first < last:
                index = torch.arange(first - start, last - start, device=split.rows.device)
                parts.append(chosen(split.rows, index))
            start += len(split.rows)
        return torch.cat(parts), {}  # [n, ...]


def items_of(name: str, split: Split) -> Iterator[Item]:
    """What is known of each sample of a split."""
    labels = [None] * len(split.rows) if split.label is None else split.label.tolist()
    for number, label in enumerate(labels):
        said = "" if label is None else split.classes[label] if split.classes else str(label)
        yield Item(str(number), said, name)


class Parts:
    """The parts of one output, in the folder ``<out>.parts`` beside it.

    Args:
        out: the file to be.
        request: what the vectors are of; parts of another request are not taken.

    Raises:
        ValueError: there are parts of another request.
    """

    def __init__(self, out: Path, request: dict[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "request.json"
        if about.is_file() and read_json(about) != request:
            raise ValueError(
                f"{self.folder} holds vectors of another backbone or of other samples: remove it, or choose "
                "another out="
            )
        write_json(about, request)

    def file(self, number: int) -> Path:
        """Where part ``number`` lies."""
        return self.folder / f"{number:06d}.npz"

    def write(self, number: int, vectors: Tensor, kept: Sequence[int], failed: dict[int, str]) -> None:
        """A part: [n, D] float32, the positions [n] of these samples, and why others could not be read."""
        with replacing(self.file(number)) as partial:
            np.savez(
                partial,
                vectors=vectors.numpy(),
                kept=np.asarray(kept, np.int64),
                failed=np.asarray(list(failed), np.int64),
                why=np.asarray(list(failed.values()), np.str_),
            )

    def read(self) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
        """Of each part the vectors [n, D], their positions [n], and position -> why others could not be read."""
        for path in sorted(self.folder.glob("*.npz")):
            with np.load(path) as part:
                yield (
                    part["vectors"],
                    part["kept"],
                    dict(zip(part["failed"].tolist(), part["why"].tolist(), strict=True)),
                )

    def remove(self) -> None:
        """Removes all parts."""
        shutil.rmtree(self.folder)


class Embedded(NamedTuple):
    """What a command has written."""

    number: int  # N, without those that could not be read
    dim: int  # D
    computed: int  # of N, by this command
    failed: dict[str, str]  # path -> why it could not be read


def embed_to(
    out: Path, model: SSLModule | Bare, samples: Samples, about: dict[str, Any], say: Callable[[int], None]
) -> Embedded:
    """Writes the vectors of all samples.

    Args:
        out: a file whose ending is one of ``WRITERS``.
        model: the backbone, where it computes.
        samples: N of them.
        about: the backbone, in words that differ where it does.
        say: called with the number of samples done after each part.

    Raises:
        ValueError: the output has another ending, another process writes it, or there are parts of another request.
    """
    write = writer_of(out)
    parts = Parts(out, {**about, "samples": samples.fingerprint()})
    with held(parts.folder / "held") as mine:
        if not mine:
            raise ValueError(
                f"another process writes {out}{holder(parts.folder / 'held')}: wait for it, or choose another out="
            )
        computed = 0
        for number, first in enumerate(range(0, len(samples.items), PART)):
            positions = range(first, min(first + PART, len(samples.items)))
            if not parts.file(number).is_file():
                parts.write(number, *vectors_of(model, samples, positions))
                computed += len(positions)
            say(positions.stop)
        with replacing(out) as partial:
            dim = write(partial, samples.items, parts)
        failed = {samples.items[p].path: why for _, _, each in parts.read() for p, why in each.items()}
        parts.remove()
    return Embedded(len(samples.items) - len(failed), dim, computed, failed)


@torch.no_grad()
def vectors_of(model: SSLModule | Bare, samples: Samples, positions: range) -> tuple[Tensor, list[int], dict[int, str]]:
    """Vectors [n, D] float32 of the readable samples at these positions, which these are, and why others are not."""
    at_once = max(1, (CHUNK_VALUES if model.device.type == "cpu" else CHUNK_VALUES_GPU) // samples.values_each)
    chunks = [positions[start : start + at_once] for start in range(0, len(positions), at_once)]
    vectors: list[Tensor] = []
    failed: dict[int, str] = {}
    with in_eval_mode(model):
        for images, unread in ahead(samples.read(chunk) for chunk in chunks):  # while the encoder is busy
            failed |= unread
            if len(images):
                vectors.append(model.student.embed(model.views.clean(images.to(model.device), None)).float().cpu())
    kept = [position for position in positions if position not in failed]
    return torch.cat(vectors) if vectors else torch.empty(0, 0), kept, failed  # [n, D]


def filled(parts: Parts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vectors [n, D] and positions [n] of the parts that have any."""
    for vectors, kept, _ in parts.read():
        if len(kept):
            yield vectors, kept


def width_of(parts: Parts) -> int:
    """D.

    Raises:
        ValueError: there is no vector.
    """
    for vectors, _ in filled(parts):
        return vectors.shape[1]
    raise ValueError("no sample could be read, so there are no vectors to write")


def write_csv(path: Path, items: Sequence[Item], parts: Parts) -> int:
    """path, label, split, v0 ... of each sample; returns D."""
    dim = width_of(parts)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*Item._fields, *(f"v{d}" for d in range(dim))])
        for vectors, kept in filled(parts):
            writer.writerows([*items[p], *map(repr, row)] for p, row in zip(kept, vectors.tolist(), strict=True))
    return dim


def write_npz(path: Path, items: Sequence[Item], parts: Parts) -> int:
    """Arrays path, label, split [N] and vector [N, D] float32, part by part; returns D."""
    dim = width_of(parts)
    kept = np.concatenate([positions for _, positions in filled(parts)])  # [N]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for column, name in enumerate(Item._fields):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray([items[p][column] for p in kept], np.str_))
        with archive.open("vector.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(kept), dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for vectors, _ in filled(parts):
                file.write(vectors.astype("<f4").tobytes())
    return dim


def write_parquet(path: Path, items: Sequence[Item], parts: Parts) -> int:
    """Columns path, label, split and vector, a list of D float32; returns D."""
    pa, pq = pyarrow()
    dim = width_of(parts)
    text = [(name, pa.string()) for name in Item._fields]
    schema = pa.schema([*text, ("vector", pa.list_(pa.float32(), dim))])
    with pq.ParquetWriter(path, schema) as writer:
        for vectors, kept in filled(parts):
            columns = [pa.array([items[p][c] for p in kept], pa.string()) for c in range(len(text))]
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return dim


def pyarrow() -> tuple[Any, Any]:
    """The package that writes parquet.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError("a .parquet file needs pyarrow: pip install pyarrow, or write .npz or .csv") from error
    return pyarrow, pyarrow.parquet


WRITERS = {".npz": write_npz, ".csv": write_csv, ".parquet": write_parquet}
"""Ending -> what writes such a file."""


def writer_of(out: Path) -> Callable[[Path, Sequence[Item], Parts], int]:
    """What writes a file of this ending.

    Raises:
        ValueError: nothing does, or a package is missing.
    """
    if out.suffix not in WRITERS:
        raise ValueError(f"out={out} ends in {out.suffix or 'nothing'}: choose one of {', '.join(WRITERS)}")
    if out.suffix == ".parquet":
        pyarrow()
    return WRITERS[out.suffix]


def stamp(path: Path) -> str:
    """A file as it is now: path, bytes, time of change."""
    status = path.stat()
    return json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns])
