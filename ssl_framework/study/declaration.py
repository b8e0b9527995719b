"""A study: one table of a paper, declared as rows and columns of overrides (``configs/study/<paper>/<table>.yaml``)."""

import difflib
import itertools
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssl_framework.report.sheet import TRUST, Effect, Published
from ssl_framework.runs.groups import choices, files
from ssl_framework.runs.plain import read_yaml

KEYS = {"title", "paper", "question", "metrics", "seeds", "rows", "columns", "baseline", "published", "scales", "axis"}


OPTIONAL = {"baseline", "published"}


class Line(NamedTuple):
    """A row or a column of a table."""

    name: str
    overrides: tuple[str, ...]
    names: Mapping[str, Any]  # fills in ``{...}`` of metrics

    def __str__(self) -> str:
        return self.name


class Scale(NamedTuple):
    """The size at which a study runs."""

    overrides: tuple[str, ...]
    note: str  # what it can and cannot show
    effects: tuple[Effect, ...] = ()  # what the paper says should be seen, and what counts as seeing it at this scale


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
    foreign: bool = False  # a file of any folder, not one of the package or of a plugin


def names_of_studies(root: Path | None = None) -> list[str]:
    """``dcl/batch_size`` and so on: below ``root``, or for ``None`` those shipped and those of plugins."""
    if root is None:
        return choices("study")
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.glob("*/*.yaml"))


def read_study(name: str, root: Path | None = None) -> Study:
    """The study of that name, below ``root`` or as ``names_of_studies`` lists it.

    Raises:
        ValueError: there is none, or its declaration is wrong; the message names the key.
    """
    path = files("study").get(name) if root is None else root / f"{name}.yaml"
    if path is None or not path.is_file():
        known = names_of_studies(root)
        near = difflib.get_close_matches(name, known, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"there is no study={name}{meant}; studies are: {', '.join(known)}")
    node = read_yaml(path)
    try:
        return declared(name, node)
    except ValueError as error:
        raise ValueError(f"study={name}: {error}") from error


def declared(name: str, node: Mapping[str, Any]) -> Study:
    """The declaration checked."""
    if not isinstance(node, Mapping):
        raise ValueError(f"its file holds {node}: give the keys {', '.join(sorted(KEYS))}")
    if unknown := set(node) - KEYS:
        raise ValueError(f"it has {sorted(unknown)}, which is none of {', '.join(sorted(KEYS))}")
    if missing := sorted(KEYS - OPTIONAL - set(node)):
        raise ValueError(f"{missing[0]} is missing")
    rows, columns = lines(node["rows"], "rows"), lines(node["columns"], "columns")
    baseline = node.get("baseline")
    if baseline is not None and baseline not in [row.name for row in rows]:
        raise ValueError(f"baseline is {baseline}, which is none of its rows: {', '.join(map(str, rows))}")
    seeds = node["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ValueError(f"seeds is {seeds}: give one or more whole numbers")
    measured = metrics(node["metrics"], rows, columns)
    return Study(
        name,
        node["title"],
        node["paper"],
        node["question"],
        measured,
        tuple(seeds),
        node["axis"],
        rows,
        columns,
        baseline,
        published(node.get("published"), rows, columns),
        scales(node["scales"], rows, columns, tuple(measured)),
    )


def lines(node: Mapping[str, Any], what: str) -> tuple[Line, ...]:
    """Rows or columns: name -> list of overrides, or {overrides, metric}."""
    if not isinstance(node, Mapping) or not node:
        raise ValueError(f"{what} is {node}: give one or more names, each with its overrides")
    found = []
    for name, content in node.items():
        content = content if isinstance(content, Mapping) else {"overrides": content}
        if unknown := set(content) - {"overrides", "metric"}:
            raise ValueError(f"{what}.{name} has {sorted(unknown)}: only overrides and metric are known")
        overrides = overrides_of(content.get("overrides"), f"{what}.{name}")
        found.append(Line(str(name), overrides, content.get("metric") or {}))
    return tuple(found)


def overrides_of(node: Any, where: str) -> tuple[str, ...]:
    """A list of Hydra's overrides; nothing is an empty one."""
    if node is not None and not isinstance(node, list):
        raise ValueError(f"{where} is {node}: give a list of overrides, such as [objective.temperature=0.2]")
    for item in node or []:
        if re.match(r"[+~]*(hydra|trust|resume)([./=@]|$)", str(item)):
            raise ValueError(f"{where} has {item!r}, which only the command line can say")
        if not re.match(r"[+~]{0,2}[\w./@]+=|~[\w./@]+$", str(item)):
            raise ValueError(f"{where} has {item!r}, which is not of the form key=value or ~key")
    return tuple(node or [])


def metrics(node: Mapping[str, str], rows: tuple[Line, ...], columns: tuple[Line, ...]) -> dict[str, str]:
    """What the table calls a metric -> its name in result.json, whose ``{...}`` every row or column fills in."""
    if not isinstance(node, Mapping) or not node:
        raise ValueError(f"metrics is {node}: give one or more, each as what the table calls it and its name")
    for title, metric in node.items():
        if not isinstance(metric, str) or any(spec or how for _, _, spec, how in string.Formatter().parse(metric)):
            raise ValueError(f"metrics has {metric!r} in {title!r}: give a name, in which {{...}} is a name, too")
        wanted = {field for _, field, _, _ in string.Formatter().parse(metric) if field is not None}
        for row, column in itertools.product(rows, columns):
            if lacking := sorted(wanted - {"row", "column", *row.names, *column.names}):
                raise ValueError(
                    f"metrics has {{{lacking[0]}}} in {title!r}, which neither rows.{row}.metric nor "
                    f"columns.{column}.metric fills in"
                )
    return dict(node)


def scales(
    node: Mapping[str, Any], rows: tuple[Line, ...], columns: tuple[Line, ...], measured: tuple[str, ...]
) -> dict[str, Scale]:
    """Name -> overrides, what the scale can show, and the effects that are looked for at it, if any."""
    if not isinstance(node, Mapping) or not node:
        raise ValueError(f"scales is {node}: give one or more, each with overrides and a note")
    found = {}
    for name, content in node.items():
        if not isinstance(content, Mapping) or set(content) - {"effects"} != {"overrides", "note"}:
            raise ValueError(f"scales.{name} is {content}: give it overrides and a note of what it can show")
        where = f"scales.{name}"
        sought = effects(content.get("effects"), f"{where}.effects", rows, columns, measured)
        found[str(name)] = Scale(overrides_of(content["overrides"], where), content["note"], sought)
    return found


def effects(
    node: Any, where: str, rows: tuple[Line, ...], columns: tuple[Line, ...], measured: tuple[str, ...]
) -> tuple[Effect, ...]:
    """Claim -> {plus, minus, by, metric}: places that are added, places that are taken away, the least difference that
    counts, and the metric if it is not the first."""
    if node is not None and not isinstance(node, Mapping):
        raise ValueError(f"{where} is {node}: give claims, each with plus, minus and by")
    found = []
    for claim, content in (node or {}).items():
        place = f"{where}.{claim!r}"
        if not isinstance(content, Mapping) or set(content) - {"metric"} != {"plus", "minus", "by"}:
            raise ValueError(f"{place} is {content}: give it plus, minus and by, and metric if it is not the first")
        metric, by = content.get("metric", measured[0]), content["by"]
        if metric not in measured:
            raise ValueError(f"{place}.metric is {metric}, which is none of {', '.join(measured)}")
        if isinstance(by, bool) or not isinstance(by, int | float) or not by >= 0:
            raise ValueError(f"{place}.by is {by}: give the least difference that counts, a number of at least 0")
        plus, minus = (places_of(content[side], f"{place}.{side}", rows, columns) for side in ("plus", "minus"))
        found.append(Effect(str(claim), plus, minus, float(by), metric))
    return tuple(found)


def places_of(node: Any, where: str, rows: tuple[Line, ...], columns: tuple[Line, ...]) -> tuple[tuple[str, str], ...]:
    """A list of [row, column]."""
    names = [line.name for line in rows], [line.name for line in columns]
    if not isinstance(node, list) or not node or not all(isinstance(place, list) and len(place) == 2 for place in node):
        raise ValueError(f"{where} is {node}: give a list of places, each as [row, column]")
    found = [(str(row), str(column)) for row, column in node]
    for row, column in found:
        if row not in names[0] or column not in names[1]:
            raise ValueError(
                f"{where} has [{row}, {column}], but the rows are {', '.join(names[0])} and the columns "
                f"{', '.join(names[1])}"
            )
    return tuple(found)


def published(node: Mapping[str, Any] | None, rows: tuple[Line, ...], columns: tuple[Line, ...]) -> Published | None:
    """The numbers of others, whose rows and columns are the table's."""
    if node is None:
        return None
    if missing := [key for key in ("what", "source", "trust", "values") if not node.get(key)]:
        raise ValueError(f"published.{missing[0]} is missing: no number stands without its source")
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
