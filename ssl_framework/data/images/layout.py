"""Which files of a folder belong to which split and class.

Three layouts, told apart by the sub-folders (hidden files and folders, and files of other types, are not looked at):

    root/*.png                                  unlabelled; a share is held out for scoring
    root/<class>/**/*.png                       labelled by the sub-folder; a share of every class is held out
    root/train/..., root/val/... or test/...    the splits as given, each in one of the two layouts above; also as
                                                training, valid, validation, dev, testing, in capitals or not

A CSV file may give every image a number, which then is its label instead of the sub-folder's class.
"""

import csv
import math
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssl_framework.data.base import holdout
from ssl_framework.data.residence import note

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".avif", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".npy", ".dcm", ".dicom"),
)
"""Of the files that are read, in capitals or not: what ``decoding``, ``bands`` and ``dicom`` know."""

SPLIT_FOLDERS = {"train", "val", "test"}

SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
"""How folders of splits are called as well."""


def split_called(name: str) -> str:
    """The split that a folder's name says, or the name itself."""
    return SPELLINGS.get(name.lower(), name.lower() if name.lower() in SPLIT_FOLDERS else name)


class Kind(NamedTuple):
    """What a folder is one of, in words, and the endings of the files that are read."""

    one: str
    many: str
    suffixes: tuple[str, ...]


IMAGES = Kind("image", "images", SUFFIXES)


class Listing(NamedTuple):
    """The files of one split."""

    paths: list[Path]
    label: Tensor | None  # [N] int64 classes or float32 numbers
    classes: tuple[str, ...]  # empty for numbers


class Tabled(Protocol):
    """A table of files; see ``table.Table``."""

    @property
    def path(self) -> Path:
        """Of the table."""
        ...

    def splits(self, test_fraction: float, seed: int, test_folder: str | None) -> dict[str, Listing]:
        """The files of "train" and "test"."""
        ...


def seen_from(root: Path, path: Path) -> Path:
    """A path as it is below ``root``, if it lies there."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and files of ``folder``, sorted by name, hidden ones left out."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in entries if path.is_dir()], [path for path in entries if path.is_file()]


def image_files(folder: Path, kind: Kind = IMAGES) -> list[Path]:
    """Files of a kind anywhere below ``folder``, sorted; linked folders are followed, hidden ones are not."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name) for name in files if not name.startswith(".") and name.lower().endswith(kind.suffixes)
        ]
    return sorted(found)


def left_out(root: Path, kind: Kind = IMAGES) -> Counter[str]:
    """Endings of the visible files anywhere below ``root`` that are of no such kind, and how many have each."""
    found: Counter[str] = Counter()
    for _, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        suffixes = (Path(name).suffix.lower() for name in files if not name.startswith("."))
        found.update(suffix for suffix in suffixes if suffix not in kind.suffixes)
    return found


def counted(left: Counter[str]) -> str:
    """Endings with their numbers, the most frequent first."""
    return ", ".join(f"{suffix or 'no ending'} ({number})" for suffix, number in left.most_common(5))


def list_images(folder: Path, kind: Kind = IMAGES) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    """Files, classes and class names of one flat folder (None, ()) or one folder of class folders.

    Raises:
        ValueError: no files of the kind, a class folder without any, a single class folder, or files beside class
            folders.
    """
    folders, files = visible(folder)
    flat = [path for path in files if path.suffix.lower() in kind.suffixes]
    if flat and folders:
        raise ValueError(
            f"{folder} has both {kind.many} ({flat[0].name}) and folders ({folders[0].name}): move the {kind.many} "
            f"into class folders, or point data.root at a folder of one kind."
        )
    if not flat and not folders:
        raise ValueError(
            f"{folder} has no {kind.many} ({len(files)} other files): point data.root at a folder of "
            f"{', '.join(suffix[1:] for suffix in kind.suffixes)} files or of class folders."
        )
    if flat:
        return flat, None, ()
    if len(folders) == 1:
        raise ValueError(
            f"{folder} has the single class folder {folders[0].name!r}: point data.root at that folder to pretrain "
            f"without labels, or add a folder for each further class."
        )
    members = [image_files(path, kind) for path in folders]
    if empty := [path.name for path, found in zip(folders, members, strict=True) if not found]:
        raise ValueError(
            f"{folder} has class folders without {kind.many} ({', '.join(empty[:5])}): remove them or put {kind.many} "
            "into them."
        )
    paths = [path for found in members for path in found]
    return paths, [index for index, found in enumerate(members) for _ in found], tuple(path.name for path in folders)


class Layout:
    """Where the two splits of a folder of images, or of files of another kind, come from.

    Args:
        root: the folder, in one of the layouts of this module's docstring.
        test_fraction: share held out for scoring where the folder has no test split, in [0, 1); 0 holds out nothing.
        seed: of that split; part of the data set, not of the run.
        test_folder: "val" or "test", which of them is scored on when the folder has both; None when it has one.
        targets: CSV file with the columns path (below the root) and target: the number that is the label of that
            image; None: the sub-folders are the classes.
        table: lists the files instead; the root is then its folder.
        kind: of the files.

    Raises:
        ValueError: an argument outside its range, or both a table and targets.
    """

    def __init__(
        self,
        root: str | Path,
        test_fraction: float,
        seed: int,
        test_folder: str | None = None,
        targets: str | Path | None = None,
        table: Tabled | None = None,
        kind: Kind = IMAGES,
    ) -> None:
        if table is not None and targets is not None:
            raise ValueError("data.table and data.source.targets both say labels: keep one, a table may have targets.")
        if not 0 <= test_fraction < 1:
            raise ValueError(f"data.test_fraction={test_fraction} is not a share: set it to at least 0 and below 1.")
        if test_folder not in (None, "val", "test"):
            raise ValueError(f"data.test_folder={test_folder} is not known: choose val, test or null.")
        self.root = Path(root).expanduser() if table is None else table.path.parent
        self.table = table
        self.kind = kind
        self.test_fraction = test_fraction
        self.seed = seed
        self.test_folder = test_folder
        self.targets = None if targets is None else Path(targets).expanduser()
        self.listed: dict[str, Listing] = {}

    def splits(self) -> dict[str, Listing]:
        """The files of "train" and "test", looked up once; the latter may be empty. Raises as ``list_splits`` and
        ``with_numbers``."""
        if not self.listed and self.table is not None:
            self.listed = self.table.splits(self.test_fraction, self.seed, self.test_folder)
        if not self.listed:
            splits = self.list_splits()
            if left := left_out(self.root, self.kind):
                note(f"{sum(left.values())} files below {self.root} are of other kinds and left out: {counted(left)}")
            self.listed = splits if self.targets is None else with_numbers(splits, self.root, self.targets)
        return self.listed

    def split(self, name: str) -> Listing:
        """The files of split "train" or "test"; raises as ``list_splits``, and ValueError when there are none."""
        listing = self.splits()[name]
        if not listing.paths:
            raise ValueError(
                f"{self.root} leaves no {self.kind.one} for the {name} split with "
                f"data.test_fraction={self.test_fraction}: raise it, add a test folder, or switch the evaluation off."
            )
        return listing

    def list_splits(self) -> dict[str, Listing]:
        """The files of "train" and "test" as they are now.

        Raises:
            FileNotFoundError: the root is not there.
            ValueError: a layout that is not one of the module's.
        """
        if not self.root.exists():
            raise FileNotFoundError(
                f"data.root={self.root} does not exist: set data.root to a folder of {self.kind.many}."
            )
        if not self.root.is_dir():
            raise ValueError(f"data.root={self.root} is a file: set data.root to a folder of {self.kind.many}.")
        folders: dict[str, Path] = {}
        for path in visible(self.root)[0]:
            if (other := folders.setdefault(split_called(path.name), path)) != path:
                raise ValueError(
                    f"{self.root} has {other.name} and {path.name}, which are the same split: rename or remove one."
                )
        names = set(folders)
        splits = names & SPLIT_FOLDERS
        if splits in ({"train"}, set()) and names != {"train"}:
            return self.list_held_out(self.root)  # no split folders; "train" alone among others is a class
        if names != splits or "train" not in names:
            raise ValueError(
                f"{self.root} has the folders {', '.join(sorted(names)[:8])}: for fixed splits have train with val or "
                f"test and nothing else, for classes rename {' and '.join(sorted(splits))}."
            )
        if names == {"train"}:
            return self.list_held_out(folders["train"])
        if names == SPLIT_FOLDERS and self.test_folder is None:
            raise ValueError(f"{self.root} has both val and test: set data.test_folder to the one to score on.")
        scored = self.test_folder or (names - {"train"}).pop()
        if scored not in names:
            raise ValueError(f"{self.root} has no folder {scored!r}: set data.test_folder=null to use what it has.")
        return self.list_given(folders["train"], folders[scored])

    def list_given(self, train: Path, test: Path) -> dict[str, Listing]:
        """The splits of two folders, classes numbered by the names in ``train``; raises as ``list_splits``."""
        train_paths, train_label, classes = list_images(train, self.kind)
        test_paths, test_label, test_classes = list_images(test, self.kind)
        if train_label is None or test_label is None:
            if train_label is not test_label:
                flat, sorted_in = (train, test) if train_label is None else (test, train)
                raise ValueError(f"{sorted_in} has class folders but {flat} has none: give both the same layout.")
            return {"train": Listing(train_paths, None, ()), "test": Listing(test_paths, None, ())}
        if unknown := sorted(set(test_classes) - set(classes)):
            raise ValueError(f"{test} has classes that {train} lacks ({', '.join(unknown[:5])}): add or remove them.")
        number = torch.tensor([classes.index(name) for name in test_classes])  # class in test -> class in train
        return {
            "train": Listing(train_paths, torch.tensor(train_label), classes),
            "test": Listing(test_paths, number[torch.tensor(test_label)], classes),
        }

    def list_held_out(self, folder: Path) -> dict[str, Listing]:
        """Both splits of one folder by a seeded draw of paths, readable or not; raises as ``list_splits``."""
        paths, label_list, classes = list_images(folder, self.kind)
        label = None if label_list is None else torch.tensor(label_list)
        test = holdout(label, len(paths), self.test_fraction, self.seed)  # [N]
        splits = {}
        for name, members in (("train", ~test), ("test", test)):
            chosen = [path for path, member in zip(paths, members.tolist(), strict=True) if member]
            splits[name] = Listing(chosen, None if label is None else label[members], classes)
        return splits


def with_numbers(splits: dict[str, Listing], root: Path, targets: Path) -> dict[str, Listing]:
    """The same files with the numbers of a CSV file as labels, [N] float32.

    Raises:
        FileNotFoundError, ValueError: as ``read_targets``, and an image without a number or a number without an image.
    """
    numbers = read_targets(targets)
    names = {split: [path.relative_to(root).as_posix() for path in listing.paths] for split, listing in splits.items()}
    everyone = [name for each in names.values() for name in each]
    if missing := [name for name in everyone if name not in numbers]:
        raise ValueError(
            f"{targets} has no target for {len(missing)} of {len(everyone)} images in {root}, such as {missing[0]}: "
            "add a line for each of them, or set data.source.targets=null."
        )
    if unknown := [name for name in numbers if not (root / name).is_file()]:
        raise ValueError(
            f"{targets} has {len(unknown)} paths that are not in {root}, such as {unknown[0]}: remove these lines, or "
            "give the paths as seen from data.root."
        )
    return {
        split: Listing(listing.paths, torch.tensor([numbers[name] for name in names[split]], dtype=torch.float32), ())
        for split, listing in splits.items()
    }


def read_targets(targets: Path) -> dict[str, float]:
    """Path -> number, of a CSV file whose first line names the columns ``path`` and ``target``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table, holds a path twice, or something that is no finite number.
    """
    if not targets.is_file():
        raise FileNotFoundError(f"data.source.targets={targets} does not exist: name a CSV file with path and target.")
    numbers: dict[str, float] = {}
    try:
        with targets.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"path", "target"} <= set(rows.fieldnames or ()):
                raise ValueError(
                    f"{targets} has the columns {', '.join(rows.fieldnames or ())}: its first line must name path and "
                    "target (data.source.targets)."
                )
            for row in rows:
                name, where = PurePosixPath(row["path"] or "").as_posix(), f"{targets}, line {rows.line_num}"
                if name in numbers:
                    raise ValueError(f"{where}: {name} has a target already: keep one of the two lines.")
                numbers[name] = number(row["target"], f"{where}: the target of {name}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"data.source.targets={targets} cannot be read as CSV ({error}): write it again.") from error
    return numbers


def number(text: str | None, what: str) -> float:
    """A number that float32 holds, or a ValueError that begins with ``what``."""
    try:
        value = torch.tensor(float(text or ""), dtype=torch.float32).item()
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} is {text!r}, not a finite number: correct it, or leave the image and its line out.")
    return value
