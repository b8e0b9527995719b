"""What a study has found so far: from the runs' folders, or from a record of them that the repository keeps.

results.csv  one line a cell and seed: state, metrics, seconds, protocol, hash of the config, error
about.json   study, scale, versions, hardware and commits of the runs
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_framework.report.comparison import together
from ssl_framework.report.escaping import markdown_text
from ssl_framework.report.render import as_csv, latex, markdown, page, plot
from ssl_framework.report.results_csv import write_csv
from ssl_framework.report.sheet import Entry, Sheet, entry_of
from ssl_framework.runs.folder import RunFolder, Summary, write
from ssl_framework.study.cells import Cell, Run
from ssl_framework.study.declaration import Study
from ssl_framework.study.request import Request


def report(request: Request, cells: Sequence[Cell], folder: Path, command: str) -> Sheet:
    """Writes the table in all its forms, the record it is made of, and the command."""
    study = request.study
    entries, about = entries_of(study, cells, request.target)
    sheet = sheet_of(study, entries, request.scale, request.target)
    folder.mkdir(parents=True, exist_ok=True)
    scale = study.scales[request.scale]
    about = {"study": study.name, "scale": request.scale, "overrides": scale.overrides, "note": scale.note,
             "extra": request.extra, "target": request.target, **about}  # fmt: skip
    lead = lead_of(study, request.scale)
    write(folder / "results.csv", write_csv(entries))
    write(folder / "about.json", json.dumps(about, indent=2) + "\n")
    write(
        folder / "table.md",
        "\n\n".join([f"# {markdown_text(study.title)}", *map(markdown_text, lead), markdown(sheet)]),
    )
    write(folder / "table.csv", as_csv(sheet))
    write(folder / "table.tex", latex(sheet))
    write(folder / "command.txt", command + "\n")
    if (picture := plot(sheet, sheet.metrics[0])) is not None:
        (folder / "plot.png").write_bytes(picture)
    else:
        (folder / "plot.png").unlink(missing_ok=True)  # of what the table was before
    if folder != request.record:
        write(folder / "table.html", page(sheet, lead))
    return sheet


def lead_of(study: Study, scale: str) -> list[str]:
    """What the table is about, before it."""
    return [study.question, f"Paper: {study.paper}.", f"Scale {scale}: {study.scales[scale].note}"]


def entries_of(study: Study, cells: Sequence[Cell], target: float | None = None) -> tuple[list[Entry], dict[str, Any]]:
    """The cells as they stand, and what their runs have in common.

    Raises:
        ValueError: a finished run lacks a metric of the study.
    """
    runs: dict[RunFolder, Summary] = {}
    entries = []
    for cell in cells:
        folder = cell.run.folder
        if folder not in runs:
            runs[folder] = summary_of(cell.run)
        values = values_of(study, cell, runs[folder])
        reached = None if target is None else seconds_to(runs[folder], cell.metrics[0], target)
        entries.append(entry_of(runs[folder], cell.row, cell.column, values, reached))
    results = [folder.read_result() for folder, run in runs.items() if run.state == "done"]
    names = ("versions", "commit", "device", "cpu", "processes", "precision", "images")
    return entries, {name: together(result.get(name) for result in results) for name in names}


def summary_of(run: Run) -> Summary:
    """What the table needs of a run; one whose files are damaged is named in a note, and missing in the table."""
    try:
        return run.folder.summary()._replace(seed=run.seed)
    except ValueError as error:
        warnings.warn(f"left out: {error}", stacklevel=2)
        return Summary(run.folder, run.overrides, "", "", run.seed, "missing", "", {}, None, None, None, "", "")


def values_of(study: Study, cell: Cell, run: Summary) -> dict[str, float]:
    """What the table calls a metric -> its value, where the run is done.

    Raises:
        ValueError: the run lacks one of them.
    """
    if run.state != "done":
        return {}
    if lacking := [metric for metric in cell.metrics if metric not in run.metrics]:
        had = ", ".join(run.metrics)
        raise ValueError(f"study={study.name} wants {lacking[0]}, which {run.folder} lacks; it has: {had}")
    found = zip(study.metrics, cell.metrics, strict=True)
    return {title: float(f"{run.metrics[metric]:.6g}") for title, metric in found}


def seconds_to(run: Summary, metric: str, target: float) -> float | None:
    """Seconds until a metric first reached the target, by the share of the steps; None if it never did, or where that
    is not known.

    Evaluation is taken to be spread over the run as its steps are.
    """
    if run.seconds is None or not run.steps:
        return None
    curve = run.folder.read_metrics().get(f"eval/{metric}", [])
    steps = [step for step, value in curve if value >= target]
    return round(run.seconds * steps[0] / run.steps, 1) if steps else None


def sheet_of(study: Study, entries: Sequence[Entry], scale: str, target: float | None = None) -> Sheet:
    """The table of a study."""
    seeds = tuple(sorted({entry.seed for entry in entries} or study.seeds))
    return Sheet(
        study.title,
        study.axis,
        tuple(map(str, study.rows)),
        tuple(map(str, study.columns)),
        tuple(study.metrics),
        seeds,
        tuple(entries),
        study.baseline,
        study.published,
        target,
        study.scales[scale].effects,
    )
