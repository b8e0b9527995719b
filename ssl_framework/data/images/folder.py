"""Any folder of image files, decoded once: into memory, or into a memory-mapped store where they do not fit.

N images, C channels, S pixels a side.
"""

import fcntl
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Bits, Channels, Count, Fraction, Pixels, Seed, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.images import store
from ssl_framework.data.images.decoding import decode_in_order
from ssl_framework.data.images.layout import Layout, Listing, seen_from
from ssl_framework.data.images.table import tabled
from ssl_framework.data.residence import free_memory, note

ON_ERROR = ("refuse", "skip")


STORES = ".ssl_framework"  # folder of the stores below a folder of images; hidden, so its files are not listed


Track: TypeAlias = Callable[[Sequence[Path], str], Iterable[Path]]
"""Shows how far an iteration is: paths and the name of their split -> the same paths."""


MOST_CHANNELS = 16


def check_channels(channels: int) -> None:
    """Raises ValueError unless files can be read as so many channels."""
    if not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(f"data.channels={channels} is not supported for files: set it between 1 and {MOST_CHANNELS}.")


def check_bits(bits: int | None) -> None:
    """Raises ValueError unless values of 16 bits can use so many of them."""
    if bits is not None and not 8 < bits <= 16:
        raise ValueError(f"data.bits is {bits}: it must be a whole number from 9 to 16, or null.")


def check_failed(
    root: Path, name: str, paths: Sequence[Path], failed: dict[int, str], on_error: str, many: str = "images"
) -> None:
    """Says which files of a split could not be read.

    Args:
        root: of the files.
        name: of the split.
        paths: all files of the split.
        failed: position in ``paths`` -> reason.
        on_error: "refuse" or "skip".
        many: what the files are, in words.

    Warns:
        with "skip", how many were left out, and which come first.

    Raises:
        ValueError: with "refuse", or when none is left.
    """
    if not failed:
        return
    first = ", ".join(f"{seen_from(root, paths[index])} ({failed[index]})" for index in list(failed)[:3])
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    found = f"{len(failed)} of {len(paths)} {many} of the {name} split in {root} cannot be read: {first}{more}"
    if len(failed) == len(paths):
        raise ValueError(f"{found}; none is left, so replace these files or change data.root.")
    if on_error == "refuse":
        raise ValueError(
            f"{found}; repair or remove them, or set data.on_error=skip (--on-error skip) to leave them out."
        )
    warnings.warn(f"{found}; left out, as data.on_error=skip says.")


def kept(label: Tensor | None, num: int, failed: dict[int, str]) -> Tensor | None:
    """Labels of the files that could be read: [num] -> [num - len(failed)]."""
    return None if label is None else label[[index for index in range(num) if index not in failed]]


def untracked(paths: Sequence[Path], what: str) -> Iterable[Path]:
    """A ``Track`` that shows nothing."""
    return paths


def write_store(
    layout: Layout,
    folder: Path,
    size: int,
    channels: int,
    num_threads: int,
    on_error: str,
    track: Track = untracked,
    bits: int | None = None,
) -> None:
    """Makes a store of a folder of images, whole or not at all.

    Args:
        layout: the folder of images.
        folder: of the store, which must not exist.
        size: S, side of the stored images, pixels.
        channels: C, as in ``FolderSource``.
        num_threads: files decoded at once.
        on_error: "refuse" or "skip", as in ``FolderSource``.
        track: shows how far it is.
        bits: as in ``FolderSource``.

    Raises:
        FileExistsError: there is something at ``folder`` already.
        FileNotFoundError, ValueError: as ``FolderSource.load``, and when the disk has too little room.
    """
    splits = {name: listing for name, listing in layout.splits().items() if listing.paths}
    needed = size_of(splits, size, channels)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise ValueError(
                f"a store of {layout.root} needs {needed / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB "
                "free: choose another folder (data.store) or smaller images (data.stored_size)."
            )
        count: dict[str, int] = {}
        skipped: dict[str, int] = {}
        with store.new_folder(folder) as partial:
            for name, (paths, label, _) in splits.items():
                failed: dict[int, str] = {}
                images = readable(decode_in_order(track(paths, name), size, channels, num_threads, bits), failed)
                shape = (channels, size, size)
                count[name] = store.write_pixels(partial / f"{name}.npy", images, len(paths), shape)
                skipped[name] = len(failed)
                check_failed(layout.root, name, paths, failed, on_error)
                if (labels := kept(label, len(paths), failed)) is not None:
                    store.write_label(partial, name, labels)
            description = {
                "short_side": size,
                "channels": channels,
                "classes": splits["train"].classes,
                "labelled": splits["train"].label is not None,
                "count": count,
                "skipped": skipped,
                "root": str(layout.root.resolve()),
            }
            store.write_description(partial, description)
    except FileExistsError:
        raise
    except OSError as error:
        raise ValueError(
            f"a store cannot be written to {folder.parent} ({error.strerror}): choose another folder (data.store)."
        ) from error


def size_of(splits: dict[str, Listing], size: int, channels: int) -> int:
    """Bytes of all images of all splits, decoded."""
    return sum(len(listing.paths) for listing in splits.values()) * channels * size * size


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes ``folder`` and keeps other processes that ask for it waiting.

    Raises:
        ValueError: it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ValueError(
            f"a store cannot be written to {folder} ({error.strerror}): set data.store to a folder that can, or lower "
            "data.stored_size."
        ) from error
    with lock:
        with suppress(OSError):  # a file system without locks: all make the store, and the first rename counts
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def readable(results: Iterable[Tensor | str], failed: dict[int, str]) -> Iterator[Tensor]:
    """The images among ``results``; the reasons among them go into ``failed`` under their position."""
    for index, result in enumerate(results):
        if isinstance(result, str):
            failed[index] = result
        else:
            yield result


@guarded
class FolderSource:
    """Images from files on disk, resized to one size and decoded once.

    They are kept in memory if they take no more than a share of it, else in a store on disk, which is made the first
    time and used again as long as neither the files nor these arguments change.

    Args:
        root: the folder, in one of the layouts of this module's docstring.
        channels: C, 1 (grey) or 3 (RGB), to which every file is converted, or up to 16 bands of .tif and .npy files.
        image_size: side of a view, pixels; a stored image must not be smaller.
        stored_size: S, side the images are stored with, pixels.
        on_error: what an unreadable file does: "refuse" the whole set, or "skip" the file with a warning.
        test_fraction, seed, test_folder: as in ``Layout``.
        num_threads: files decoded at once.
        resident_share: of the free memory that the decoded images may take, in [0, 1]; 0: always a store.
        store: folder of the store; None for ``STORES`` below the root.
        targets: as in ``Layout``.
        make_store: whether a store that is needed and not there is made.
        bits: that values of 16 bits use, the highest of which becomes white; ``None``: all 16.
        table: CSV file that lists the images instead of the root, ``columns`` other names of its columns (see
            ``table.Table``).

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        root: str,
        channels: Channels,
        image_size: Pixels,
        stored_size: Pixels,
        on_error: str,
        test_fraction: BelowOne,
        seed: Seed,
        test_folder: str | None = None,
        num_threads: Count = 4,
        resident_share: Fraction = 1.0,
        store: str | None = None,
        targets: str | None = None,
        make_store: bool = True,
        bits: Bits | None = None,
        table: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        check_channels(channels)
        self.bits = bits
        if stored_size < image_size:
            raise ValueError(
                f"data.stored_size={stored_size} is below data.image_size={image_size}, so views would be enlarged: "
                f"set data.stored_size to {image_size} or more."
            )
        if on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={on_error} is not known: choose one of {', '.join(ON_ERROR)}.")
        self.layout = Layout(root, test_fraction, seed, test_folder, targets, tabled(table, columns, on_error))
        self.channels = channels
        self.stored_size = stored_size
        self.on_error = on_error
        self.num_threads = num_threads
        self.resident_share = resident_share
        self.stores = self.layout.root / STORES if store is None else Path(store).expanduser()
        self.make_store = make_store
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, C, S, S] uint8 images; label None throughout for a flat folder without targets; pretrain and train are
        the same images.

        Warns:
            with ``on_error="skip"``, how many files were left out of the split, and which come first; and when the
            images go to or come from a store.

        Raises:
            FileNotFoundError: the root is not there, or the targets are not.
            ValueError: a layout that is not one of the module's, targets that do not fit the files, unreadable files,
                or too little disk for a store.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.loaded:
            listing = self.layout.split(name)
            needed = size_of(self.layout.splits(), self.stored_size, self.channels)
            if self.loaded or needed <= self.resident_share * free_memory():  # decided once for both splits
                self.loaded[name] = self.decode(name, *listing)
            else:
                self.loaded = self.from_store(needed)
        return self.loaded[name]

    def decode(self, name: str, paths: Sequence[Path], label: Tensor | None, classes: tuple[str, ...]) -> Split:
        """Reads all files of split ``name`` into memory; warns and raises as ``load``."""
        pixels = torch.empty((len(paths), self.channels, self.stored_size, self.stored_size), dtype=torch.uint8)
        failed: dict[int, str] = {}
        count = 0
        for image in readable(
            decode_in_order(paths, self.stored_size, self.channels, self.num_threads, self.bits), failed
        ):
            pixels[count] = image
            count += 1
        check_failed(self.layout.root, name, paths, failed, self.on_error)
        return Split(pixels[:count], kept(label, len(paths), failed), classes)

    def from_store(self, needed: int) -> dict[str, Split]:
        """Both splits, ``needed`` bytes, from the store of these files and settings; raises as ``load``.

        It is made if there is none: by one of several processes, while the others wait. Stores of these settings and
        other files are then removed.
        """
        settings, files = self.fingerprint()
        folder = self.stores / f"{settings}-{files}"
        size = (
            f"{self.layout.root} takes {needed / 1e9:.1f} GB, more than data.resident_share={self.resident_share} of "
            f"the {free_memory() / 1e9:.1f} GB of free memory"
        )
        if not self.make_store and not (folder / store.DESCRIPTION).is_file():
            raise ValueError(
                f"{size}, so a store is needed, but {folder} is none, and a run that is loaded makes none: name a "
                "folder where one may be made with data.store=..., or raise data.resident_share"
            )
        if not (folder / store.DESCRIPTION).is_file():
            note(f"{size}: making a memory-mapped store in {folder}")
            with locked(self.stores):
                if not (folder / store.DESCRIPTION).is_file():
                    for old in (*self.stores.glob(f"{settings}-*"), *self.stores.glob(".*.partial")):
                        shutil.rmtree(old, ignore_errors=True)
                    with suppress(FileExistsError):
                        write_store(
                            self.layout,
                            folder,
                            self.stored_size,
                            self.channels,
                            self.num_threads,
                            self.on_error,
                            bits=self.bits,
                        )
            description = store.read_description(folder)
        else:
            description = store.read_description(folder)
            without = sum(description["skipped"].values())
            left_out = f", without {without} unreadable files" if without else ""
            note(f"{size}: using the memory-mapped store in {folder}{left_out}")
        return {name: store.read_split(folder, name, description) for name in description["count"]}

    def fingerprint(self) -> tuple[str, str]:
        """Two short hashes: of the settings, and of the files (split, path, size in bytes, time of change; targets)."""
        layout = self.layout
        settings = [store.VERSION, self.stored_size, self.channels, self.on_error]
        settings += [str(layout.root.resolve()), layout.test_fraction, layout.seed, layout.test_folder]
        settings += [] if self.bits is None else [self.bits]
        files = hashlib.sha256()
        if layout.targets is not None:
            settings.append(str(layout.targets.resolve()))
            files.update(layout.targets.read_bytes())
        if layout.table is not None:
            settings.append(repr(layout.table))
            files.update(layout.table.path.read_bytes())
        for name, listing in layout.splits().items():
            for path in listing.paths:
                status = path.stat()
                described = (name, str(seen_from(layout.root, path)), status.st_size, status.st_mtime_ns)
                files.update(repr(described).encode())
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8], files.hexdigest()[:16]
