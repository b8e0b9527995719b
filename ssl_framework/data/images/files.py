"""Image files of any size, decoded anew every epoch: worker processes decode, cut and resize, and nothing more.

What is random about a crop is a function of (seed, epoch, sample, view), so neither the number of workers nor the
number of ranks nor an interruption changes it. Everything after the crop is done on the training device, in ``views``.

N images, B samples a rank, V views, C channels, S pixels a side.
"""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ssl_framework.arguments import BelowOne, Bits, Channels, Natural, Pixels, Seed, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.images.decoding import Opened, decode_in_order, open_image, read_crops, reason_of
from ssl_framework.data.images.folder import ON_ERROR, check_channels
from ssl_framework.data.images.layout import Layout
from ssl_framework.data.images.table import tabled
from ssl_framework.data.loader import Loader, Undecoded, delivered, each_tensor
from ssl_framework.data.residence import note, processes
from ssl_framework.data.samplers import Draw
from ssl_framework.runs.stopping import begin_worker
from ssl_framework.types import Samples, step_seed
from ssl_framework.views.crops import CROP_DRAWS, central_box, place_crops
from ssl_framework.views.reading import Group

OPEN_AT_ONCE = 16  # files whose boxes are drawn together, which saves time; they are held in memory meanwhile


Item: TypeAlias = tuple[int, list[int]]
"""What a worker is asked for: the epoch and the B positions of a batch."""


Cut: TypeAlias = tuple[list[Tensor], list[Tensor], list[int], dict[int, str]]
"""What it answers: V x [B, C, size, size] uint8 and V x [B, 4] float32, as in ``Samples``; the B positions that these
are of; and position -> reason of files that could not be read."""


class Unreadable(Exception):
    """A file of a batch cannot be read.

    Args:
        row: of the batch.
        reason: why.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


@runtime_checkable
class Pictures(Protocol):
    """N encoded pictures. They must pickle, to travel to worker processes."""

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, index: int) -> Path | str:
        """What messages call one."""
        ...

    def open(self, index: int, channels: int, bits: int | None) -> Opened:
        """One of them, as ``decoding.open_image`` opens a file."""
        ...

    def squares(
        self, index: Sequence[int], size: int, channels: int, bits: int | None, num_threads: int
    ) -> Iterator[Tensor | str]:
        """The middle squares of some, or why one cannot be read, as ``decoding.decode_in_order`` makes them."""
        ...


class Paths:
    """N paths in one block of memory, which worker processes share instead of copying it; as ``Pictures``."""

    def __init__(self, paths: Sequence[Path]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.text = b"".join(encoded)
        self.end = np.cumsum([len(path) for path in encoded])  # [N]

    def __len__(self) -> int:
        return len(self.end)

    def __getitem__(self, index: int) -> Path:
        return Path(os.fsdecode(self.text[self.end[index - 1] if index else 0 : self.end[index]]))

    def open(self, index: int, channels: int, bits: int | None) -> Opened:
        return open_image(self[index], channels, bits)

    def squares(
        self, index: Sequence[int], size: int, channels: int, bits: int | None, num_threads: int
    ) -> Iterator[Tensor | str]:
        return decode_in_order([self[position] for position in index], size, channels, num_threads, bits)


class Files(Undecoded):
    """The files of one split, as ``base.Rows``.

    Args:
        paths: N files, or pictures of another kind.
        size: S, side that evaluators see the images with, pixels.
        channels: C, as in ``FilesSource``.
        num_workers: processes that decode for training, and threads that decode for evaluators (there at least one).
        bits, on_error: as in ``FilesSource``.

    ``skipped`` grows to say which files could not be read when their turn came, and why.
    """

    def __init__(
        self,
        paths: Sequence[Path] | Pictures,
        size: int,
        channels: int,
        num_workers: int,
        bits: int | None = None,
        on_error: str = "refuse",
    ) -> None:
        self.paths: Pictures = Paths(paths) if isinstance(paths, Sequence) else paths
        self.size = size
        self.channels = channels
        self.num_workers = num_workers
        self.bits = bits
        self.on_error = on_error
        self.skipped: dict[str, str] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, S, S."""
        return len(self.paths), self.channels, self.size, self.size

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[B] int64 -> the middle squares [B, C, S, S] uint8, as ``decoding.read_image`` makes them.

        Raises:
            ValueError: a file cannot be read.
        """
        pixels = np.empty((len(index), *self.shape[1:]), np.uint8)  # [B, C, S, S]
        threads = max(1, self.num_workers)
        squares = self.paths.squares(index.tolist(), self.size, self.channels, self.bits, threads)
        for row, result in enumerate(squares):
            if isinstance(result, str):
                self.skip(self.paths[int(index[row])], result)
                pixels[row] = 0  # black: a row has to be there, of a file that is counted
            else:
                pixels[row] = result.numpy()
        return torch.from_numpy(pixels)

    @property
    def unread(self) -> dict[str, str]:
        return self.skipped

    def skip(self, path: Path | str, reason: str) -> None:
        """Notes a file that cannot be read, and says so the first time.

        Raises:
            ValueError: with ``on_error="refuse"``.
        """
        if self.on_error == "refuse":
            raise ValueError(unreadable(path, reason))
        if str(path) not in self.skipped:
            self.skipped[str(path)] = reason
            note(f"{path} cannot be read ({reason}): left out, as data.on_error=skip says")

    def loader(
        self,
        label: Tensor | None,
        groups: Sequence[Group],
        device: torch.device,
        global_batch_size: int,
        seed: int,
        served: int,
        draw: Draw | None = None,
    ) -> "FilesLoader":
        """As in ``Undecoded``."""
        return FilesLoader(self, label, groups, device, global_batch_size, seed, served, draw)


def unreadable(path: Path | str, reason: str) -> str:
    """What is said of a file that cannot be decoded when its turn has come."""
    return f"{path} cannot be read ({reason}): repair or remove it, or set data.on_error=skip to train without it"


class Cutter(Dataset[Cut | str]):
    """Decodes and cuts whole batches, in a worker process.

    With ``on_error="skip"`` the next readable file, in the order of the set, takes the place of one that is not: a
    function of the files alone, so that a resumed run does the same.

    Args:
        files: the training set.
        groups: how the views are cut.
        seed: of the boxes.
    """

    def __init__(self, files: Files, groups: Sequence[Group], seed: int) -> None:
        self.paths = files.paths
        self.channels = files.channels
        self.bits = files.bits
        self.skips = files.on_error == "skip"
        self.views = [group for group in groups for _ in range(group.num_views)]
        self.seed = seed

    def __getitem__(self, item: Item) -> Cut | str:
        """The crops of one batch, or what is wrong with a file in it."""
        epoch, positions = item
        positions, skipped = list(positions), dict[int, str]()
        sizes = [view.size for view in self.views]
        crops = [torch.empty(len(positions), self.channels, s, s, dtype=torch.uint8) for s in sizes]  # V x [B, C, s, s]
        fractions = torch.empty(len(self.views), len(positions), 4)  # [V, B, 4]
        first = 0
        while first < len(positions):
            rows = range(first, min(first + OPEN_AT_ONCE, len(positions)))
            try:
                fractions[:, rows.start : rows.stop] = self.cut(epoch, positions, rows, sizes, crops)
                first = rows.stop
            except Unreadable as error:
                if not self.skips or len(skipped) == len(self.paths) - 1:
                    return unreadable(self.paths[positions[error.row]], str(error))
                skipped[positions[error.row]] = str(error)
                positions[error.row] = (positions[error.row] + 1) % len(self.paths)  # and these rows once more
        return crops, list(fractions), positions, skipped

    def cut(
        self, epoch: int, positions: Sequence[int], rows: range, sizes: Sequence[int], crops: list[Tensor]
    ) -> Tensor:
        """Cuts some rows of a batch into ``crops``; their boxes as shares of the images, [V, n, 4].

        Raises:
            Unreadable: one of the files.
        """
        opened: list[Opened] = []
        row = rows.start
        try:
            for row in rows:
                opened.append(self.paths.open(positions[row], self.channels, self.bits))
            boxes = self.boxes(epoch, [positions[row] for row in rows], opened)  # [V, n, 4]
            for row, image, box in zip(rows, opened, boxes.unbind(1), strict=True):
                for view, crop in enumerate(read_crops(image, box.tolist(), sizes, self.channels, self.bits)):
                    crops[view][row] = crop
        except Exception as error:  # a broken file makes decoders raise almost anything
            raise Unreadable(row, reason_of(error)) from error
        return as_fractions(boxes, opened)

    def boxes(self, epoch: int, positions: Sequence[int], opened: Sequence[Opened]) -> Tensor:
        """Top, left, height, width of every crop in pixels: [V, n, 4] int64, a function of (seed, epoch, position)."""
        height = torch.tensor([[image.height] for image in opened])  # [n, 1]
        width = torch.tensor([[image.width] for image in opened])  # [n, 1]
        epoch_seed = step_seed(self.seed, epoch, rank=-3)
        generator = torch.Generator()
        boxes = []
        for number, view in enumerate(self.views):
            ratio = (1.0, 1.0) if view.scale is None else view.ratio
            central = torch.tensor([central_box(image.height, image.width, ratio) for image in opened])  # [n, 4]
            if view.scale is None:
                boxes.append(central)
                continue
            draws = torch.empty(len(positions), CROP_DRAWS)  # [n, 22]
            for row, position in enumerate(positions):
                generator.manual_seed(step_seed(epoch_seed, position, number))
                torch.rand(CROP_DRAWS, generator=generator, out=draws[row])
            boxes.append(place_crops(draws, height, width, central.split(1, dim=1), view.scale, view.ratio))  # [n, 4]
        return torch.stack(boxes)  # [V, n, 4]


def as_fractions(boxes: Tensor, opened: Sequence[Opened]) -> Tensor:
    """Top, left, height, width in pixels [V, n, 4] -> x0, y0, x1, y1 as shares of the images' sizes [V, n, 4]."""
    top, left, tall, wide = boxes.float().unbind(-1)  # 4 x [V, n]
    height = torch.tensor([float(image.height) for image in opened])  # [n]
    width = torch.tensor([float(image.width) for image in opened])  # [n]
    return torch.stack((left / width, top / height, (left + wide) / width, (top + tall) / height), -1)  # [V, n, 4]


class Plan(Sampler[Item]):
    """What the workers are to do in the running epoch, in this order."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


class FilesLoader(Loader):
    """Has worker processes make whole batches, ahead of the training.

    Args:
        files: the training set.
        label: [N] int64 on the CPU, or None.
        groups: how the views are cut.
        device: where the batches go.
        global_batch_size, seed, served, draw: as in ``Loader``.
    """

    def __init__(
        self,
        files: Files,
        label: Tensor | None,
        groups: Sequence[Group],
        device: torch.device,
        global_batch_size: int,
        seed: int,
        served: int = 0,
        draw: Draw | None = None,
    ) -> None:
        super().__init__(len(files), global_batch_size, seed, served, draw)
        self.files = files
        self.label = label
        self.device = device
        self.plan = Plan()
        self.running: Generator[Samples, None, None] | None = None
        self.workers: DataLoader[Cut | str] | None = DataLoader(
            Cutter(files, groups, seed),
            batch_size=None,  # an item is a batch already
            sampler=self.plan,
            num_workers=files.num_workers,
            persistent_workers=files.num_workers > 0,
            worker_init_fn=partial(begin_worker, os.getpid()),
            generator=torch.Generator(),  # of the workers' seeds, which nothing uses; the global one stays untouched
        )

    def fetch(self, indices: list[Tensor]) -> Iterator[Samples]:
        """Raises ValueError, naming the file, for one that cannot be read."""
        assert self.workers is not None
        self.plan.items = [(self.epoch, index.tolist()) for index in indices]
        made = iter(self.workers)  # here, not in the background: workers are forked from the main thread
        samples = (self.as_samples(index, cut) for index, cut in zip(indices, made, strict=True))
        if self.workers.num_workers == 0:  # made here, when asked for: beside the training it would slow that down
            return (each_tensor(batch, lambda x: x.to(self.device)) for batch in samples)
        self.running = delivered(samples, self.device)
        return self.running

    def as_samples(self, index: Tensor, cut: Cut | str) -> Samples:
        """What a worker answered, with the positions [B] and their labels."""
        if isinstance(cut, str):
            raise ValueError(cut)
        crops, boxes, positions, skipped = cut
        for position, reason in skipped.items():
            self.files.skip(self.files.paths[position], reason)
        if skipped:
            index = torch.tensor(positions)  # [B]
        return Samples(crops, index, None if self.label is None else self.label[index], boxes)

    def close(self) -> None:
        """Ends the worker processes, also in the middle of an epoch."""
        if self.running is not None:
            self.running.close()
        self.running = self.workers = None


@guarded
class FilesSource:
    """Image files of any size that are decoded when they are needed and never kept.

    Args:
        root: the folder, in one of the layouts of ``layout``.
        channels: C, 1 (grey) or 3 (RGB), to which every file is converted, or up to 16 bands of .tif and .npy files.
        image_size: S, side that evaluators see the images with, pixels.
        test_fraction, seed, test_folder: as in ``layout.Layout``.
        num_workers: decoding processes of each rank; None for the rank's share of the cores, 0 for none.
        targets: as in ``layout.Layout``.
        bits: that values of 16 bits use, the highest of which becomes white; ``None``: all 16.
        on_error: what an unreadable file does when its turn has come: "refuse" ends the run, "skip" takes the next one
            in its place (an evaluation a black image) and counts it.
        table, columns: as in ``folder.FolderSource``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        root: str,
        channels: Channels,
        image_size: Pixels,
        test_fraction: BelowOne,
        seed: Seed,
        test_folder: str | None = None,
        num_workers: Natural | None = None,
        targets: str | None = None,
        bits: Bits | None = None,
        on_error: str = "refuse",
        table: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        check_channels(channels)
        if on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={on_error} is not known: choose one of {', '.join(ON_ERROR)}.")
        self.bits = bits
        self.on_error = on_error
        self.layout = Layout(root, test_fraction, seed, test_folder, targets, tabled(table, columns, on_error))
        self.channels = channels
        self.image_size = image_size
        self.num_workers = num_workers
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """``Files``; label None throughout for a flat folder without targets; pretrain and train are the same.

        Raises:
            FileNotFoundError: the root is not there, or the targets are not.
            ValueError: a layout that is not known, targets that do not fit the files, or a split without images.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.loaded:
            paths, label, classes = self.layout.split(name)
            workers = share_of_cores() if self.num_workers is None else self.num_workers
            files = Files(paths, self.image_size, self.channels, workers, self.bits, self.on_error)
            self.loaded[name] = Split(files, label, classes)
        return self.loaded[name]


def share_of_cores() -> int:
    """Cores of the machine, divided by the processes of the run, at least 1."""
    return max(1, (os.cpu_count() or 1) // processes())
