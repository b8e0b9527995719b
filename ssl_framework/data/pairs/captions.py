"""Pictures and what is said of them: a table of captions, and how pictures are divided into training and test."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Seed, guarded
from ssl_framework.data.base import holdout

COLUMNS = {"path": "path", "caption": "caption", "label": "label", "split": "split"}
"""What a table says -> the column's name where ``columns`` gives no other. Path and caption must be there; a label is a
class by its name, a split one of train, val and test."""

SUFFIXES = (".csv", ".tsv", ".jsonl")

ONE = {"pictures": "caption", "texts": "text"}
"""What samples of a table are called -> what a line of it holds."""


class Captioned(NamedTuple):
    """A picture of a file, and its texts."""

    path: Path  # of a member of a tar file: below the file
    texts: tuple[str, ...]  # one or more, each with something in it
    label: str = ""  # name of its class; "" for none
    split: str = ""  # train, val or test; "" where it does not say
    inside: tuple[int, int] | None = None  # where its bytes lie in the tar file: the first, and how many

    def file(self) -> Path | BytesIO:
        """What a decoder reads."""
        if self.inside is None:
            return self.path
        with self.path.parent.open("rb") as tar:
            tar.seek(self.inside[0])
            return BytesIO(tar.read(self.inside[1]))


class Captions(Protocol):
    """Where captioned pictures come from."""

    root: Path

    def splits(self) -> dict[str, list[Captioned]]:
        """Those of "train" and "test", in an order that does not change; the same object when called again."""
        ...


@guarded
class CaptionTable:
    """A table of captions beside pictures: one line a caption, or, of JSONL, one a picture with a list of captions.

    Lines of one path are captions of one picture.

    Args:
        root: folder that the table's paths begin at.
        table: the file, which begins at the root, too: .csv, .tsv or .jsonl, UTF-8.
        columns: other names for some of ``COLUMNS``.
        test_fraction: held out for scoring where the table names no splits.
        seed: of the held-out share.
    """

    def __init__(
        self, root: str, table: str, columns: Mapping[str, str] | None, test_fraction: BelowOne, seed: Seed
    ) -> None:
        self.root = Path(root).expanduser()
        self.table = self.root / Path(table).expanduser()
        self.columns = dict(columns or {})
        self.test_fraction = test_fraction
        self.seed = seed
        self.found: dict[str, list[Captioned]] = {}

    def splits(self) -> dict[str, list[Captioned]]:
        """As ``Captions``.

        Raises:
            FileNotFoundError: there is no such table.
            ValueError: it cannot be read, lacks a column, or a line lacks what it must have.
        """
        if not self.found:
            self.found = divided(self.pictures(), self.test_fraction, self.seed, f"data.table={self.table}")
        return self.found

    def pictures(self) -> list[Captioned]:
        """Every picture once, in the order in which the table names them first."""
        pictures: dict[str, Captioned] = {}
        for number, line in self.lines():
            path, texts = self.said(line, "path", number), texts_of(line[self.column("caption")])
            where = f"data.table={self.table}, line {number}"
            if not texts or not all(texts):
                raise ValueError(f"{where}: the caption of {path} is empty: write one, or remove the line.")
            label, split = self.said(line, "label", number), self.said(line, "split", number)
            before = pictures.setdefault(path, Captioned(self.root / path, (), label, split))
            if (before.label, before.split) != (label, split):
                raise ValueError(f"{where}: {path} has another label or split than in a line before: give it one.")
            pictures[path] = before._replace(texts=before.texts + texts)
        if missing := [each.path for each in pictures.values() if not each.path.is_file()]:
            raise ValueError(
                f"{len(missing)} of the {len(pictures)} pictures of data.table={self.table} are missing, such as "
                f"{missing[0]}: correct the paths, which begin at data.root, or remove the lines."
            )
        return list(pictures.values())

    def lines(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Number of a line and what it says, column by column."""
        if not self.table.is_file():
            raise FileNotFoundError(
                f"data.table={self.table} does not exist: name a CSV or JSONL file of captions below data.root."
            )
        yield from lines_of(self.table, f"data.table={self.table}", self.check)

    def check(self, there: Sequence[str] | Mapping[str, Any]) -> None:
        """Raises ValueError if a column that is needed or named is not there."""
        if unknown := [key for key in self.columns if key not in COLUMNS]:
            raise ValueError(f"data.columns has {unknown[0]}: it names {', '.join(COLUMNS)}.")
        if missing := [self.column(key) for key in ("path", "caption", *self.columns) if self.column(key) not in there]:
            raise ValueError(
                f"data.table={self.table} has no column {missing[0]}, it has {', '.join(there) or 'none'}: name yours, "
                "as in 'data.columns={path: file, caption: text}'."
            )

    def column(self, key: str) -> str:
        """What the table calls a column."""
        return self.columns.get(key, COLUMNS[key])

    def said(self, line: Mapping[str, Any], key: str, number: int) -> str:
        """What a line says of a column, "" where it does not; raises ValueError if it must."""
        found = str(line.get(self.column(key)) or "").strip()
        if not found and key == "path":
            raise ValueError(f"data.table={self.table}, line {number}: the path is empty.")
        return found


def lines_of(
    path: Path, called: str, check: Callable[[Sequence[str] | Mapping[str, Any]], None]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number of each line of a table and what it says, column by column.

    Args:
        path: a file that is there.
        called: it in errors.
        check: is shown the columns of a CSV file, or of each line of JSONL, and raises where they are not right.

    Raises:
        ValueError: it is no such table.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{called} is none of {', '.join(SUFFIXES)}: save it as one of them.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix != ".jsonl":
                rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
                check(rows.fieldnames or ())
                for row in rows:
                    yield rows.line_num, row
                return
            for number, text in enumerate(file, 1):
                if text.strip():
                    line = json.loads(text)
                    check(line if isinstance(line, dict) else ())
                    yield number, line
    except json.JSONDecodeError as error:
        raise ValueError(f"{called}, line {number} is no JSON ({error.msg}): write one object a line.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{called} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except csv.Error as error:
        raise ValueError(f"{called} cannot be read as CSV ({error}): write it again.") from error


def texts_of(said: Any) -> tuple[str, ...]:
    """One caption or a list of them, without blanks around."""
    return tuple(str(text or "").strip() for text in (said if isinstance(said, list) else [said]))


class Labelled(Protocol):
    """A sample of a table."""

    @property
    def label(self) -> str:
        """Name of its class; "" for none."""
        ...

    @property
    def split(self) -> str:
        """train, val or test; "" where the table does not say."""
        ...


Sample = TypeVar("Sample", bound=Labelled)


def labelled(every: Sequence[Labelled], own: Sequence[Labelled], what: str) -> tuple[tuple[str, ...], Tensor | None]:
    """Names of the classes in the order of the alphabet, and the class of each of ``own``, [N] int64; nothing where no
    sample has one.

    Args:
        every: samples of all splits.
        own: those of one.
        what: they are called.

    Raises:
        ValueError: some have one.
    """
    said = [each.label for each in every]
    if not any(said):
        return (), None
    if not all(said):
        raise ValueError(f"{said.count('')} of {len(said)} {what} have no label: give all of them one, or none")
    classes = tuple(sorted(set(said)))
    number = {name: position for position, name in enumerate(classes)}
    return classes, torch.tensor([number[each.label] for each in own])  # [N]


def divided(
    pictures: list[Sample], test_fraction: float, seed: int, where: str, what: str = "pictures"
) -> dict[str, list[Sample]]:
    """Pictures of "train" and "test": as they say themselves, else a seeded share of every class is held out.

    Raises:
        ValueError: there is none, or splits are named wrongly.
    """
    if not pictures:
        raise ValueError(f"{where} names no {what[:-1]}: give it a line for each {ONE[what]}.")
    named = {each.split for each in pictures}
    if named != {""}:
        scored = "test" if "test" in named else "val"
        if not {"train", scored} <= named <= {"train", "val", "test"}:
            raise ValueError(
                f"{where} has the splits {', '.join(sorted(named))}: a split is train, val or test, of every line or "
                "of none, and train and one of the others are needed."
            )
        wanted = {"train": "train", "test": scored}
        return {name: [each for each in pictures if each.split == said] for name, said in wanted.items()}
    classes = {name: number for number, name in enumerate(sorted({each.label for each in pictures}))}
    label = torch.tensor([classes[each.label] for each in pictures])  # [N]
    test = holdout(label, len(pictures), test_fraction, seed).tolist()
    parts = {
        name: [each for each, held in zip(pictures, test, strict=True) if held == (name == "test")]
        for name in ("train", "test")
    }
    if empty := [name for name, part in parts.items() if not part]:
        raise ValueError(
            f"{where} names {len(pictures)} {what}, of which none is left for {empty[0]}: change data.test_fraction."
        )
    return parts
