"""Users, items and times from a table: a CSV file with one line for every time that somebody has chosen something.

Rules: lines are put in the order of (time, item), for times are often equal; a line that says again what a line before
it has said is left out; users of fewer than three items are left out, and a note says how many; items are numbered in
the order of their names. Leave-one-out: the last item of every user is what the test split asks for, and nothing else
sees it.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Several, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.residence import note
from ssl_framework.data.sequences.histories import LEAST, last_ends, windows
from ssl_framework.runs.numbers import natural

COLUMNS = {"user": "user", "item": "item", "time": "time"}
"""What a table says -> the column's name where ``columns`` gives no other."""

DELIMITERS = ",;\t|"


@guarded
class Interactions:
    """Histories of users from a table.

    Args:
        root: folder of the table.
        table: the file, which begins at the root: UTF-8, a header line, fields divided by comma, semicolon, tab or bar.
        items: V, how many items there are; another number is refused with the right one.
        length: L, the last items that a sample shows.
        prefixes: moments of every user that a readout learns from.
        columns: other names for some of ``COLUMNS``.
        on_error: "refuse" a line that lacks a user or an item or whose time is no number, or "skip" it, with a note.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: it is none, or a line cannot be read.
    """

    def __init__(
        self,
        root: str,
        table: str,
        items: Several,
        length: Several,
        prefixes: Count,
        columns: Mapping[str, str] | None = None,
        on_error: str = "refuse",
    ) -> None:
        if on_error not in ("refuse", "skip"):
            raise ValueError(f"data.on_error is {on_error}: choose refuse or skip")
        if unknown := sorted((columns or {}).keys() - COLUMNS.keys()):
            raise ValueError(f"data.columns names {unknown[0]}: there are {', '.join(COLUMNS)}")
        self.path = Path(root).expanduser() / table
        self.items = items
        self.length = length
        self.prefixes = prefixes
        self.columns = {**COLUMNS, **(columns or {})}
        self.skips = on_error == "skip"
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, L] int64 with the next item as class; ValueError for an unknown split.

        Pretrain has one sample a user, train ``prefixes`` of them, both without the item that is held out; test one.
        """
        check_split(split)
        if not self.loaded:
            histories, names = self.read()
            ends = {
                "pretrain": last_ends(histories, 1, 1),
                "train": last_ends(histories, 1, self.prefixes),
                "test": last_ends(histories, 0, 1),
            }
            self.loaded = {
                name: Split(*windows(histories, own, self.length), tuple(names)) for name, own in ends.items()
            }
        return self.loaded[split]

    def read(self) -> tuple[list[Tensor], list[str]]:
        """Histories [n] int64 of items from 1 on, of users in the order of their names; names of the items."""
        lines = list(dict.fromkeys(self.lines()))
        counts = Counter(user for user, _, _ in lines)
        few = {user for user, count in counts.items() if count < LEAST}
        if len(few) == len(counts):
            raise ValueError(f"{self.path} has no user of {LEAST} items or more: a shorter history predicts nothing")
        if few:
            note(f"{len(few):,} of the {len(counts):,} users in {self.path} have fewer than {LEAST} items: left out")
        kept = [line for line in lines if line[0] not in few]
        names = sorted({item for _, item, _ in kept}, key=natural)
        if len(names) != self.items:
            raise ValueError(
                f"{self.path} has {len(names):,} items, but data.items is {self.items}: set data.items={len(names)}"
            )
        number = {item: place for place, item in enumerate(names, start=1)}
        found: dict[str, list[int]] = {user: [] for user in sorted(counts.keys() - few, key=natural)}
        for user, item, _ in sorted(kept, key=lambda line: (line[2], number[line[1]])):
            found[user].append(number[item])
        return [torch.tensor(history) for history in found.values()], names

    def lines(self) -> Iterator[tuple[str, str, float]]:
        """User, item and time of every line that can be read, in the order of the file."""
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no table {self.path}: set data.root to its folder and data.table to it")
        skipped = []
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                first = file.readline()
                delimiter = max(DELIMITERS, key=first.count)
                head = next(csv.reader([first], delimiter=delimiter), [])
                if missing := [name for name in self.columns.values() if name not in head]:
                    raise ValueError(
                        f"{self.path} has no column {missing[0]}, but {', '.join(head) or 'none'}: set data.columns, "
                        "such as {user: userId}"
                    )
                place = [head.index(self.columns[name]) for name in COLUMNS]
                for number, line in enumerate(csv.reader(file, delimiter=delimiter), start=2):
                    fields = [line[i].strip() if i < len(line) else "" for i in place]
                    if all(fields) and (time := seconds(fields[2])) is not None:
                        yield fields[0], fields[1], time
                    elif line:
                        skipped.append(number)
                        if not self.skips:
                            raise ValueError(
                                f"{self.path}, line {number}: user, item and time are {fields}, which must be there, "
                                "the time as a number: correct it, or set data.on_error=skip"
                            )
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{self.path} is no table in UTF-8 ({error}): save it as such") from error
        if skipped:
            note(f"{len(skipped):,} lines of {self.path} cannot be read and are left out, the first is {skipped[0]}")


def seconds(text: str) -> float | None:
    """A time that is a finite number; ``None`` for another."""
    try:
        return value if math.isfinite(value := float(text)) else None
    except ValueError:
        return None
