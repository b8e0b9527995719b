"""The command: ``python scripts/study.py study=dcl/batch_size scale=small [jobs=2] [key=value ...]``."""

import math
import shlex
import statistics
import sys
import time
from collections.abc import Sequence

import hydra
from hydra.errors import HydraException

from ssl_framework.report.sheet import mean_and_spread
from ssl_framework.runs.config import hosted
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import admit, composing
from ssl_framework.runs.messages import STOPPED, as_typed, commanded, refusing, typed
from ssl_framework.runs.stopping import line_of, stop
from ssl_framework.study.cells import Cell, Run, runs_of
from ssl_framework.study.declaration import names_of_studies
from ssl_framework.study.engine import Engine
from ssl_framework.study.record import report
from ssl_framework.study.request import OUT, USAGE, Request, understood


@commanded()
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``scripts/study.py``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    others = admit(arguments)
    if {"-h", "--help"} & set(others):
        print(f"{as_typed(USAGE)}\nStudies: {', '.join(names_of_studies())}")
        return
    request, cells = understood(others)
    if request.dry_run:
        dry_run(request, cells)
        return
    command = f"{typed('study')} {shlex.join(arguments)}"
    stop.then = f"runs that have ended stay; to continue: {command}"
    with refusing():
        stopped = run(request, cells)
    folder = OUT / request.study.name / request.scale
    with refusing():
        report(request, cells, folder, command)
        if request.record is not None:
            report(request, cells, request.record, command)
    print((folder / "table.md").read_text())
    if stopped is not None:
        print(f"{line_of(stopped)}; to continue: {command}")
        sys.exit(STOPPED + stopped)
    for path in sorted(folder.iterdir()):
        print(path)
    if lacking := [run for run in runs_of(cells) if run.folder.state != "done"]:
        print(f"{len(lacking)} runs have no result; why: {lacking[0].folder.output_file}")
        sys.exit(1)


def run(request: Request, cells: Sequence[Cell]) -> int | None:
    """Runs what is missing; the number of the signal that stopped it, if one did."""
    runs = runs_of(cells)
    missing = [run for run in runs if run.folder.state != "done"]
    print(
        f"{request.study.name}, scale {request.scale}: {len(cells)} cells and seeds, {len(runs)} different runs, "
        f"{len(runs) - len(missing)} done, {len(missing)} to run, {request.jobs} at a time",
        flush=True,
    )
    if not missing:
        return None
    place = {cell.run.folder: cell for cell in reversed(cells)}
    started, count = time.monotonic(), 0

    def ended(run: Run) -> None:
        nonlocal count
        count += 1
        left = (time.monotonic() - started) / max(1, count) * (len(missing) - count)
        cell = place[run.folder]
        print(
            f"[{count}/{len(missing)}] {cell.row}, {request.study.axis} {cell.column}, seed {run.seed}: "
            f"{said_of(cell)}, about {minutes(left)} left",
            flush=True,
        )

    return Engine(request.jobs, request.launch)(missing, ended)


def said_of(cell: Cell) -> str:
    """How a run ended, in a few words."""
    if cell.run.folder.state == "done":
        result = cell.run.folder.read_result()
        name = cell.metrics[0]
        value = mean_and_spread([result["metrics"][name]], name) if name in result["metrics"] else "done"
        return f"{value}, {result['wall_seconds']:.0f} s"
    if error := cell.run.folder.read_error():
        return f"failed: {error}"
    return f"did not end (see {cell.run.folder.output_file})"


def minutes(seconds: float) -> str:
    """``50 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def dry_run(request: Request, cells: Sequence[Cell]) -> None:
    """Lists the runs with their state; the time of those to run from finished runs of the cell or measured steps."""
    known: dict[tuple[str, str], float] = {}
    said_before: set[str] = set()  # what is wrong with one cell is mostly wrong with all
    total, unknown = 0.0, 0
    for run_cells in by_run(cells):
        cell = run_cells[0]
        state, place = cell.run.folder.state, (cell.row, cell.column)
        if state != "done":
            if place not in known:
                known[place] = seconds_of(cells, cell, request.study.foreign, said_before)
            said = f", about {minutes(known[place])}"
            if math.isnan(known[place]):
                said, unknown = ", time unknown", unknown + 1
            else:
                total += known[place]
        print(
            f"{cell.row} | {cell.column} | seed {cell.run.seed}: {state}{said if state != 'done' else ''} | "
            f"{' '.join(cell.run.overrides)}",
            flush=True,
        )
    if not total:
        print(f"in all {unknown} of unknown time" if unknown else "nothing to run")
        return
    print(
        f"in all about {minutes(total / request.jobs)} of training with jobs={request.jobs} on this machine; start and "
        f"evaluation of what was not run yet come on top{f', and {unknown} runs of unknown time' if unknown else ''}"
    )


def by_run(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells, those of one run together."""
    found: dict[RunFolder, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.run.folder, []).append(cell)
    return list(found.values())


def seconds_of(cells: Sequence[Cell], cell: Cell, foreign: bool, said: set[str]) -> float:
    """Of a run: the median of finished runs of other seeds, else from measured steps; NaN where none can be taken here,
    which is said unless it is among what was ``said``, or where the study is a foreign file, of which nothing is
    constructed."""
    own = [c.run.folder for c in cells if (c.row, c.column) == (cell.row, cell.column)]
    others = [folder.read_result() for folder in own if folder.state == "done"]
    if finished := [result["wall_seconds"] for result in others if result and not result.get("resumed_at")]:
        return statistics.median(finished)
    if foreign:
        return math.nan
    from ssl_framework.study.estimate import training_seconds  # imports torch

    try:
        with composing():
            return training_seconds(hosted(hydra.compose("train", list(cell.run.overrides))))
    except (ValueError, OSError, RuntimeError, HydraException) as error:  # no data or no GPU here
        if (why := " ".join(str(error).split())) not in said:
            print(f"{cell.row} | {cell.column}: no step can be measured here: {why}")
            said.add(why)
        return math.nan
