"""Sets larger than a disk or a machine: encoded images in shards, which worker processes read in long runs and decode.

The libraries read: ``webdataset_shards.py`` through webdataset, ``litdata_shards.py`` through litdata. This file says
who reads what. An epoch is cut into G streams, and every global batch takes B * W / G samples of each.

    epoch    the shards in an order that is a function of (seed, epoch), their samples laid end to end
    stream   one of G runs of equal length of it, shuffled on its own
    rank     G / W streams, divided among its workers

So the batches of an epoch are a function of (seed, epoch, G): not of the number of ranks or workers, nor of where the
run was interrupted. A shard is read by one stream, except where a run ends inside it: there two streams share it, and
each decodes its own samples only. No sample comes twice in an epoch.

N images, B samples a rank, W ranks, G streams, C channels, S pixels a side.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from io import BytesIO
from itertools import accumulate, islice
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ssl_framework.data.base import Split, check_split
from ssl_framework.data.images.decoding import read_image, reason_of
from ssl_framework.data.images.files import share_of_cores
from ssl_framework.data.images.folder import ON_ERROR
from ssl_framework.data.images.stand_ins import StandIns, Undecodable
from ssl_framework.data.loader import delivered
from ssl_framework.data.residence import note
from ssl_framework.distributed import rank, world_size
from ssl_framework.runs.stopping import begin_worker
from ssl_framework.types import Samples, step_seed

DECODED_AT_ONCE = 256  # images for evaluation that are held encoded while threads decode them


class Piece(NamedTuple):
    """A run of samples of one shard."""

    shard: int  # number of the shard
    first: int  # its samples first, ..., last - 1
    last: int


class Encoded(NamedTuple):
    """One sample as a shard holds it."""

    image: bytes  # a JPEG, PNG or WebP file
    index: int  # type: ignore[assignment]  # position in the set, which is the samples of all shards in the order of their numbers
    label: int | None
    name: str  # where it lies, for messages


class Reader(Protocol):
    """The shards of one split, as one of the libraries reads them. It must pickle, to travel to worker processes."""

    counts: list[int]  # samples of each shard
    labelled: bool

    def samples(self, piece: Piece) -> Iterator[Encoded]:
        """The samples of a piece in their order."""
        ...

    def stream(self, pieces: Sequence[Piece], seed: int, skip: int) -> Iterator[Encoded]:
        """The samples of all pieces, shuffled as ``seed`` says, without the first ``skip`` of them."""
        ...


def library(name: str) -> ModuleType:
    """The module that ``data=<name>`` needs, which is optional.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"data={name} needs the package {name}, which is not installed: pip install -e '.[shards]'."
        ) from error


def cut(counts: Sequence[int], num_streams: int, seed: int, epoch: int) -> list[list[Piece]]:
    """The streams of an epoch: shuffled shards laid end to end and cut into runs whose lengths differ by at most one.

    Args:
        counts: samples of each shard.
        num_streams: G.
        seed: of the order of the shards, with ``epoch``.
        epoch: number of the epoch.

    Returns:
        G lists of pieces, in the order in which they are read; together every sample once.
    """
    generator = torch.Generator().manual_seed(step_seed(seed, epoch, rank=-2))
    total = sum(counts)
    ends = [total * (stream + 1) // num_streams for stream in range(num_streams)]  # G
    streams: list[list[Piece]] = [[] for _ in range(num_streams)]
    stream = done = 0
    for shard in torch.randperm(len(counts), generator=generator).tolist():
        first = 0
        while first < counts[shard]:
            last = min(counts[shard], first + ends[stream] - done)
            if last > first:
                streams[stream].append(Piece(shard, first, last))
            done += last - first
            first = last
            if done == ends[stream] and stream < num_streams - 1:
                stream += 1
    return streams


def decode(sample: Encoded, size: int, channels: int) -> Tensor:
    """The middle square of an image, as ``decoding.read_image`` makes it: [C, S, S] uint8.

    Raises:
        Undecodable: it cannot be decoded.
    """
    try:
        return read_image(BytesIO(sample.image), size, channels)
    except Exception as error:  # a broken image makes decoders raise almost anything
        raise Undecodable(sample.name, reason_of(error)) from error


def collate(decoded: Sequence[tuple[Encoded, Tensor]]) -> Samples:
    """A batch of samples and their images: images [B, C, S, S] uint8, index [B] int64, label [B] int64 or None."""
    samples = [sample for sample, _ in decoded]
    images = torch.stack([image for _, image in decoded])  # [B, C, S, S]
    labels = [sample.label for sample in samples if sample.label is not None]
    index = torch.tensor([sample.index for sample in samples])  # [B]
    return Samples(images, index, torch.tensor(labels) if labels else None)


def read_images(
    reader: Reader, limit: int, size: int, channels: int, num_threads: int, on_error: str = "refuse"
) -> Split:
    """At most ``limit`` images in memory, for evaluators.

    They are taken from all shards, from each its first ones in proportion to its length: shards of one class each would
    otherwise fill the whole of it.

    Args:
        reader: the shards.
        limit: most images.
        size: S, pixels.
        channels: C.
        num_threads: images decoded at once.
        on_error: "refuse", or "skip" to leave out images that cannot be decoded.

    Returns:
        [N, C, S, S] uint8 and [N] int64, or None for shards without labels.

    Raises:
        ValueError: an image that cannot be decoded, or shards that are not as they should be.
    """
    total = sum(reader.counts)
    taken = min(limit, total)
    ends = [taken * end // max(total, 1) for end in accumulate(reader.counts)]
    shares = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    pieces = [Piece(shard, 0, share) for shard, share in enumerate(shares) if share]
    encoded = (sample for piece in pieces for sample in reader.samples(piece))
    pixels = torch.empty(taken, channels, size, size, dtype=torch.uint8)  # [N, C, S, S]
    labels: list[int | None] = []

    def read(sample: Encoded) -> Tensor | None:
        try:
            return decode(sample, size, channels)
        except Undecodable as error:
            if on_error == "refuse":
                raise
            note(f"{error.name} cannot be decoded ({error.reason}): left out, as data.on_error=skip says")
            return None

    with ThreadPoolExecutor(num_threads) as pool:
        while some := list(islice(encoded, DECODED_AT_ONCE)):
            for sample, image in zip(some, pool.map(read, some), strict=True):
                if image is not None:
                    pixels[len(labels)] = image
                    labels.append(sample.label)
    return Split(pixels[: len(labels)], torch.tensor(labels) if reader.labelled else None)


class ShardsConfig(NamedTuple):
    """What the sources of both libraries have in common, as in the data configs."""

    channels: int  # C, 1 (grey) or 3 (RGB); every image is converted
    image_size: int  # side of a view, pixels
    stored_size: int  # S, side that images are decoded to, pixels
    num_streams: int  # G
    num_workers: int | None  # reading and decoding processes of each rank; None for its share of the cores
    eval_samples: int  # most images of the train and of the test shards that evaluators use
    on_error: str = "refuse"  # or "skip": what an image that cannot be decoded does

    def check(self) -> None:
        """Raises ValueError for a number out of its range, or another ``on_error`` than there are."""
        if self.on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={self.on_error} is not known: choose one of {', '.join(ON_ERROR)}.")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels={self.channels} is not supported for shards: set it to 1 or 3.")
        if self.stored_size < self.image_size:
            raise ValueError(
                f"data.stored_size={self.stored_size} is below data.image_size={self.image_size}, so views would be "
                f"enlarged: set data.stored_size to {self.image_size} or more."
            )
        for key, value, least in (
            ("num_streams", self.num_streams, 1),
            ("num_workers", 0 if self.num_workers is None else self.num_workers, 0),
            ("eval_samples", self.eval_samples, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"data.{key} is {value}: it must be a whole number, at least {least}.")

    def threads(self) -> int:
        """Images decoded at once for evaluators."""
        return max(1, share_of_cores() if self.num_workers is None else self.num_workers)


class Shards:
    """The training set in shards; what ``load("pretrain")`` of their sources returns.

    Args:
        reader: reads the shards.
        config: how.

    Raises:
        ValueError: fewer shards than streams.
    """

    def __init__(self, reader: Reader, config: ShardsConfig) -> None:
        found = sum(count > 0 for count in reader.counts)
        if found < config.num_streams:
            raise ValueError(
                f"data.num_streams is {config.num_streams}, but there are only {found} shards to train on: write more "
                f"and smaller shards, or set data.num_streams to at most {found}."
            )
        self.reader = reader
        self.config = config
        self.unread: dict[str, str] = {}  # grows with the samples that could not be decoded, and why

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, S, S."""
        return sum(self.reader.counts), self.config.channels, self.config.stored_size, self.config.stored_size

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        return self.reader.labelled

    def loader(
        self, global_batch_size: int, seed: int, served: int = 0, device: torch.device | None = None
    ) -> "ShardLoader":
        """The training loader; see there. Ranks must know of each other when it is made."""
        return ShardLoader(self.reader, self.config, global_batch_size, seed, served, device, self.unread)


class Splits:
    """What a source of shards loads.

    Args:
        open_reader: "train" or "test" -> the reader of its shards.
        config: how they are read.
    """

    def __init__(self, open_reader: Callable[[str], Reader], config: ShardsConfig) -> None:
        self.open_reader = open_reader
        self.config = config
        self.readers: dict[str, Reader] = {}
        self.loaded: dict[str, Split | Shards] = {}

    def load(self, split: str) -> Split | Shards:
        """``Shards`` to pretrain on; for train and test ``Split`` in memory, none of them without shards.

        Raises:
            FileNotFoundError: there are no shards.
            ValueError: an unknown split, too few shards, or shards that are not as they should be.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.readers:
            self.readers[name] = self.open_reader(name)
        if split not in self.loaded:
            reader, config = self.readers[name], self.config
            self.loaded[split] = (
                Shards(reader, config)
                if split == "pretrain"
                else read_images(
                    reader, config.eval_samples, config.stored_size, config.channels, config.threads(), config.on_error
                )
            )
        return self.loaded[split]


class Part(NamedTuple):
    """What a worker has made of one batch."""

    samples: Samples
    skipped: dict[str, str]  # what could not be decoded since the part before, and why


class Streams(IterableDataset[Part | str]):
    """What one rank reads of an epoch. An item is a worker's part of one batch, or what is wrong with a shard.

    Args:
        reader: reads the shards.
        streams: the pieces of each of the rank's streams.
        seeds: of the shuffling of each of them.
        share: samples of a batch that come from one stream.
        batches: numbers of the batches to make.
        size: S, pixels.
        channels: C.
        on_error: as in ``ShardsConfig``.
    """

    def __init__(
        self,
        reader: Reader,
        streams: Sequence[Sequence[Piece]],
        seeds: Sequence[int],
        share: int,
        batches: range,
        size: int,
        channels: int,
        on_error: str = "refuse",
    ) -> None:
        self.reader = reader
        self.streams = streams
        self.seeds = seeds
        self.share = share
        self.batches = batches
        self.size = size
        self.channels = channels
        self.on_error = on_error

    def __iter__(self) -> Iterator[Part | str]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        own = range(worker * len(self.streams) // workers, (worker + 1) * len(self.streams) // workers)
        skip = self.batches.start * self.share
        try:
            read = [self.readable(stream, skip) for stream in own]
            for _ in self.batches:
                part = [stream.take() for stream in read for _ in range(self.share)]
                skipped = {name: why for stream in read for name, why in stream.skipped.items()}
                for stream in read:
                    stream.skipped.clear()
                yield Part(collate(part), skipped)
        except (ValueError, OSError) as error:  # as an item: raised here it would arrive as a page of traceback
            yield str(error)

    def readable(self, stream: int, skip: int) -> StandIns[Encoded]:
        """A stream without its first ``skip`` samples, and what stands in for those that cannot be decoded."""
        pieces = self.streams[stream]
        return StandIns(
            self.reader.stream(pieces, self.seeds[stream], skip),
            lambda sample: decode(sample, self.size, self.channels),
            lambda: (sample for piece in pieces for sample in self.reader.samples(piece)),
            self.on_error == "skip",
        )


class ShardLoader:
    """Batches of one epoch, read and decoded by worker processes, ahead of the training.

    Args:
        reader: reads the shards.
        config: how.
        global_batch_size: samples of all ranks together; the last, incomplete batch of an epoch is left out.
        seed: of the order.
        served: batches of the first epoch that an earlier part of the run has already seen. The following ones are the
            same bit for bit; what it costs to come there is said in each library's ``stream``.
        device: where the batches go; None for the CPU.
        unread: grows with the samples that could not be decoded, and why.

    ``served`` counts the batches of the running epoch that were handed out, not those made ahead.

    Raises:
        ValueError: batch, ranks, streams and workers do not divide.
    """

    def __init__(
        self,
        reader: Reader,
        config: ShardsConfig,
        global_batch_size: int,
        seed: int,
        served: int = 0,
        device: torch.device | None = None,
        unread: dict[str, str] | None = None,
    ) -> None:
        streams, ranks = config.num_streams, world_size()
        if global_batch_size % streams:
            raise ValueError(
                f"data.batch_size is {global_batch_size}, which data.num_streams={streams} streams cannot share "
                f"equally: make data.batch_size a multiple of {streams}, or change data.num_streams."
            )
        if streams % ranks:
            raise ValueError(
                f"data.num_streams is {streams} for {ranks} processes: make it a multiple of {ranks}, and write "
                "at least as many shards."
            )
        own = streams // ranks
        if config.num_workers is not None and config.num_workers > own:
            raise ValueError(
                f"data.num_streams is {streams}, fewer than {ranks} processes x data.num_workers={config.num_workers}: "
                f"set data.num_workers to at most {own}, or data.num_streams to {ranks * config.num_workers} or more, "
                "and write at least as many shards."
            )
        self.reader = reader
        self.config = config
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.epoch = 0
        self.served = served
        self.device = torch.device("cpu") if device is None else device
        self.unread = {} if unread is None else unread
        self.num_workers = min(share_of_cores(), own) if config.num_workers is None else config.num_workers
        self.sampler = self  # Lightning announces each epoch to ``loader.sampler.set_epoch``

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def close(self) -> None:
        """Nothing: the workers end with their epoch."""

    def __len__(self) -> int:
        return sum(self.reader.counts) // self.global_batch_size

    def __iter__(self) -> Iterator[Samples]:
        """Raises ValueError for a shard that is not as it should be, once the workers have ended."""
        start, self.served = self.served, 0
        refused: list[str] = []
        parts = DataLoader(
            self.streams(start),
            batch_size=None,  # an item is a worker's part of a batch already
            num_workers=self.num_workers,
            worker_init_fn=partial(begin_worker, os.getpid()),
            generator=torch.Generator(),  # of the workers' seeds, which nothing uses; the global one stays untouched
        )
        # iter() is called here, not in the background: workers are forked from the main thread
        for batch, samples in enumerate(delivered(self.joined(iter(parts), refused), self.device), start):
            self.served = (batch + 1) % len(self)  # 0 again once the epoch is through
            yield samples
        if refused:
            raise ValueError(refused[0])

    def streams(self, start: int) -> Streams:
        """What this rank reads of the running epoch, from batch ``start`` on."""
        count = self.config.num_streams
        own = range(rank() * count // world_size(), (rank() + 1) * count // world_size())
        whole = cut(self.reader.counts, count, self.seed, self.epoch)
        epoch_seed = step_seed(self.seed, self.epoch, rank=-3)
        return Streams(
            self.reader,
            [whole[stream] for stream in own],
            [step_seed(epoch_seed, stream) for stream in own],
            self.global_batch_size // count,
            range(start, len(self)),
            self.config.stored_size,
            self.config.channels,
            self.config.on_error,
        )

    def joined(self, made: Iterator[Part | str], refused: list[str]) -> Iterator[Samples]:
        """Puts the workers' parts together: one of each worker in turn makes a batch, in the order of the streams.

        What a worker says of a shard ends it and goes into ``refused``. Not raised here: the traceback would keep the
        workers alive.
        """
        while parts := list(islice(made, max(1, self.num_workers))):
            refused += [part for part in parts if isinstance(part, str)]
            if refused:
                return
            whole = [part.samples for part in parts if isinstance(part, Part)]
            self.note_skipped(part.skipped for part in parts if isinstance(part, Part))
            labels = [part.label for part in whole if part.label is not None]
            yield Samples(
                torch.cat([part.inputs for part in whole if isinstance(part.inputs, Tensor)]),  # [B, C, S, S]
                torch.cat([part.index for part in whole]),  # [B]
                torch.cat(labels) if labels else None,  # [B]
            )

    def note_skipped(self, parts: Iterable[dict[str, str]]) -> None:
        """Remembers what could not be decoded, and says so the first time. Changes ``unread``."""
        for name, why in (item for part in parts for item in part.items()):
            if name not in self.unread:
                self.unread[name] = why
                note(f"{name} cannot be decoded ({why}): left out, as data.on_error=skip says")
