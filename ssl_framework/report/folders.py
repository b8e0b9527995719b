"""The runs of multirun folders as a sheet: rows are settings, columns data sets or the one number that was swept.

table.md, table.csv, table.tex, table.html   the table, as a study's
results.csv                                  one line a run
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ssl_framework.report.render import as_csv, latex, markdown, page
from ssl_framework.report.results_csv import write_csv
from ssl_framework.report.sheet import Entry, Sheet
from ssl_framework.runs.composition import PARTS
from ssl_framework.runs.folder import write
from ssl_framework.runs.index import Summary, read_runs
from ssl_framework.runs.numbers import natural

ALIKE = "all alike"
"""The row of runs that differ in seed and column only."""


def report_folders(folders: Sequence[Path], out: Path, baseline: str | None, metric: str | None) -> Sheet:
    """Writes the table of all runs in the folders, in every form, into ``out``.

    Args:
        folders: of multiruns.
        out: is made.
        baseline: overrides that one row has, which the others are compared with.
        metric: to show alone, by its name in result.json; ``None`` for all.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no finished run, the baseline or the metric is not among them, runs contradict each other,
            or a column mixes protocols.
    """
    runs = [run for folder in dict.fromkeys(path.resolve() for path in folders) for run in read_runs(folder)]
    sheet, common = sheet_of(runs, baseline, metric)
    lead = [f"Runs in {', '.join(map(str, folders))}."]
    lead += [f"In common: {' '.join(common)}."] if common else []
    forms = {
        "table.md": "\n\n".join([f"# {sheet.title}", *lead, markdown(sheet)]),
        "table.csv": as_csv(sheet),
        "table.tex": latex(sheet),
        "table.html": page(sheet, lead),
        "results.csv": write_csv(sheet.entries),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in forms.items():
        write(out / name, text)
    return sheet


def sheet_of(runs: Sequence[Summary], baseline: str | None, metric: str | None) -> tuple[Sheet, list[str]]:
    """The table of runs, and the overrides that all of them share. Raises as ``report_folders``."""
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
        Entry(
            name_of(items[run.folder]),
            columns[run.folder],
            run.seed,
            run.state,
            {name: run.metrics[name] for name in metrics if name in run.metrics},
            run.seconds,
            None,
            run.protocol,
            run.config_hash,
            run.error,
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


def key_of(override: str) -> str:
    """``data.batch_size`` of ``data.batch_size=8``."""
    return override.partition("=")[0].lstrip("+~")


def name_of(items: Sequence[str]) -> str:
    """Of a row."""
    return " ".join(items) or ALIKE


def shared(runs: Sequence[Summary]) -> set[str]:
    """The overrides of all runs."""
    return set.intersection(*(set(run.overrides) for run in runs))


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


def once(runs: Sequence[Summary], items: dict[Path, tuple[str, ...]], columns: dict[Path, str]) -> list[Summary]:
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
