"""Texts of your own: a folder of .txt, .csv, .tsv and .jsonl files, or one such file, in UTF-8.

A line of a .txt file is a text, and blank lines are none. A line of the others has columns: a text, and what else they
say of it. Files called train, val or test (as ``train.csv``) say the split of their lines.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_framework.arguments import BelowOne, Seed, guarded
from ssl_framework.data.pairs.captions import SUFFIXES, divided, lines_of, texts_of
from ssl_framework.data.texts.worded import Said

COLUMNS = {"text": "text", "other": "other", "score": "score", "label": "label", "split": "split"}
"""What a line says -> the column's name where ``columns`` gives no other. The text must be there, or a list of texts in
JSONL; ``other`` is a second one, such as an answer or a translation, and ``score`` how alike the two are."""

SPLITS = ("train", "val", "test")


@guarded
class TextFiles:
    """Texts, or pairs of texts, of files.

    Args:
        root: the folder, or one file.
        columns: other names for some of ``COLUMNS``.
        test_fraction: held out for scoring where nothing names splits.
        seed: of the held-out share.
    """

    def __init__(self, root: str, columns: Mapping[str, str] | None, test_fraction: BelowOne, seed: Seed) -> None:
        self.root = Path(root).expanduser()
        self.columns = dict(columns or {})
        self.test_fraction = test_fraction
        self.seed = seed
        self.found: dict[str, list[Said]] = {}

    def splits(self) -> dict[str, list[Said]]:
        """As ``Texts``.

        Raises:
            FileNotFoundError: there is no such folder or file.
            ValueError: a file cannot be read, lacks a column, or a text is empty.
        """
        if not self.found:
            if unknown := [key for key in self.columns if key not in COLUMNS]:
                raise ValueError(f"data.columns has {unknown[0]}: it names {', '.join(COLUMNS)}.")
            every = [each for path in self.files() for each in self.of_file(path)]
            if len({len(each.texts) > 1 for each in every}) > 1:
                alone = next(each.texts[0] for each in every if len(each.texts) < 2)
                raise ValueError(
                    f"data.root={self.root} has texts with a second one and texts without, such as {alone[:40]!r}: "
                    f"give every text one in the column {self.column('other')}, or none."
                )
            self.found = divided(every, self.test_fraction, self.seed, f"data.root={self.root}", "texts")
        return self.found

    def files(self) -> list[Path]:
        """In the order of their names."""
        if not self.root.exists():
            raise FileNotFoundError(f"data.root={self.root} does not exist: name a folder of texts, or one file.")
        known = (".txt", *SUFFIXES)
        found = [self.root] if self.root.is_file() else sorted(self.root.rglob("*"))
        found = [path for path in found if path.is_file() and path.suffix in known]
        if not found:
            raise ValueError(f"data.root={self.root} has no {', '.join(known)} file: put your texts there.")
        return found

    def of_file(self, path: Path) -> Iterator[Said]:
        """Its texts, line by line."""
        split = path.stem if path.stem in SPLITS else ""
        if path.suffix != ".txt":
            for number, line in lines_of(path, str(path), lambda there: self.check(path, there)):
                yield self.said(line, f"{path}, line {number}", split)
            return
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
        yield from (Said((line.strip(),), split=split) for line in lines if line.strip())

    def check(self, path: Path, there: Sequence[str] | Mapping[str, Any]) -> None:
        """Raises ValueError if a column that is needed or named is not there."""
        if missing := [self.column(key) for key in ("text", *self.columns) if self.column(key) not in there]:
            raise ValueError(
                f"{path} has no column {missing[0]}, it has {', '.join(there) or 'none'}: name yours, as in "
                "'data.columns={text: question, other: answer}'."
            )

    def said(self, line: Mapping[str, Any], where: str, split: str) -> Said:
        """What a line says."""
        texts = texts_of(line[self.column("text")])
        if (other := line.get(self.column("other"))) is not None:
            texts += texts_of(other)
        if not all(texts) or not texts:
            raise ValueError(f"{where}: a text is empty: write one, or remove the line.")
        label, own = (str(line.get(self.column(key)) or "").strip() for key in ("label", "split"))
        return Said(texts, label, own or split, self.score(line, where))

    def score(self, line: Mapping[str, Any], where: str) -> float | None:
        """How alike the two texts of a line are; ``None`` where it does not say."""
        said = line.get(self.column("score"))
        if said is None or said == "":
            return None
        try:
            found = float(said)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise ValueError(f"{where}: the score is {said!r}: write a number, or leave it empty.")
        return found

    def column(self, key: str) -> str:
        """What the files call a column."""
        return self.columns.get(key, COLUMNS[key])
