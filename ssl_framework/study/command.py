"""The command: ``python scripts/study.py study=dcl/batch_size scale=small [jobs=2] [key=value ...]``."""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ssl_framework.main import STOPPED, explain, write
from ssl_framework.study.cells import Cell, Run, cells_of, runs_of
from ssl_framework.study.declaration import Study, names_of_studies, read_study
from ssl_framework.study.engine import Engine
from ssl_framework.study.record import entries_of, sheet_of, write_csv
from ssl_framework.study.render import as_csv, latex, markdown, page, plot
from ssl_framework.study.sheet import Sheet, mean_and_spread

OUT = Path("outputs") / "studies"

USAGE = """python scripts/study.py study=NAME [scale=small] [jobs=1] [seeds=0,1,2] [key=value ...]

Runs what the study's table lacks and writes the table. Stop it at any time and start it again: runs that are done
stay, interrupted ones go on from their checkpoint, failed ones are tried again.

  --dry-run          lists the runs and estimates their time from a few measured steps; runs nothing
  scale=paper        as published; small: for a CPU or one GPU
  jobs=2             runs side by side (on a GPU machine: one GPU after the other)
  seeds=0,1          in place of the study's own
  target=50          adds the cost to reach this value of the first metric (needs evaluation.every_n_epochs > 0)
  record=FOLDER      also keeps a record of the study there
  hydra/launcher=submitit_slurm hydra.launcher.partition=gpu
                     hands the runs to SLURM, jobs=... at a time (pip install hydra-submitit-launcher)
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
        raise ValueError(f"{wrong[0]!r} is not of the form key=value\n\n{USAGE}")
    own = {"study": "", "scale": "small", "seeds": "", "jobs": "1", "target": "", "record": ""}
    extra, launch = [], []
    for item in given:
        key, _, value = item.partition("=")
        if key in own:
            own[key] = value
        elif key.lstrip("+").startswith(("hydra", "logger")):
            launch.append(item)
        else:
            extra.append(item)
    if not own["study"]:
        raise ValueError(f"say which study: {', '.join(names_of_studies())}\n\n{USAGE}")
    study = read_study(own["study"])
    if {"logger=wandb", "logger=wandb_offline"} & set(launch):
        launch.append(f"+logger.wandb.group={study.name}")
    try:
        seeds = tuple(int(seed) for seed in own["seeds"].split(",") if seed)
        jobs, target = int(own["jobs"]), float(own["target"]) if own["target"] else None
    except ValueError as error:
        raise ValueError(f"seeds, jobs and target are numbers: {error}") from error
    record = Path(own["record"]) if own["record"] else None
    dry_run = len(given) < len(arguments)
    return Request(study, own["scale"], seeds, jobs, target, record, dry_run, tuple(extra), tuple(launch))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``scripts/study.py``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(f"{USAGE}\nStudies: {', '.join(names_of_studies())}")
        return
    try:
        request = parse(arguments)
        cells = cells_of(request.study, request.scale, request.extra, request.seeds)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error)}")
    if request.dry_run:
        dry_run(request, cells)
        return
    command = "python scripts/study.py " + " ".join(arguments)
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
    if any(run.state == "failed" for run in runs_of(cells)):
        sys.exit(1)


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
        count += run.state in ("done", "failed")
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
        value = mean_and_spread([result["metrics"][name]], "top-1") if name in result["metrics"] else "done"
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
    total = 0.0
    for run_cells in by_run(cells):
        cell = run_cells[0]
        state, place = cell.run.state, (cell.row, cell.column)
        if state != "done":
            if place not in known:
                known[place] = seconds_of(cells, cell)
            total += known[place]
        time_of = f", about {minutes(known[place])}" if state != "done" else ""
        print(
            f"{cell.row} | {cell.column} | seed {cell.run.seed}: {state}{time_of} | {' '.join(cell.run.overrides)}",
            flush=True,
        )
    print(
        f"in all about {minutes(total / request.jobs)} of training with jobs={request.jobs} on this machine; start and "
        "evaluation of what was not run yet come on top"
    )


def by_run(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells, those of one run together."""
    found: dict[Path, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.run.folder, []).append(cell)
    return list(found.values())


def seconds_of(cells: Sequence[Cell], cell: Cell) -> float:
    """Of a run: the median of finished runs of other seeds, else from measured steps."""
    others = [c.run.result for c in cells if (c.row, c.column) == (cell.row, cell.column)]
    if finished := [result["wall_seconds"] for result in others if result and not result.get("resumed_at")]:
        return statistics.median(finished)
    import hydra

    from ssl_framework.main import CONFIGS
    from ssl_framework.study.estimate import training_seconds

    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return training_seconds(hydra.compose("train", list(cell.run.overrides)))


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
    if folder != request.record:
        write(folder / "table.html", page(sheet, lead))
    return sheet


def lead_of(study: Study, scale: str) -> list[str]:
    """What the table is about, before it."""
    return [study.question, f"Paper: {study.paper}.", f"Scale {scale}: {study.scales[scale].note}"]
