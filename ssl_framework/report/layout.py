"""From runs to rows and columns: by what varies among them, by setting and swept number, or by method and data set."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from ssl_framework.report.sheet import Sheet, entry_of
from ssl_framework.runs.composition import PARTS
from ssl_framework.runs.folder import RunFolder, Summary
from ssl_framework.runs.numbers import natural

ALIKE = "all alike"
"""The row of runs that differ in seed and column only."""


def by_variation(runs: Sequence[Summary]) -> tuple[Sheet, list[str]]:
    """A multirun as its end is printed: rows are what varies beside data set and seed, an override a line, columns the
    data sets ("" where all are on one); and the overrides that all jobs share."""
    runs, common = in_order(runs), shared(runs)
    places: dict[RunFolder, tuple[tuple[str, ...], str]] = {}
    for run in runs:
        varied = [item for item in run.overrides if item not in common and not item.startswith("seed=")]
        data = next((item.removeprefix("data=") for item in varied if item.startswith("data=")), "")
        places[run.folder] = tuple(item for item in varied if not item.startswith("data=")), data
    rows = sorted({row for row, _ in places.values()}, key=lambda row: natural("\n".join(row)))
    columns = sorted({data for _, data in places.values()}, key=natural)
    names = {row: "\n".join(row) or ALIKE for row in rows}
    place = {(names[row], column): i for i, (row, column) in enumerate(itertools.product(rows, columns))}
    entries = [entry_of(run, names[places[run.folder][0]], places[run.folder][1], run.metrics) for run in runs]
    entries.sort(key=lambda entry: place[entry.row, entry.column])
    sheet = Sheet(
        "Jobs by setting",
        "data",
        tuple(names.values()),
        tuple(columns),
        tuple(dict.fromkeys(name for entry in entries for name in entry.values)),
        tuple(sorted({run.seed for run in runs})),
        tuple(entry._replace(protocol="") for entry in entries),  # where a sweep is over protocols, it shows them all
    )
    return sheet, [item for item in runs[0].overrides if item in common] if runs else []


def by_method(runs: Sequence[Summary]) -> list[tuple[str, str]]:
    """Row and column of every run in the record of a comparison: its method with the overrides that set it apart from
    other runs on the same data, and its data set."""
    common = {data: shared([run for run in runs if run.data == data]) for data in {run.data for run in runs}}
    places = []
    for run in runs:
        rest = [item for item in run.overrides if item not in common[run.data]]
        named = run.method.split()  # a name tells the parts that are not the method's own
        rest = [item for item in rest if key_of(item) not in ("method", "data", "seed") and item not in named]
        places.append((" ".join([run.method, *rest]), run.data))
    return places


def by_setting(runs: Sequence[Summary], baseline: str | None, metric: str | None) -> tuple[Sheet, list[str]]:
    """The runs of any multiruns: rows are settings, columns data sets or the one number that was swept; and the
    overrides that all of them share.

    Args:
        runs: of any number of folders.
        baseline: overrides that one row has, which the others are compared with.
        metric: to show alone, by its name in result.json; ``None`` for all.

    Raises:
        ValueError: there is no finished run, the baseline or the metric is not among them, or runs contradict each
            other.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if not any(run.state == "done" for run in runs):
        raise ValueError("there is no finished run of a multirun in these folders")
    if metric is not None and metric not in names:
        raise ValueError(f"no run has the metric {metric}; they have: {', '.join(names)}")
    metrics = (metric,) if metric is not None else tuple(names)
    common = shared(runs)
    axis = swept_number(runs, common)
    items, columns = {}, {}
    own = {data: shared([run for run in runs if run.data == data]) for data in {run.data for run in runs}}
    methods = len({run.method for run in runs}) > 1
    for run in runs:
        left = [item for item in run.overrides if item not in common and key_of(item) not in ("seed", axis)]
        if axis is None:  # what all runs on a data set share belongs to the column
            columns[run.folder] = run.data
            left = [i for i in left if key_of(i) != "data"]
            left = [i for i in left if i not in own[run.data] or (key_of(i) in ("method", *PARTS) and methods)]
        else:
            columns[run.folder] = next(i.partition("=")[2] for i in run.overrides if key_of(i) == axis)
        items[run.folder] = tuple(sorted(left, key=natural))
    rows = sorted(set(items.values()), key=lambda row: natural("\n".join(row)))
    entries = [
        entry_of(
            run,
            name_of(items[run.folder]),
            columns[run.folder],
            {name: run.metrics[name] for name in metrics if name in run.metrics},
        )
        for run in once(runs, items, columns)
    ]
    sheet = Sheet(
        "Runs by setting",
        axis or "data",
        tuple(map(name_of, rows)),
        tuple(sorted(set(columns.values()), key=natural if axis is None else float)),
        metrics,
        tuple(sorted({run.seed for run in runs})),
        tuple(entries),
        None if baseline is None else baseline_of(baseline, rows),
    )
    return sheet, [item for item in runs[0].overrides if item in common]


def in_order(runs: Sequence[Summary]) -> list[Summary]:
    """By their overrides and the numbers in them."""
    return sorted(runs, key=lambda run: natural("\n".join(run.overrides)))


def key_of(override: str) -> str:
    """``data.batch_size`` of ``data.batch_size=8``."""
    return override.partition("=")[0].lstrip("+~")


def name_of(items: Sequence[str]) -> str:
    """Of a row."""
    return " ".join(items) or ALIKE


def shared(runs: Sequence[Summary]) -> set[str]:
    """The overrides of all runs."""
    return set.intersection(*(set(run.overrides) for run in runs)) if runs else set()


def swept_number(runs: Sequence[Summary], common: set[str]) -> str | None:
    """The key beside the seed that every run sets to a number, if there is exactly one and the runs differ in it."""
    values: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for run in runs:
        for item in run.overrides:
            if item not in common and (key := key_of(item)) != "seed":
                values.setdefault(key, set()).add(item.partition("=")[2])
                counts[key] += 1
    found = [key for key, own in values.items() if counts[key] == len(runs) and all(map(is_number, own))]
    return found[0] if len(found) == 1 else None


def is_number(text: str) -> bool:
    """Whether a value is a finite number."""
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def once(
    runs: Sequence[Summary], items: Mapping[RunFolder, tuple[str, ...]], columns: Mapping[RunFolder, str]
) -> list[Summary]:
    """One run for each place and seed: the finished one, where another try lies in another folder.

    Raises:
        ValueError: two finished ones have different values.
    """
    found: dict[tuple[tuple[str, ...], str, int], Summary] = {}
    for run in runs:
        place = items[run.folder], columns[run.folder], run.seed
        before = found.setdefault(place, run)
        if before.state == run.state == "done" and before.metrics != run.metrics:
            raise ValueError(
                f"{before.folder} and {run.folder} are runs of the same setting and seed with different values: report "
                "their folders apart"
            )
        if before.state != "done":
            found[place] = run
    return list(found.values())


def baseline_of(wanted: str, rows: Sequence[tuple[str, ...]]) -> str:
    """The row that has these overrides.

    Raises:
        ValueError: none has, or several have.
    """
    found = [row for row in rows if set(wanted.split()) <= set(row)]
    if exact := [row for row in found if set(wanted.split()) == set(row)]:
        found = exact
    if len(found) != 1:
        those = "; ".join(map(name_of, (found or rows)[:8])) + ("; ..." if len(found or rows) > 8 else "")
        raise ValueError(
            f"--baseline {wanted!r} is {'no row' if not found else f'{len(found)} rows'}: give overrides that one row "
            f"has, of: {those}"
        )
    return name_of(found[0])
