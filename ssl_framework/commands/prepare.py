"""The command that makes a store of a folder of images, once, for all runs to train from with ``data=store``."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.progress import track

from ssl_framework.data.images.folder import ON_ERROR, check_bits, check_channels, write_store
from ssl_framework.data.images.layout import Layout
from ssl_framework.data.images.store import read_description
from ssl_framework.data.images.table import COLUMNS, tabled
from ssl_framework.runs.groups import admit
from ssl_framework.runs.messages import commanded, refusing, typed


@commanded()
def main(arguments: Sequence[str] | None = None) -> None:
    """``ROOT OUT --short-side S``: makes the store OUT of the images in ROOT; refuses in one sentence."""
    parser = argparse.ArgumentParser(
        prog=typed("prepare"),
        description="Decodes a folder of images once, into a memory-mapped store for data=store.",
    )
    parser.add_argument(
        "root",
        type=Path,
        help="folder of images, in one of the layouts of data=folder, or a CSV file that lists them, as data.table is",
    )
    parser.add_argument("out", type=Path, help="folder of the store, which must not exist")
    parser.add_argument(
        "--short-side", type=int, required=True, metavar="S",
        help="pixels; the short side is resized to it, the middle square kept: channels x S x S bytes an image",
    )  # fmt: skip
    parser.add_argument(
        "--channels", type=int, default=3, help="1 grey, 3 RGB (default), or as many bands as files have"
    )
    parser.add_argument("--bits", type=int, help="that values of 16 bits use (all)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="files decoded at once (all cores)")
    parser.add_argument("--on-error", default="refuse", choices=ON_ERROR, help="what an unreadable file does (refuse)")
    parser.add_argument(
        "--test-fraction", type=float, default=0.2, metavar="F",
        help="held out for scoring where ROOT has no val or test folder (0.2)",
    )  # fmt: skip
    parser.add_argument("--test-folder", choices=("val", "test"), help="which to score on, when ROOT has both")
    parser.add_argument(
        "--targets", type=Path, metavar="CSV", help="numbers as labels: columns path (below ROOT), target"
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME=COLUMN",
        help=f"names of a CSV file's columns, such as path=file label=class, for {', '.join(COLUMNS)}",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the held-out share (0)")
    given = parser.parse_args(admit(sys.argv[1:] if arguments is None else arguments))
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"note: {message}\n"
    with refusing():
        columns = columns_of(given.columns or [], given.root)
        table = tabled(str(given.root), columns, given.on_error) if given.root.is_file() else None
        layout = Layout(given.root, given.test_fraction, given.seed, given.test_folder, given.targets, table)
        print(prepare(layout, given.out, given.short_side, given.channels, given.workers, given.on_error, given.bits))


def columns_of(words: Sequence[str], root: Path) -> dict[str, str]:
    """What a CSV file says -> the column that says it, of words such as path=file.

    Raises:
        ValueError: a word that is none, or no CSV file to read them of.
    """
    if words and not root.is_file():
        raise ValueError(f"--columns are of a CSV file, but {root} is none: leave them out")
    if wrong := [word for word in words if "=" not in word]:
        raise ValueError(f"--columns {wrong[0]} names no column: write NAME=COLUMN, such as path=file")
    return {name: column for name, _, column in (word.partition("=") for word in words)}


def prepare(
    layout: Layout,
    out: Path,
    short_side: int,
    channels: int,
    workers: int,
    on_error: str,
    bits: int | None = None,
) -> str:
    """Makes the store and says in one line what it holds.

    Args:
        layout: the folder of images.
        out: folder of the store.
        short_side: S, side of the stored images, pixels.
        channels: C, 1 to 16.
        workers: files decoded at once, at least 1.
        on_error: "refuse" or "skip".
        bits: that values of 16 bits use; ``None``: all.

    Raises:
        FileExistsError: ``out`` exists and is not an empty folder.
        FileNotFoundError, ValueError: as ``folder.write_store``, or a number out of its range.
    """
    check_channels(channels)
    check_bits(bits)
    for name, value in (("--short-side", short_side), ("--workers", workers)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already: remove it, or name another folder for the store")
    write_store(layout, out, short_side, channels, workers, on_error, shown, bits)
    description = read_description(out)
    counts = " and ".join(f"{number:,} {name}" for name, number in description["count"].items())
    size = sum(path.stat().st_size for path in out.iterdir())
    classes = f"{len(description['classes'])} classes" if description["classes"] else "numbers as labels"
    labels = classes if description["labelled"] else "no labels"
    return f"{out}: {counts} images {short_side}x{short_side}x{channels}, {labels}, {size / 1e9:.2f} GB"


def shown(paths: Sequence[Path], name: str) -> Iterable[Path]:
    """A bar on a terminal, nothing elsewhere."""
    return track(paths, f"decoding {name}") if sys.stdout.isatty() else paths
