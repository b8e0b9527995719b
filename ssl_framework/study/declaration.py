"""A study: one table of a paper, declared as rows and columns of overrides (``configs/study/<paper>/<table>.yaml``)."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ssl_framework.main import CONFIGS

STUDIES = CONFIGS / "study"

TRUST = {
    "paper": "read in the paper",
    "readme": "read in the authors' README or code",
    "re-implementation": "read in a re-implementation by others",
    "memory": "from memory, unchecked: no target",
}
"""How far a published number can be relied on."""

KEYS = {"title", "paper", "question", "metrics", "seeds", "rows", "columns", "baseline", "published", "scales", "axis"}


class Line(NamedTuple):
    """A row or a column of a table."""

    name: str
    overrides: tuple[str, ...]
    names: Mapping[str, Any]  # fills in ``{...}`` of metrics

    def __str__(self) -> str:
        return self.name


class Published(NamedTuple):
    """Numbers of others beside ours."""

    what: str  # metric, data set, network, epochs
    source: str
    trust: str  # a key of TRUST
    values: dict[str, dict[str, float]]  # row -> column -> value


class Scale(NamedTuple):
    """The size at which a study runs."""

    overrides: tuple[str, ...]
    note: str  # what it can and cannot show


class Study(NamedTuple):
    """A table to fill: each row and column holds overrides, each cell one run a seed.

    ``metrics`` are names as result.json has them, the first of which is the one tested against the baseline; ``{...}``
    in them is filled in by the row's and the column's ``metric`` mapping, so that lines may be metrics of one run.
    """

    name: str
    title: str
    paper: str
    question: str
    metrics: dict[str, str]  # what the table calls it -> name in result.json
    seeds: tuple[int, ...]
    axis: str  # what the columns vary
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    baseline: str | None  # name of the row the others are compared with
    published: Published | None
    scales: dict[str, Scale]


def names_of_studies(root: Path = STUDIES) -> list[str]:
    """``dcl/batch_size`` and so on."""
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.glob("*/*.yaml"))


def read_study(name: str, root: Path = STUDIES) -> Study:
    """The study of that name.

    Raises:
        ValueError: there is none, or its declaration is wrong; the message names the key.
    """
    path = root / f"{name}.yaml"
    if not path.is_file():
        known = names_of_studies(root)
        near = difflib.get_close_matches(name, known, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"there is no study={name}{meant}; studies are: {', '.join(known)}")
    node = yaml.safe_load(path.read_text())
    try:
        return declared(name, node)
    except (ValueError, KeyError, TypeError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"study={name}: {missing}") from error


def declared(name: str, node: Mapping[str, Any]) -> Study:
    """The declaration checked."""
    if unknown := set(node) - KEYS:
        raise ValueError(f"it has {sorted(unknown)}, which is none of {', '.join(sorted(KEYS))}")
    rows, columns = lines(node["rows"], "rows"), lines(node["columns"], "columns")
    baseline = node.get("baseline")
    if baseline is not None and baseline not in [row.name for row in rows]:
        raise ValueError(f"baseline is {baseline}, which is none of its rows: {', '.join(map(str, rows))}")
    scales = {
        str(scale): Scale(tuple(content["overrides"]), content["note"]) for scale, content in node["scales"].items()
    }
    seeds = tuple(node["seeds"])
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ValueError(f"seeds is {node['seeds']}: give one or more whole numbers")
    return Study(
        name,
        node["title"],
        node["paper"],
        node["question"],
        dict(node["metrics"]),
        seeds,
        node["axis"],
        rows,
        columns,
        baseline,
        published(node.get("published"), rows, columns),
        scales,
    )


def lines(node: Mapping[str, Any], what: str) -> tuple[Line, ...]:
    """Rows or columns: name -> list of overrides, or {overrides, metric}."""
    found = []
    for name, content in node.items():
        content = content if isinstance(content, Mapping) else {"overrides": content}
        if unknown := set(content) - {"overrides", "metric"}:
            raise ValueError(f"{what}.{name} has {sorted(unknown)}: only overrides and metric are known")
        overrides = content.get("overrides") or []
        if wrong := [item for item in overrides if not re.match(r"[+~]{0,2}[\w./@]+=", str(item))]:
            raise ValueError(f"{what}.{name} has {wrong[0]!r}, which is not of the form key=value")
        found.append(Line(str(name), tuple(overrides), content.get("metric") or {}))
    if not found:
        raise ValueError(f"{what} is empty")
    return tuple(found)


def published(node: Mapping[str, Any] | None, rows: tuple[Line, ...], columns: tuple[Line, ...]) -> Published | None:
    """The numbers of others, whose rows and columns are the table's."""
    if node is None:
        return None
    if node["trust"] not in TRUST:
        raise ValueError(f"published.trust is {node['trust']}: choose one of {', '.join(TRUST)}")
    values = {
        str(row): {str(column): float(value) for column, value in found.items()}
        for row, found in node["values"].items()
    }
    for row, found in values.items():
        if row not in [line.name for line in rows]:
            raise ValueError(f"published.values has the row {row}, but the rows are {', '.join(map(str, rows))}")
        if wrong := [column for column in found if column not in [line.name for line in columns]]:
            raise ValueError(
                f"published.values.{row} has the column {wrong[0]}, but the columns are {', '.join(map(str, columns))}"
            )
    return Published(node["what"], node["source"], node["trust"], values)
