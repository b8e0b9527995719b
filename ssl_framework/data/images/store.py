"""A store: decoded images in memory-mapped files, which train at the speed of memory without having to fit in it.

    store.json                what the store holds; written last, so a folder without it is no store
    train.npy, test.npy       uint8 [N, C, S, S]
    train_label.npy, ...      int64 [N] classes or float32 [N] numbers, when the images have labels

``scripts/prepare_data.py`` makes one of a folder of image files; ``data=store`` trains from it.

N images, C channels, S pixels a side.
"""

import json
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_framework.arguments import Channels, Pixels, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.runs.plain import plain_json

VERSION = 1


DESCRIPTION = "store.json"


KEYS = ("version", "short_side", "channels", "classes", "labelled", "count", "skipped", "root")


class Mapped:
    """The images of one ``.npy`` file, as ``base.Rows``: on disk, and in the system's file cache once read.

    Args:
        path: of the file, uint8 [N, C, H, W].

    Raises:
        ValueError: the file is of another format, type or shape, or shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                self.offset = file.tell()
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ValueError(f"{path} is no .npy file ({error}): make the store again.") from error
        if dtype != np.uint8 or len(shape) != 4 or fortran or len(self.map) != self.offset + int(np.prod(shape)):
            raise ValueError(
                f"{path} holds {dtype} {list(shape)} in {len(self.map)} bytes, expected uint8 [N, C, H, W], whole: "
                "make the store again."
            )
        self.array = np.frombuffer(self.map, np.uint8, offset=self.offset).reshape(shape)  # [N, C, H, W]

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W."""
        return self.array.shape

    @property
    def dtype(self) -> torch.dtype:
        """Pixels are uint8."""
        return torch.uint8

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[B] int64 on the CPU -> [B, C, H, W] uint8, a copy in memory."""
        bytes_each = self.array[0].nbytes
        for position in (index * bytes_each + self.offset).tolist():
            start = position // mmap.PAGESIZE * mmap.PAGESIZE
            # Asks the disk for all images at once; reading alone would wait for one after the other.
            self.map.madvise(mmap.MADV_WILLNEED, start, position + bytes_each - start)
        # numpy copies image by image, where torch's indexing takes five times as long on uint8
        return torch.from_numpy(self.array.take(index.numpy(), axis=0))  # [B, C, H, W]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its name when the block ends well and is removed when it fails.

    Raises:
        FileExistsError: something took the name in the meantime.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        try:
            partial.rename(folder)  # the system refuses unless the name is free or that of an empty folder
        except OSError as error:
            raise FileExistsError(f"{folder} exists already") if folder.exists() else error from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_pixels(path: Path, images: Iterable[Tensor], most: int, shape: Sequence[int]) -> int:
    """Streams images into a new ``.npy`` file, in their order.

    Args:
        path: of the file.
        images: each [C, H, W] uint8.
        most: there are at most so many.
        shape: C, H, W.

    Returns:
        N, how many there were.
    """
    count = 0
    with path.open("wb") as file:
        write_header(file, most, shape)
        offset = file.tell()
        for image in images:
            file.write(image.contiguous().numpy().data)
            count += 1
        file.seek(0)
        write_header(file, count, shape)
        assert file.tell() == offset, "numpy leaves room in its header for a length of any size"
        file.flush()
        os.fsync(file.fileno())
    return count


def write_header(file: Any, count: int, shape: Sequence[int]) -> None:
    """The header of an ``.npy`` file of uint8 [count, *shape]."""
    described = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, described)


def write_label(folder: Path, name: str, label: Tensor) -> None:
    """Labels [N] int64 of split ``name``."""
    np.save(folder / f"{name}_label.npy", label.numpy())


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Writes ``store.json``, which makes the folder a store; ``description`` has ``KEYS`` but the version."""
    content = {"version": VERSION, **description}
    assert sorted(content) == sorted(KEYS)
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n")


def read_description(folder: Path) -> dict[str, Any]:
    """The content of ``store.json``.

    Raises:
        FileNotFoundError: there is no such folder, or it is no (complete) store.
        ValueError: the description is damaged or of another version.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        what = f"has no {DESCRIPTION}, so it is no complete store" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"data.root={folder} {what}: make one with python scripts/prepare_data.py IMAGES {folder} --short-side 160."
        )
    try:
        content = plain_json(path.read_bytes(), str(path))
        missing = [key for key in KEYS if key not in content]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): make the store again.") from error
    if missing or content["version"] != VERSION:
        found = f"lacks {', '.join(missing)}" if missing else f"is of version {content['version']}, not {VERSION}"
        raise ValueError(f"{path} {found}: make the store again with this version of the package.")
    return content


def read_split(folder: Path, name: str, description: dict[str, Any]) -> Split:
    """Split "train" or "test" of a store, its images memory-mapped.

    Raises:
        ValueError: the files do not hold what ``description`` says.
    """
    count, side, channels = description["count"][name], description["short_side"], description["channels"]
    try:
        pixels = Mapped(folder / f"{name}.npy")
        label = torch.from_numpy(np.load(folder / f"{name}_label.npy")) if description["labelled"] else None  # [N]
    except OSError as error:
        raise ValueError(f"{folder} is not the store its {DESCRIPTION} describes ({error}): make it again.") from error
    expected = (count, channels, side, side)
    known = label is None or (label.dtype in (torch.int64, torch.float32) and label.shape == (count,))
    if pixels.shape != expected or not known:
        raise ValueError(
            f"{folder}: {name} has images {list(pixels.shape)}, but {DESCRIPTION} says {list(expected)} with one label "
            "an image: make the store again."
        )
    return Split(pixels, label, tuple(description["classes"]))


@guarded
class StoreSource:
    """Images of a store, memory-mapped; the loader takes them into memory where they fit.

    Args:
        root: the store's folder.
        channels: C the config asks for.
        image_size: side of a view, pixels; the stored images must not be smaller.
    """

    def __init__(self, root: str, channels: Channels, image_size: Pixels) -> None:
        self.root = Path(root).expanduser()
        self.channels = channels
        self.image_size = image_size
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, C, S, S] uint8 images, ``Mapped``; pretrain and train are the same.

        Raises:
            FileNotFoundError: there is no store.
            ValueError: the store is damaged, has no test images, or does not fit the config.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.loaded:
            description = read_description(self.root)
            side, channels = description["short_side"], description["channels"]
            if channels != self.channels:
                raise ValueError(
                    f"{self.root} holds images of {channels} channel(s) but data.channels={self.channels}: "
                    f"set data.channels to {channels}."
                )
            if side < self.image_size:
                raise ValueError(
                    f"{self.root} holds images of {side} x {side} pixels but data.image_size={self.image_size}, so "
                    f"views would be enlarged: set data.image_size to at most {side}, or make the store again with "
                    f"--short-side {self.image_size}."
                )
            if not description["count"].get(name):
                raise ValueError(
                    f"{self.root} has no {name} images: make it again with --test-fraction above 0 or a test folder, "
                    "or switch the evaluation off."
                )
            self.loaded[name] = read_split(self.root, name, description)
        return self.loaded[name]
