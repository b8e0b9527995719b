"""Shards of litdata's format: a folder of chunks with an ``index.json``, read by litdata.

A sample is a mapping with the bytes of an image file (or litdata's Jpeg or Image) and, in a labelled set, its class as
an int. litdata's index may name Python modules and formats that unpickle what they read, so it is checked before
litdata sees it: a folder from elsewhere can hold nothing but images, numbers and text.

litdata reads; the order of the samples is this package's (``shards.cut``). litdata's own depends on the number of
workers and, in 0.2.76, on the kind of file system and the free memory.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ssl_framework.arguments import Channels, Count, Natural, Pixels, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.images.decoding import reason_of
from ssl_framework.data.images.shards import Encoded, Piece, Shards, ShardsConfig, Splits, library
from ssl_framework.runs.plain import plain_json

INDEX = "index.json"


IMAGE_FORMATS = ("bytes", "jpeg", "image")


OTHER_FORMATS = ("int", "float", "bool", "str", "text")


URL = re.compile(r"^(s3|gs|r2|local):")  # "local:" reads a folder as if it were far away, for tests


def fetch_index(url: str, cache: Path) -> Path:
    """The folder below ``cache`` that now has the index of the shards at ``url``; several ranks may fetch at once."""
    library("litdata")
    from litdata.streaming.downloader import get_downloader

    folder = cache / sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as part:
        get_downloader(url, part, []).download_file(f"{url}/{INDEX}", f"{part}/{INDEX}")
        os.replace(f"{part}/{INDEX}", folder / INDEX)
    return folder


class Index(NamedTuple):
    """What is known of a split before any of it is read."""

    counts: list[int]  # samples of each chunk
    files: dict[str, int]  # name of each chunk's file -> its bytes
    labelled: bool


def read_index(path: Path, image_key: str, label_key: str) -> Index:
    """Reads and checks an index.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: the index is none, or names anything but images, numbers and text.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: point data.root, data.train_shards and data.test_shards at folders that litdata "
            "wrote, or set data.test_shards=null to train without an evaluation."
        )
    try:
        index = plain_json(path.read_bytes(), str(path))
        config, chunks = index["config"], index["chunks"]
        files = {str(chunk["filename"]): int(chunk["chunk_bytes"]) for chunk in chunks}
        counts = [int(chunk["chunk_size"]) for chunk in chunks]
        formats = [str(name).split(":")[0] for name in config["data_format"]]
        spec = plain_json(config["data_spec"], str(path))[1]
        keys = plain_json(spec["context"], str(path))
        plain = spec["type"] == "builtins.dict" and all(leaf["type"] is None for leaf in spec["children_spec"])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"{path} is not an index of samples that are mappings ({type(error).__name__}: {error}): write the shards "
            "with litdata.optimize, each sample a dict of an image and, if there are classes, an int."
        ) from error
    if not plain or not isinstance(keys, list) or len(keys) != len(formats):
        raise ValueError(f"{path} describes samples of {spec['type']} and {keys}: write each sample as a flat dict.")
    fields = dict(zip(keys, formats, strict=True))
    if unsafe := [key for key in fields if fields[key] not in IMAGE_FORMATS + OTHER_FORMATS]:
        raise ValueError(
            f"{path} stores {unsafe[0]!r} as {fields[unsafe[0]]}, and only images, numbers and text are read, because "
            f"other formats may run code: write it as one of {', '.join(IMAGE_FORMATS + OTHER_FORMATS)}."
        )
    if fields.get(image_key) not in IMAGE_FORMATS:
        raise ValueError(
            f"{path} has no image under {image_key!r}, it has {', '.join(f'{k} ({f})' for k, f in fields.items())}: "
            "set data.image_key to the one that is encoded (bytes, jpeg or image)."
        )
    if fields.get(label_key, "int") != "int":
        raise ValueError(
            f"{path} stores {label_key!r} as {fields[label_key]}: set data.label_key to classes that are int."
        )
    for key, allowed in (("compression", ()), ("encryption", ()), ("item_loader", ("PyTreeLoader",))):
        if config.get(key) not in (None, *allowed):
            raise ValueError(
                f"{path} has {key} {config[key]!r}: write the shards without, images are compressed already."
            )
    if elsewhere := [name for name in files if Path(name).name != name]:
        raise ValueError(f"{path} names the chunk {elsewhere[0]!r}: chunks must lie beside their index.")
    return Index(counts, files, label_key in fields)


class LitReader:
    """Shards of one split; see ``shards.Reader``.

    Args:
        place: folder, or URL as litdata knows them (s3, gs, r2); None for no shards.
        cache: folder for the index of a URL; nothing else is kept.
        image_key, label_key: of a sample.

    Raises:
        FileNotFoundError, ValueError: as ``read_index``, or no ``cache`` for a URL.
    """

    def __init__(self, place: str | None, cache: Path | None, image_key: str, label_key: str) -> None:
        self.place = place
        self.image_key = image_key
        self.label_key = label_key
        self.url = place if place is not None and URL.match(place) else None
        self.counts: list[int] = []
        self.labelled = False
        if place is None:
            return
        if self.url is not None and cache is None:
            raise ValueError(f"the shards are at {place}: set data.cache to a folder for their index.")
        self.folder = Path(place).resolve() if self.url is None or cache is None else fetch_index(self.url, cache)
        index = read_index(self.folder / INDEX, image_key, label_key)
        self.counts, self.labelled = index.counts, index.labelled
        self.firsts = [0, *accumulate(self.counts)]
        for name, size in index.files.items() if self.url is None else ():
            chunk = self.folder / name
            if not chunk.is_file() or chunk.stat().st_size != size:
                found = f"{chunk.stat().st_size} bytes" if chunk.is_file() else "missing"
                raise ValueError(
                    f"the chunk {chunk} is {found}, but {INDEX} says {size} bytes: write the shards again."
                )

    def open(self) -> Any:
        """litdata's reader; encoded images stay bytes."""
        library("litdata")
        from litdata.streaming.dataset import StreamingDataset
        from litdata.streaming.resolver import Dir
        from litdata.streaming.serializers import BytesSerializer

        place = Dir(path=str(self.folder), url=self.url)
        return StreamingDataset(place, serializers={"jpeg": BytesSerializer(), "image": BytesSerializer()})

    def read(self, order: Iterable[int]) -> Iterator[Encoded]:
        """The samples at these positions.

        Raises:
            ValueError: a chunk cannot be read.
        """
        dataset = self.open()
        for index in order:
            try:
                sample = dataset[index]
            except Exception as error:  # whatever a damaged chunk leads litdata to
                raise ValueError(
                    f"sample {index} of {self.place} cannot be read ({reason_of(error)}): write the shards again."
                ) from error
            label = int(sample[self.label_key]) if self.labelled else None
            yield Encoded(bytes(sample[self.image_key]), index, label, f"sample {index} of {self.place}")

    def samples(self, piece: Piece) -> Iterator[Encoded]:
        """The samples of a piece in their order; raises as ``read``."""
        first = self.firsts[piece.shard]
        return self.read(range(first + piece.first, first + piece.last))

    def stream(self, pieces: Sequence[Piece], seed: int, skip: int) -> Iterator[Encoded]:
        """The samples of all pieces, one piece after the other, each in a random order of its own; raises as ``read``.

        To skip costs nothing: the order is known before anything is read.
        """
        generator = torch.Generator().manual_seed(seed)
        order: list[int] = []
        for piece in pieces:
            first = self.firsts[piece.shard] + piece.first
            order += (first + torch.randperm(piece.last - piece.first, generator=generator)).tolist()
        return self.read(order[skip:])


@guarded
class LitDataSource:
    """Images in shards that litdata wrote, read with litdata.

    Args:
        root: folder or URL that relative places start at.
        train_shards, test_shards: folders below it, or URLs; no test shards, no scores.
        cache: folder for the index of a URL; None where there is none.
        image_key, label_key: of a sample.
        channels, image_size, stored_size, num_streams, num_workers, eval_samples, on_error: as in ``ShardsConfig``.

    Raises:
        ValueError: an argument outside its range, or litdata is not installed.
    """

    def __init__(
        self,
        root: str,
        train_shards: str,
        test_shards: str | None,
        cache: str | None,
        image_key: str,
        label_key: str,
        channels: Channels,
        image_size: Pixels,
        stored_size: Pixels,
        num_streams: Count,
        num_workers: Natural | None,
        eval_samples: Count,
        on_error: str = "refuse",
    ) -> None:
        library("litdata")
        config = ShardsConfig(channels, image_size, stored_size, num_streams, num_workers, eval_samples, on_error)
        config.check()
        self.splits = Splits(self.open, config)
        self.root = root
        self.places = {"train": train_shards, "test": test_shards}
        self.cache = None if cache is None else Path(cache).expanduser()
        self.keys = (image_key, label_key)

    def open(self, name: str) -> LitReader:
        """The reader of the train or the test shards."""
        below = self.places[name]
        if below is None or URL.match(below):
            place = below
        else:
            place = f"{self.root}/{below}" if URL.match(self.root) else str(Path(self.root).expanduser() / below)
        return LitReader(place, self.cache, *self.keys)

    def load(self, split: str) -> Split | Shards:
        """As ``Splits.load``."""
        return self.splits.load(split)


def write_litdata(images: Iterable[tuple[bytes, int | None]], folder: Path, samples_per_shard: int) -> None:
    """Writes encoded images and their classes, if any, as shards of litdata.

    Shards are shuffled whole and their samples within them: give the images in a random order, not class by class.

    Args:
        images: the bytes of image files, each with its class or, all of them, with None.
        folder: made; must be empty.
        samples_per_shard: of all shards but the last.

    Raises:
        ValueError: the folder is not empty.
    """
    library("litdata")
    from litdata.streaming.cache import Cache

    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name another folder for the shards.")
    writer = Cache(str(folder.resolve()), chunk_size=samples_per_shard)
    for number, (data, label) in enumerate(images):
        writer[number] = {"image": data} if label is None else {"image": data, "label": label}
    writer.done()
    writer.merge()
