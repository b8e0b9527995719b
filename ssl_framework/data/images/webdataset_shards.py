"""Shards of the webdataset format: tar files whose consecutive files of one stem make a sample, read by webdataset.

A sample is an image (jpg, jpeg, png or webp) and, in a labelled set, its class as a number in ``cls``; other files are
not looked at. Nothing in a shard is unpickled: none of webdataset's decoders is used.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import accumulate, groupby, islice, repeat
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ssl_framework.arguments import Channels, Count, Natural, Pixels, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.images.decoding import opened, reason_of
from ssl_framework.data.images.shards import Encoded, Piece, Shards, ShardsConfig, Splits, library
from ssl_framework.data.images.whole_tar import refuse_cut
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.plain import plain_json

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


SCHEMES = ("file", "http", "https", "gs", "hf")
"""Of the addresses that are read beside plain paths, where the command line names them; not ``pipe``, which runs a
shell command, nor whatever else webdataset would open."""

MOST_SHARDS = 1_000_000
"""Of a split: a pattern that counts further is refused before it is spelt out."""

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstd begin."""


SIZES = "sizes.json"


def list_shards(root: Path, patterns: str | Sequence[str] | None) -> list[str]:
    """Paths and URLs of the shards.

    Args:
        root: what relative paths start at.
        patterns: one or several folders of ``.tar`` files, files or URLs, where ``{00..41}`` counts and ``{a,b}``
            lists; None for no shards.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: a folder without shards, or a URL that is not read.
    """
    if patterns is None:
        return []
    from braceexpand import braceexpand  # comes with webdataset

    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        refuse_long_range(pattern)
    spelt = (name for p in ([patterns] if isinstance(patterns, str) else patterns) for name in braceexpand(p))
    for number, name in enumerate(spelt):
        if number >= MOST_SHARDS:
            raise ValueError(f"data.train_shards or data.test_shards names more than {MOST_SHARDS:,} shards.")
        if (address := urlparse(name)).scheme:
            check_address(name)
            if address.scheme != "file":
                found.append(name)
                continue
            name = address.path
        path = (root / name).resolve()  # absolute, so that webdataset takes no path for a URL
        if not path.exists():
            raise FileNotFoundError(
                f"there is no {path}: point data.root, data.train_shards and data.test_shards at shards, or set "
                "data.test_shards=null to train without an evaluation."
            )
        shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not shards:
            raise ValueError(
                f"{path} has no .tar files: point data.root, data.train_shards and data.test_shards at shards."
            )
        found += map(str, shards)
    return found


def refuse_long_range(pattern: str) -> None:
    """Raises ValueError for a ``{0..N}`` of more than ``MOST_SHARDS``, which would be spelt out in memory."""
    for first, last in re.findall(r"\{(-?\d+)\.\.(-?\d+)", pattern):
        if len(first) > 9 or len(last) > 9 or abs(int(last) - int(first)) > MOST_SHARDS:
            raise ValueError(f"data.train_shards or data.test_shards counts from {first[:12]} to {last[:12]}: too far.")


def check_address(shard: str) -> None:
    """Raises ValueError for an address of another scheme than ``SCHEMES``, or of odd characters."""
    scheme = urlparse(shard).scheme
    if scheme not in SCHEMES:
        raise ValueError(f"the shard {shard} starts with {scheme}: give a path or one of {', '.join(SCHEMES)}.")
    if not re.fullmatch(r"[\w./:@%~+=,?&#-]+", shard):
        raise ValueError(f"the shard {shard} has a character that addresses have not: write it as %20 and so on.")


def check_shard(shard: str) -> None:
    """Refuses what is not to be opened as a shard, whoever names it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an address that is not read, no regular file, or a compressed one, which may unfold without end.
    """
    if not os.path.isabs(shard):
        if not urlparse(shard).scheme:
            raise ValueError(f"the shard {shard} must be a whole path or an address.")
        check_address(shard)
        return
    if not os.path.exists(shard):
        raise FileNotFoundError(f"there is no shard {shard}")
    if not os.path.isfile(shard):
        raise ValueError(f"the shard {shard} is no file: give .tar files.")
    with open(shard, "rb") as file:
        if file.read(6).startswith(COMPRESSED):
            raise ValueError(f"the shard {shard} is compressed, as images are already: write it as plain .tar.")


def count_samples(path: str) -> int:
    """Samples of one tar file, from the headers alone.

    Raises:
        ValueError: it cannot be read.
    """
    split = library("webdataset").tariterators.base_plus_ext
    try:
        with tarfile.open(path) as archive:
            names = [member.name for member in archive if member.isreg()]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(
            f"the shard {path} cannot be read ({reason_of(error)}): write it again or remove it."
        ) from error
    stems = [split(name)[0] for name in names if not name.startswith("__")]
    return sum(1 for _ in groupby(stem for stem in stems if stem is not None))


def shard_sizes(shards: Sequence[str], sizes: Path | None, keep: bool = True) -> list[int]:
    """Samples of each shard, from ``sizes``, else from ``sizes.json`` beside the shards, else counted.

    Counting reads all headers once, about a second for 10,000 samples on a disk; the result is written beside the
    shards, where it can be, for later runs.

    Args:
        shards: paths or URLs.
        sizes: a JSON file that gives the number of samples for the file name of each shard.
        keep: whether to write down what was counted.

    Raises:
        FileNotFoundError: ``sizes`` is not there.
        ValueError: it does not fit the shards, or there is none for URLs, which are not counted.
    """
    folders = {os.path.dirname(shard) for shard in shards}
    beside = Path(min(folders), SIZES) if len(folders) == 1 and not urlparse(shards[0]).scheme else None
    path = sizes if sizes is not None else beside
    if sizes is not None and not sizes.is_file():
        raise FileNotFoundError(f"data.train_sizes or data.test_sizes is {sizes}, which is not there.")
    if path is not None and path.is_file():
        return read_sizes(path, shards)
    if any(urlparse(shard).scheme for shard in shards):
        raise ValueError(
            f"the samples of {shards[0]} cannot be counted from afar: set data.train_sizes (and data.test_sizes) to a "
            'JSON file such as {"000.tar": 1000, "001.tar": 987}.'
        )
    counts = [count_samples(shard) for shard in shards]
    if keep and beside is not None and os.access(beside.parent, os.W_OK):
        write_sizes(beside, dict(zip(map(os.path.basename, shards), counts, strict=True)))
    return counts


def read_sizes(path: Path, shards: Sequence[str]) -> list[int]:
    """Samples of each shard as ``path`` has them; raises ValueError when it is no such file or lacks a shard."""
    try:
        known = plain_json(path.read_bytes(), str(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): write it again, or delete it to have shards counted."
        ) from error
    names = [os.path.basename(urlparse(shard).path) for shard in shards]
    if not isinstance(known, dict) or (
        wrong := [n for n in names if type(known.get(n)) is not int or not 0 <= known[n] < 2**40]
    ):
        missing = wrong[0] if isinstance(known, dict) else names[0]
        raise ValueError(
            f"{path} gives no number of samples for {missing}: add it, or delete it to have shards counted."
        )
    return [known[name] for name in names]


def write_sizes(path: Path, counts: dict[str, int]) -> None:
    """Writes ``sizes.json`` whole or not at all; several ranks may do so at once."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(counts, indent=1) + "\n")


class TarReader:
    """Shards of one split; see ``shards.Reader``.

    Args:
        shards: paths or URLs, in the order of their numbers.
        sizes: as in ``shard_sizes``.
        shuffle_buffer: encoded images that a stream holds to draw the next one from.
        keep_sizes: as in ``shard_sizes``.

    Raises:
        FileNotFoundError, ValueError: as ``check_shard`` and ``shard_sizes``, or the first sample is not an image.
    """

    def __init__(self, shards: Sequence[str], sizes: Path | None, shuffle_buffer: int, keep_sizes: bool = True) -> None:
        self.shards = list(shards)
        for shard in self.shards:
            check_shard(shard)
        self.shuffle_buffer = shuffle_buffer
        refuse_cut(self.shards)
        self.counts = shard_sizes(shards, sizes, keep_sizes) if shards else []
        self.firsts = [0, *accumulate(self.counts)]
        self.labelled = False
        filled = [shard for shard, count in enumerate(self.counts) if count]
        if filled:
            first = next(self.raw(Piece(filled[0], 0, 1)))[1]
            self.labelled = "cls" in first

    def raw(self, piece: Piece) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number in the shard and files of each sample of a piece, as webdataset reads them.

        Raises:
            ValueError: the shard cannot be read or has another number of samples than it should.
        """
        url, count = self.shards[piece.shard], self.counts[piece.shard]
        check_shard(url)
        found = 0
        try:
            for number, sample in enumerate(library("webdataset").tarfile_samples(iter([{"url": url}]))):
                found = number + 1
                if number >= piece.last and piece.last < count:
                    return
                if piece.first <= number < piece.last:
                    yield number, sample
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            # webdataset adds arguments of its own to the error's, which str() would show
            reason = (isinstance(error, OSError) and error.strerror) or error.args[0]
            raise ValueError(f"the shard {url} cannot be read ({reason}): write it again.") from error
        if found != count:
            raise ValueError(
                f"the shard {url} has {found} samples, but {SIZES} or data.train_sizes says {count}: correct that file."
            )

    def samples(self, piece: Piece) -> Iterator[Encoded]:
        """The samples of a piece in their order; what lies before it in the shard is read and dropped.

        Raises:
            ValueError: as ``raw``, or a sample without an image or, in a labelled set, without a class.
        """
        for number, sample in self.raw(piece):
            name = f"sample {sample['__key__']} of {self.shards[piece.shard]}"
            suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in sample), None)
            if suffix is None:
                there = ", ".join(key for key in sample if not key.startswith("__"))
                raise ValueError(f"{name} has no {', '.join(IMAGE_SUFFIXES)} but {there}: write the shard again.")
            label = sample.get("cls", b"").decode("utf-8", "replace").strip() if self.labelled else None
            if label is not None and not label.isdecimal():
                raise ValueError(
                    f"{name} has the class {label!r} in cls: number the classes from 0, and give all samples one or "
                    "none."
                )
            index = self.firsts[piece.shard] + number
            yield Encoded(sample[suffix], index, None if label is None else int(label), name)

    def stream(self, pieces: Sequence[Piece], seed: int, skip: int) -> Iterator[Encoded]:
        """The samples of all pieces through webdataset's shuffle buffer.

        To skip costs reading, not decoding: shards whose samples were all served are not opened, those of which one
        is still to come are read from their start.
        """
        shuffle = library("webdataset").shuffle(self.shuffle_buffer, seed=seed)
        total = sum(piece.last - piece.first for piece in pieces)
        served = set(islice(shuffle(iter(range(total))), skip)) if skip else set()  # the buffer draws by number alone

        def read() -> Iterator[Encoded | None]:
            position = 0
            for piece in pieces:
                numbers = range(position, position := position + piece.last - piece.first)
                yield from repeat(None, len(numbers)) if served.issuperset(numbers) else self.samples(piece)

        return islice(shuffle(read()), skip, None)


@guarded
class WebDatasetSource:
    """Images in tar shards, read with webdataset.

    Args:
        root: folder that relative paths start at.
        train_shards, test_shards: folders, files or URLs, as in ``list_shards``; no test shards, no scores.
        train_sizes, test_sizes: files with their numbers of samples, as in ``shard_sizes``.
        shuffle_buffer: encoded images that a stream holds to draw the next one from.
        keep_sizes: whether counted samples are written down beside the shards.
        channels, image_size, stored_size, num_streams, num_workers, eval_samples, on_error: as in ``ShardsConfig``.

    Raises:
        ValueError: an argument outside its range, or webdataset is not installed.
    """

    def __init__(
        self,
        root: str,
        train_shards: str | Sequence[str],
        test_shards: str | Sequence[str] | None,
        train_sizes: str | None,
        test_sizes: str | None,
        shuffle_buffer: Count,
        channels: Channels,
        image_size: Pixels,
        stored_size: Pixels,
        num_streams: Count,
        num_workers: Natural | None,
        eval_samples: Count,
        keep_sizes: bool = True,
        on_error: str = "refuse",
    ) -> None:
        library("webdataset")
        config = ShardsConfig(channels, image_size, stored_size, num_streams, num_workers, eval_samples, on_error)
        config.check()
        self.splits = Splits(self.open, config)
        self.root = Path(root).expanduser()
        self.shards = {"train": train_shards, "test": test_shards}
        self.sizes = {"train": train_sizes, "test": test_sizes}
        self.shuffle_buffer = shuffle_buffer
        self.keep_sizes = keep_sizes

    def open(self, name: str) -> TarReader:
        """The reader of the train or the test shards."""
        sizes = self.sizes[name]
        path = None if sizes is None else self.root / Path(sizes).expanduser()
        return TarReader(list_shards(self.root, self.shards[name]), path, self.shuffle_buffer, self.keep_sizes)

    def load(self, split: str) -> Split | Shards:
        """As ``Splits.load``."""
        return self.splits.load(split)


def format_of(data: bytes) -> str:
    """The format of an encoded image as Pillow calls it, in small letters."""
    try:
        with opened(BytesIO(data)) as image:
            return str(image.format).lower()
    except (OSError, ValueError):
        return "no image"


def write_webdataset(images: Iterable[tuple[bytes, int | None]], folder: Path, samples_per_shard: int) -> None:
    """Writes encoded images and their classes, if any, as tar shards with ``sizes.json``.

    Shards are shuffled whole and read in order: give the images in a random order, not class by class.

    Args:
        images: the bytes of JPEG, PNG or WebP files, each with its class or None.
        folder: made; must not have shards.
        samples_per_shard: of all shards but the last.

    Raises:
        ValueError: the folder has shards, or an image is of another format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := sorted(folder.glob("*.tar")):
        raise ValueError(f"{folder} has shards already ({found[0].name}): remove them or name another folder.")
    counts: dict[str, int] = {}
    pattern = str(folder.resolve()).replace("%", "%%") + "/%06d.tar"
    with library("webdataset").ShardWriter(pattern, maxcount=samples_per_shard, verbose=0, encoder=False) as writer:
        for number, (data, label) in enumerate(images):
            suffix = format_of(data)
            if suffix not in IMAGE_SUFFIXES:
                raise ValueError(f"image {number} is {suffix}: encode it as one of {', '.join(IMAGE_SUFFIXES)}.")
            files: dict[str, Any] = {suffix: data} if label is None else {suffix: data, "cls": str(label).encode()}
            writer.write({"__key__": f"{number:09d}", **files})
            name = os.path.basename(writer.fname)
            counts[name] = counts.get(name, 0) + 1
    write_sizes(folder / SIZES, counts)
