"""A graph of one's own: a table of nodes and a table of edges, two CSV files.

Rules: edges go both ways; an edge that is there twice counts once, and one from a node to itself is left out; a node
without edges stays and sees itself alone, and a note says how many there are; features are brought to mean 0 and
standard deviation 1, each over all nodes; a label is a class by its name. Without a column of splits a share of the
nodes is held out for scoring; all nodes pass on what they know, but the loss is over those of training.
"""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Seed, Several, guarded
from ssl_framework.data.base import Split, check_split, holdout
from ssl_framework.data.graphs.base import Whole, both_ways
from ssl_framework.data.residence import note
from ssl_framework.runs.numbers import natural

COLUMNS = {"id": "id", "label": "label", "split": "split", "source": "source", "target": "target"}
"""What the tables say -> the column's name where ``columns`` gives no other. All other columns of the nodes are
features. Label and split may be missing."""

DELIMITERS = ",;\t|"


@guarded
class GraphTable:
    """Nodes of a graph in two tables.

    Args:
        root: folder of the tables.
        nodes, edges: the files, which begin at the root: UTF-8 with a header, fields divided by comma, semicolon, tab
            or bar.
        features: F, how many there are; another number is refused with the right one.
        test_fraction: of the nodes, held out for scoring where there is no column of splits.
        columns: other names for some of ``COLUMNS``.
        seed: of the held-out share.

    Raises:
        FileNotFoundError: a table is not there.
        ValueError: it is none, or a line cannot be read.
    """

    def __init__(
        self,
        root: str,
        nodes: str,
        edges: str,
        features: Several,
        test_fraction: BelowOne,
        columns: Mapping[str, str] | None = None,
        seed: Seed = 0,
    ) -> None:
        if unknown := sorted((columns or {}).keys() - COLUMNS.keys()):
            raise ValueError(f"data.columns names {unknown[0]}: there are {', '.join(COLUMNS)}")
        self.nodes, self.edges = (Path(root).expanduser() / name for name in (nodes, edges))
        self.features = features
        self.test_fraction = test_fraction
        self.columns = {**COLUMNS, **(columns or {})}
        self.seed = seed
        self.loaded: dict[str, Split] = {}
        self.whole: Whole | None = None

    def load(self, split: str) -> Split:
        """[N] int64 node numbers, in the order of the table; ValueError for an unknown split."""
        check_split(split)
        self.graph()
        return self.loaded["test" if split == "test" else "train"]

    def graph(self) -> Whole:
        """Read when it is asked for first."""
        if self.whole is None:
            x, number = self.read_nodes()
            edges = both_ways(self.read_edges(number), len(number))
            if alone := len(number) - len(edges[0].unique()):
                note(f"{alone:,} of the {len(number):,} nodes in {self.nodes} have no edges: they see themselves alone")
            self.whole = Whole(x, edges)
        return self.whole

    def read_nodes(self) -> tuple[Tensor, dict[str, int]]:
        """Features [n, F] and the number of every node. Changes ``loaded``."""
        head, lines = table_of(self.nodes, [self.columns["id"]])
        own = {head.index(name): what for what, name in self.columns.items() if name in head}
        own = {place: what for place, what in own.items() if what in ("id", "label", "split")}
        values = [place for place in range(len(head)) if place not in own]
        if len(values) != self.features:
            raise ValueError(
                f"{self.nodes} has {len(values)} columns of features, but data.features is {self.features}: set "
                f"data.features={len(values)}"
            )
        number: dict[str, int] = {}
        said: dict[str, list[str]] = {"label": [], "split": []}
        rows: list[list[float]] = []
        for line, fields in lines:
            for place, what in own.items():
                if what == "id" and number.setdefault(fields[place], len(number)) != len(rows):
                    raise ValueError(f"{self.nodes}, line {line}: there is a node {fields[place]} before: keep one")
                if what in said:
                    said[what].append(fields[place])
            try:
                rows.append([float(fields[place]) for place in values])
            except ValueError as error:
                raise ValueError(f"{self.nodes}, line {line}: {error}: features are numbers") from None
            if not all(map(math.isfinite, rows[-1])):
                raise ValueError(f"{self.nodes}, line {line}: a feature is not finite: give every node all numbers")
        x = torch.tensor(rows, dtype=torch.float64)  # [n, F]
        x = ((x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-12)).float()
        self.loaded = self.splits(said["label"], said["split"], len(rows))
        return x, number

    def splits(self, label: list[str], split: list[str], count: int) -> dict[str, Split]:
        """The nodes of training and of scoring."""
        classes = tuple(sorted(set(label), key=natural))
        if "" in classes:
            raise ValueError(f"{self.nodes}: {label.count('')} nodes have no label: give one to all, or to none")
        y = torch.tensor([classes.index(name) for name in label]) if label else None  # [n]
        if unlike := sorted(set(split) - {"train", "test"}):
            raise ValueError(f"{self.nodes}: there is a split {unlike[0]!r}: choose train or test for every node")
        held = torch.tensor([name == "test" for name in split])  # [n]
        if not split:
            held = holdout(y, count, self.test_fraction, self.seed)
        found = {"train": (~held).nonzero()[:, 0], "test": held.nonzero()[:, 0]}
        return {name: Split(index, None if y is None else y[index], classes) for name, index in found.items()}

    def read_edges(self, number: Mapping[str, int]) -> Tensor:
        """Pairs of node numbers [2, P]."""
        names = [self.columns["source"], self.columns["target"]]
        head, lines = table_of(self.edges, names)
        places = [head.index(name) for name in names]
        pairs = []
        for line, fields in lines:
            for place in places:
                if fields[place] not in number:
                    raise ValueError(f"{self.edges}, line {line}: there is no node {fields[place]!r} in {self.nodes}")
            pairs.append([number[fields[place]] for place in places])
        return torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T


def table_of(path: Path, needed: list[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and every line with its number.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no table, lacks a column, or a line has another number of fields.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no table {path}: set data.root to its folder, data.nodes and data.edges to it"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(DELIMITERS, key=first.count)
            head = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
            body = enumerate(csv.reader(file, delimiter=delimiter), start=2)
            lines = [(number, [field.strip() for field in fields]) for number, fields in body if fields]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table in UTF-8 ({error}): save it as such") from error
    if missing := [name for name in needed if name not in head]:
        raise ValueError(f"{path} has no column {missing[0]}, but {', '.join(head) or 'none'}: set data.columns")
    for number, fields in lines:
        if len(fields) != len(head):
            raise ValueError(f"{path}, line {number}: there are {len(fields)} fields, but {len(head)} columns")
    if not lines:
        raise ValueError(f"{path} has no line below its header")
    return head, lines
