"""The command: ``python scripts/study.py study=dcl/batch_size scale=small [jobs=2] [key=value ...]``."""

import json
import math
import re
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ssl_framework.report.render import as_csv, latex, markdown, page, plot
from ssl_framework.report.results_csv import COLUMNS, write_csv
from ssl_framework.report.sheet import Sheet, is_accuracy, mean_and_spread
from ssl_framework.runs.config import CONFIGS, quoted
from ssl_framework.runs.folder import write
from ssl_framework.runs.messages import STOPPED, explain
from ssl_framework.study.cells import Cell, Run, cells_of, runs_of
from ssl_framework.study.declaration import Study, names_of_studies, read_study
from ssl_framework.study.engine import Engine
from ssl_framework.study.record import entries_of, lead_of, sheet_of

OUT = Path("outputs") / "studies"


Number = TypeVar("Number", int, float)


USAGE = """python scripts/study.py study=NAME [scale=small] [jobs=1] [seeds=0,1,2] [key=value ...]

NAME is one of configs/study, or the path of a file like those, such as study=my/table.yaml.

Runs what the study's table lacks and writes the table. Stop it at any time and start it again: runs that are done
stay, interrupted ones go on from their checkpoint, failed ones are tried again.

  --dry-run          lists the runs and estimates their time from a few measured steps; runs nothing
  scale=paper        as published; small: for a CPU or one GPU
  jobs=2             runs side by side (on a GPU machine: one GPU after the other)
  seeds=0,1          in place of the study's own
  target=50          adds the cost to reach this value of the first metric (needs evaluation.every_n_epochs > 0)
  record=FOLDER      also keeps a record of the study there
  hydra/launcher=submitit_slurm hydra.launcher.partition=gpu hydra.launcher.timeout_min=600
                     hands the runs to SLURM, jobs=... at a time (pip install "ssl-framework[sweeps]"); jobs that were
                     handed over go on when the study is stopped, and the next start waits for them
  anything else      an override of every run, such as data.root=data or logger=wandb (grouped by study)
"""


class Request(NamedTuple):
    """What the command line asks for."""

    study: Study
    scale: str
    seeds: tuple[int, ...]
    jobs: int
    target: float | None
    record: Path | None
    dry_run: bool
    extra: tuple[str, ...]  # overrides of every run
    launch: tuple[str, ...]  # overrides that change no number


def parse(arguments: Sequence[str]) -> Request:
    """The command line.

    Raises:
        ValueError: it is not understood; the message says what is.
    """
    given = [item for item in arguments if item not in ("--dry-run", "dry_run=true")]
    if wrong := [item for item in given if "=" not in item]:
        raise ValueError(f"{wrong[0]!r} is not of the form key=value (--help lists what is known)")
    own = {"study": "", "scale": "small", "seeds": "", "jobs": "1", "target": "", "record": ""}
    extra, launch = [], []
    for item in given:
        key, _, value = item.partition("=")
        if key in own:
            own[key] = value
        elif re.match(r"\+*hydra(/launcher$|\.launcher\.)|[+~]*logger(\.|$)", key):
            launch.append(item)
        elif key.lstrip("+~").startswith("hydra"):
            raise ValueError(f"{item}: a study has its own folders and sweeper; only hydra/launcher can be chosen")
        elif key.lstrip("+~") == "seed":
            raise ValueError(f"{item}: each cell is run with several seeds; give them as seeds=0,1,2")
        else:
            extra.append(item)
    if not own["study"]:
        raise ValueError(f"say which study: study= one of {', '.join(names_of_studies())}")
    study = study_of(own["study"])
    if {"logger=wandb", "logger=wandb_offline"} & set(launch):
        launch.append(f"+logger.wandb.group={quoted(study.name)}")
    seeds = tuple(dict.fromkeys(number_of("seeds", seed, int) for seed in own["seeds"].split(",") if seed))
    jobs = number_of("jobs", own["jobs"], int)
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: it must be at least 1")
    target = number_of("target", own["target"], float) if own["target"] else None
    first = next(iter(study.metrics.items()))
    if target is not None and not any(map(is_accuracy, first)):
        raise ValueError(f"target is {target:g}, but the study's first metric, {first[0]}, is no accuracy")
    record = Path(own["record"]) if own["record"] else None
    dry_run = len(given) < len(arguments)
    return Request(study, own["scale"], seeds, jobs, target, record, dry_run, tuple(extra), tuple(launch))


def number_of(key: str, text: str, kind: type[Number]) -> Number:
    """The value of a key as a number.

    Raises:
        ValueError: it is none.
    """
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{key} has {text!r}, which is not {what}") from None


def study_of(name: str) -> Study:
    """The study of that name in configs/study, or in the file of that path.

    Raises:
        ValueError: there is none, its declaration is wrong, or a metric is called what a record calls something else.
    """
    path = Path(name)
    if path.suffix == ".yaml" and not path.is_file():
        raise ValueError(f"study={name}: there is no such file")
    study = read_study(path.stem, path.parent) if path.suffix == ".yaml" else read_study(name)
    if clash := {*COLUMNS, "error"} & set(study.metrics):
        raise ValueError(f"study={name}: a metric cannot be called {min(clash)}, which is a column of the record")
    return study


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``scripts/study.py``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(f"{USAGE}\nStudies: {', '.join(names_of_studies())}")
        return
    request, cells = understood(arguments)
    if request.dry_run:
        dry_run(request, cells)
        return
    command = shlex.join(["python", "scripts/study.py", *arguments])
    stopped = run(request, cells)
    folder = OUT / request.study.name / request.scale
    try:
        report(request, cells, folder, command)
        if request.record is not None:
            report(request, cells, request.record, command)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print((folder / "table.md").read_text())
    if stopped is not None:
        print(f"stopped; to continue: {command}")
        sys.exit(STOPPED + stopped)
    for path in sorted(folder.iterdir()):
        print(path)
    if lacking := [run for run in runs_of(cells) if run.state != "done"]:
        print(f"{len(lacking)} runs have no result; why: {lacking[0].folder / 'output.txt'}")
        sys.exit(1)


def understood(arguments: Sequence[str]) -> tuple[Request, list[Cell]]:
    """What a command line asks for, and the cells it means; ends with one sentence where it cannot be understood."""
    try:
        request = parse(arguments)
        return request, cells_of(request.study, request.scale, request.extra, request.seeds)
    except (HydraException, OmegaConfBaseException) as error:  # the latter is a ValueError in places
        sys.exit(f"error: {explain(error)}")
    except ValueError as error:
        sys.exit(f"error: {error}")


def run(request: Request, cells: Sequence[Cell]) -> int | None:
    """Runs what is missing; the number of the signal that stopped it, if one did."""
    runs = runs_of(cells)
    missing = [run for run in runs if run.state != "done"]
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
    if (result := cell.run.result) is not None:
        name = cell.metrics[0]
        value = mean_and_spread([result["metrics"][name]], name) if name in result["metrics"] else "done"
        return f"{value}, {result['wall_seconds']:.0f} s"
    if cell.run.error is not None:
        return f"failed: {cell.run.error}"
    return f"did not end (see {cell.run.folder / 'output.txt'})"


def minutes(seconds: float) -> str:
    """``50 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def dry_run(request: Request, cells: Sequence[Cell]) -> None:
    """Lists the runs with their state; the time of those to run from finished runs of the cell or measured steps."""
    known: dict[tuple[str, str], float] = {}
    total, unknown = 0.0, 0
    for run_cells in by_run(cells):
        cell = run_cells[0]
        state, place = cell.run.state, (cell.row, cell.column)
        if state != "done":
            if place not in known:
                known[place] = seconds_of(cells, cell)
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
    found: dict[Path, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.run.folder, []).append(cell)
    return list(found.values())


def seconds_of(cells: Sequence[Cell], cell: Cell) -> float:
    """Of a run: the median of finished runs of other seeds, else from measured steps; NaN where none can be taken here,
    which is said."""
    others = [c.run.result for c in cells if (c.row, c.column) == (cell.row, cell.column)]
    if finished := [result["wall_seconds"] for result in others if result and not result.get("resumed_at")]:
        return statistics.median(finished)
    from ssl_framework.study.estimate import training_seconds  # imports torch

    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return training_seconds(hydra.compose("train", list(cell.run.overrides)))
    except (ValueError, OSError, RuntimeError, HydraException) as error:  # no data or no GPU here
        print(f"{cell.row} | {cell.column}: no step can be measured here: {' '.join(str(error).split())}")
        return math.nan


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
    write(folder / "table.md", "\n\n".join([f"# {study.title}", *lead, markdown(sheet)]))
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
