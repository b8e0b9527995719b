"""Images that a CSV file lists, one a line: where each lies, what it shows, and which split it belongs to."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.data.base import holdout
from ssl_framework.data.images.layout import Listing, number, split_called
from ssl_framework.data.residence import note

COLUMNS = {"path": "path", "label": "label", "target": "target", "split": "split"}
"""What a table says -> the column's name where ``columns`` gives no other. Only the path must be there; a label is a
class by its name, a target a number."""

SPLITS = ("train", "val", "test")

DELIMITERS = ",;\t"


class Line(NamedTuple):
    """An image of the table."""

    path: Path
    label: str
    target: str
    split: str


class Table(NamedTuple):
    """A CSV file of images.

    Args:
        path: of the file; paths in it are absolute, or begin at its folder.
        columns: other names for some of ``COLUMNS``.
        skips: whether lines of missing files are left out instead of refused.
    """

    path: Path
    columns: Mapping[str, str]
    skips: bool

    def splits(self, test_fraction: float, seed: int, test_folder: str | None) -> dict[str, Listing]:
        """The files of "train" and "test", in the order of the lines.

        Without a column of splits a share is held out, as of a folder. The images of a split that is not scored on
        are left out.

        Args:
            test_fraction, seed, test_folder: as in ``layout.Layout``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no such table, or a file that it lists is missing.
        """
        lines = self.present(self.lines())
        label, classes = self.labels(lines)
        train, test = self.members(lines, label if classes else None, test_fraction, seed, test_folder)
        return {name: listing(lines, label, classes, chosen) for name, chosen in (("train", train), ("test", test))}

    def lines(self) -> list[Line]:
        """Every line of the file."""
        if not self.path.is_file():
            raise FileNotFoundError(f"data.table={self.path} does not exist: name a CSV file with a column path.")
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                first = file.readline()
                file.seek(0)
                rows = csv.DictReader(file, delimiter=max(DELIMITERS, key=first.count))
                names = self.names(rows.fieldnames or ())
                found = [self.line(row, names, rows.line_num) for row in rows]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"data.table={self.path} cannot be read as CSV ({error}): write it again.") from error
        if not found:
            raise ValueError(f"data.table={self.path} lists no image: give it a line for each.")
        if twice := [path for path, count in Counter(line.path for line in found).items() if count > 1]:
            raise ValueError(f"data.table={self.path} lists {len(twice)} files more than once, such as {twice[0]}.")
        return found

    def names(self, there: Sequence[str]) -> dict[str, str]:
        """What the table says -> the column that says it.

        Raises:
            ValueError: a column that is needed or named is not there.
        """
        if unknown := [key for key in self.columns if key not in COLUMNS]:
            raise ValueError(f"data.columns has {unknown[0]}: it names {', '.join(COLUMNS)}.")
        names = {**COLUMNS, **self.columns}
        if missing := [names[key] for key in ("path", *self.columns) if names[key] not in there]:
            raise ValueError(
                f"data.table={self.path} has no column {missing[0]}, it has {', '.join(there) or 'none'}: name yours, "
                "as in 'data.columns={path: file, label: class}' (of a run), --columns path=file label=class "
                "(of prepare) or columns={path: file} (of embed)."
            )
        found = {key: name for key, name in names.items() if name in there}
        if {"label", "target"} <= found.keys():
            raise ValueError(
                f"data.table={self.path} has both {found['label']} (classes) and {found['target']} (numbers): keep one."
            )
        return found

    def line(self, row: Mapping[str, str | None], names: Mapping[str, str], number: int) -> Line:
        """One line; its path may be written with backslashes."""
        said = {key: (row.get(names[key]) or "").strip() if key in names else "" for key in COLUMNS}
        if not said["path"]:
            raise ValueError(f"data.table={self.path}, line {number}: the path is empty.")
        path = self.path.parent / Path(said["path"]).expanduser()
        if "\\" in said["path"] and not path.exists():
            path = self.path.parent / said["path"].replace("\\", "/")
        return Line(path, said["label"], said["target"], said["split"])

    def present(self, lines: list[Line]) -> list[Line]:
        """The lines whose files are there.

        Raises:
            ValueError: one is missing and is not to be skipped, or none is left.
        """
        missing = [line.path for line in lines if not line.path.is_file()]
        if not missing:
            return lines
        first = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        said = f"{len(missing)} of the {len(lines)} files that {self.path} lists are missing: {first}"
        if not self.skips or len(missing) == len(lines):
            raise ValueError(f"{said}; correct the paths, which begin at the folder of the table, or remove the lines.")
        note(f"{said}; left out, as data.on_error=skip says")
        return [line for line in lines if line.path.is_file()]

    def labels(self, lines: list[Line]) -> tuple[Tensor | None, tuple[str, ...]]:
        """Classes [N] int64 and their names, or numbers [N] float32, or None for a table of neither.

        Classes that are whole numbers stand in their order, others in that of the alphabet.

        Raises:
            ValueError: some lines lack a label, or a target is no number.
        """
        if any(line.target for line in lines):
            said = [number(line.target, f"{self.path}: the target of {line.path}") for line in lines]
            return torch.tensor(said, dtype=torch.float32), ()  # [N]
        if without := [line.path for line in lines if not line.label]:
            if len(without) == len(lines):
                return None, ()
            raise ValueError(
                f"{self.path} has no label for {len(without)} of {len(lines)} images, such as {without[0]}: give all "
                "of them one, or none."
            )
        names = {line.label for line in lines}
        order = sorted(names, key=int if all(name.isdecimal() for name in names) else str)
        place = {name: position for position, name in enumerate(order)}
        return torch.tensor([place[line.label] for line in lines]), tuple(order)  # [N]

    def members(
        self, lines: list[Line], label: Tensor | None, test_fraction: float, seed: int, test_folder: str | None
    ) -> tuple[Tensor, Tensor]:
        """Which lines are of train and which of test: [N] bool each."""
        splits = [split_called(line.split) for line in lines]
        if not any(splits):
            test = holdout(label, len(lines), test_fraction, seed)  # [N]
            return ~test, test
        found = dict.fromkeys(splits)
        if unknown := [name for name in found if name not in SPLITS]:
            raise ValueError(
                f"{self.path} has the split {unknown[0]!r}: a split is train, val or test, of every line or of none."
            )
        scored = [name for name in found if name != "train"]
        if test_folder is None and len(scored) > 1:
            raise ValueError(f"{self.path} has both val and test: set data.test_folder to the one to score on.")
        if "train" not in found or (test_folder is not None and test_folder not in scored):
            missing = "train" if "train" not in found else test_folder
            raise ValueError(f"{self.path} has no line of the split {missing}, it has {', '.join(found)}.")
        chosen = test_folder or "".join(scored)
        return torch.tensor([s == "train" for s in splits]), torch.tensor([s == chosen for s in splits])


def listing(lines: list[Line], label: Tensor | None, classes: tuple[str, ...], chosen: Tensor) -> Listing:
    """The chosen lines [N] as files with their labels."""
    paths = [line.path for line, member in zip(lines, chosen.tolist(), strict=True) if member]
    return Listing(paths, None if label is None else label[chosen], classes)


def tabled(path: str | None, columns: Mapping[str, str] | None, on_error: str) -> Table | None:
    """The table that a data config names, if it does."""
    return None if path is None else Table(Path(path).expanduser(), columns or {}, on_error == "skip")
