"""Batches for training, so that the accelerator never waits for them.

    ResidentLoader   the set lies where it is trained on: a batch is one gather, without workers or copies
    HostLoader       it is too large for that: a thread gathers in memory or from a mapped file, batches ahead
    files.py         files decoded when asked for: worker processes decode and cut, batches ahead
    shards.py        encoded images in shards: worker processes read long runs and decode, in an order of its own

The first three serve the same samples in the same order, which the sampler (``samplers.py``) makes of the data and
(seed, epoch) and of nothing else: not of the loader, the number of ranks, threads or workers, or of where the run was
interrupted.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ssl_framework.data.base import Rows, Split, chosen
from ssl_framework.data.residence import free_memory, note
from ssl_framework.data.samplers import Draw, Population, Uniform
from ssl_framework.distributed import rank, world_size
from ssl_framework.types import Samples
from ssl_framework.views.reading import Group

AHEAD = 2  # batches that are made while one is trained on


COPY_BYTES = 2**28  # of a set that are moved to where it is trained on at once


T = TypeVar("T")


class Loader(ABC):
    """Batches of one epoch in an order that is a function of (seed, epoch) alone.

    Args:
        count: N, samples of the training set.
        global_batch_size: samples of all ranks together; the last, incomplete batch of an epoch is left out.
        seed: of the order.
        served: batches of the first epoch that an earlier part of the run has already seen.
        draw: the batches of an epoch (see ``samplers``); ``None``: every sample once, in random batches.

    ``served`` counts the batches of the running epoch that were handed out, not those made ahead.
    """

    def __init__(self, count: int, global_batch_size: int, seed: int, served: int, draw: Draw | None = None) -> None:
        self.draw = draw or Draw(Uniform(), Population(count), global_batch_size)
        self.num_batches = self.draw.num_batches(seed)
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.epoch = 0
        self.served = served
        self.sampler = self  # Lightning announces each epoch to ``loader.sampler.set_epoch``

    @abstractmethod
    def fetch(self, indices: list[Tensor]) -> Iterator[Samples]:
        """The samples at each of ``indices``, B positions [B] int64 on the CPU a batch, in this order."""

    def close(self) -> None:  # noqa: B027  most loaders have nothing to end
        """Ends what runs beside the training, if anything does."""

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Samples]:
        start, self.served = self.served, 0
        share = self.global_batch_size // world_size()
        whole = self.draw(self.seed, self.epoch).view(len(self), world_size(), share)  # [batches, W, B]
        own = whole[start:, rank()]  # [batches, B]
        for batch, samples in enumerate(self.fetch(list(own)), start):
            self.served = (batch + 1) % len(self)  # 0 again once the epoch is through
            yield samples


class ResidentLoader(Loader):
    """Gathers each batch when it is asked for, from samples that lie on the device they are trained on.

    Args:
        split: the training set, its samples on one device.
        global_batch_size, seed, served, draw: as in ``Loader``.
    """

    def __init__(
        self, split: Split, global_batch_size: int, seed: int, served: int = 0, draw: Draw | None = None
    ) -> None:
        super().__init__(len(split.rows), global_batch_size, seed, served, draw)
        self.split = split

    def fetch(self, indices: list[Tensor]) -> Iterator[Samples]:
        if not indices:
            return
        on_device = torch.stack(indices).to(self.split.rows.device)  # [batches, B], one copy an epoch
        for index in on_device:
            yield take(self.split, index)


class HostLoader(Loader):
    """Gathers batches ahead of the training in a thread, from samples in memory or in a mapped file.

    Args:
        split: the training set, its samples on the CPU.
        device: where the batches go.
        global_batch_size, seed, served, draw: as in ``Loader``.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        global_batch_size: int,
        seed: int,
        served: int = 0,
        draw: Draw | None = None,
    ) -> None:
        super().__init__(len(split.rows), global_batch_size, seed, served, draw)
        self.split = split
        self.device = device

    def fetch(self, indices: list[Tensor]) -> Iterator[Samples]:
        return delivered((take(self.split, index) for index in indices), self.device)


class Undecoded(ABC):
    """Images (see ``base.Rows``) that are decoded where they are read, by a training loader of their own."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W, as evaluators see the images."""

    @property
    def unread(self) -> dict[str, str]:
        """Which files were left out because they could not be read, and why."""
        return {}

    @property
    def dtype(self) -> torch.dtype:
        """Pixels are uint8."""
        return torch.uint8

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[B] int64 -> [B, C, H, W] uint8, for sets that evaluators may index."""
        raise ValueError(f"{type(self).__name__} can be read in the order of its training loader only")

    @abstractmethod
    def loader(
        self,
        label: Tensor | None,
        groups: Sequence[Group],
        device: torch.device,
        global_batch_size: int,
        seed: int,
        served: int,
        draw: Draw | None = None,
    ) -> Loader:
        """The training loader; its samples are crops, one for each view, or whole images of one size.

        Args:
            label: [N] int64 on the CPU.
            groups: how the views are cut (``num_views``, ``size``, ``scale``, ``ratio``), in the order of the views.
            device: where the batches go.
            global_batch_size, seed, served, draw: as in ``Loader``.
        """


def take(split: Split, index: Tensor) -> Samples:
    """The samples at positions [B], which lie on the device of the split."""
    label = None if split.label is None else split.label[index]  # [B]
    beside = None if split.beside is None else {name: chosen(x, index) for name, x in split.beside.items()}
    return Samples(chosen(split.rows, index), index, label, beside=beside)


def ahead(items: Iterator[T], depth: int = AHEAD) -> Generator[T, None, None]:
    """The same items in the same order, made in one background thread, up to ``depth`` before they are asked for.

    What making one raises is raised when it is asked for. Closing this iterator waits for the item in the making.
    """
    end: Any = object()
    pool = ThreadPoolExecutor(1)
    try:
        waiting: deque[Future[T]] = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def delivered(batches: Iterator[Samples], device: torch.device) -> Generator[Samples, None, None]:
    """The same batches on ``device``, made and copied there ahead in a background thread.

    The copies to a GPU start from pinned memory on a stream of their own, so neither they nor the host hold up the
    training that goes on meanwhile.
    """
    if device.type != "cuda":
        yield from ahead(batches)
        return
    stream = torch.cuda.Stream(device)

    def copied() -> Iterator[tuple[Samples, torch.cuda.Event]]:
        for batch in batches:
            with torch.cuda.stream(stream):
                there = each_tensor(batch, lambda x: x.pin_memory().to(device, non_blocking=True))
                event = stream.record_event()
            yield there, event

    for batch, event in ahead(copied()):
        training = torch.cuda.current_stream(device)
        training.wait_event(event)
        for tensor in tensors_of(batch):
            tensor.record_stream(training)  # or its memory could be handed out again while it is still read
        yield batch


def tensors_of(samples: Samples) -> list[Tensor]:
    """All tensors of a batch."""
    inputs = samples.inputs if isinstance(samples.inputs, list) else [samples.inputs]
    label = [] if samples.label is None else [samples.label]
    return [*inputs, samples.index, *label, *(samples.box or []), *(samples.beside or {}).values()]


def each_tensor(samples: Samples, change: Callable[[Tensor], Tensor]) -> Samples:
    """The batch with every tensor changed."""
    inputs = [change(x) for x in samples.inputs] if isinstance(samples.inputs, list) else change(samples.inputs)
    label = None if samples.label is None else change(samples.label)
    box = None if samples.box is None else [*map(change, samples.box)]
    beside = samples.beside and {name: change(column) for name, column in samples.beside.items()}
    return Samples(inputs, change(samples.index), label, box, beside)


def resident(rows: Rows, device: torch.device, share: float, further: int = 0) -> Tensor | None:
    """All samples in one tensor on ``device``, or None, with a note, where they take more than ``share`` of its memory.

    A tensor that lies there already is returned as it is.

    Args:
        rows: the samples.
        device: where they are to lie.
        share: of its free memory.
        further: bytes that are to lie there beside them.
    """
    if isinstance(rows, Tensor) and rows.device.type == device.type == "cpu":
        return rows
    size, free = rows.dtype.itemsize * math.prod(rows.shape), free_memory(device)
    if size + further > share * free:
        where = "in the host's memory" if isinstance(rows, Tensor) else "on disk, memory-mapped"
        note(
            f"the training samples take {(size + further) / 1e9:.1f} GB, more than data.resident_share={share} of the "
            f"{free / 1e9:.1f} GB of free memory of {device}: they stay {where}, and batches are made in the background"
        )
        return None
    if isinstance(rows, Tensor):
        return rows.to(device)
    whole = torch.empty(rows.shape, dtype=rows.dtype, device=device)  # [N, ...]
    for index in torch.arange(len(rows)).split(max(1, COPY_BYTES * len(rows) // size)):
        whole[index[0] : index[-1] + 1] = rows[index].to(device)
    return whole


class Streamed(Protocol):
    """A training set that is read in its own order, with a loader like ``Loader`` (see ``shards``)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N and the shape of a sample, of pictures C, H, W."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        ...

    @property
    def unread(self) -> Mapping[str, str]:
        """Which samples were left out because they could not be read, and why."""
        ...

    def loader(self, global_batch_size: int, seed: int, served: int, device: torch.device) -> Any:
        """Batches on ``device``, with the attributes and methods of ``Loader`` but ``draw`` and ``fetch``."""
        ...
