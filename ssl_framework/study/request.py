"""What a command line asks of a study: which one, at which scale, with which overrides."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ssl_framework.report.results_csv import COLUMNS
from ssl_framework.report.sheet import is_accuracy
from ssl_framework.runs.messages import refusing
from ssl_framework.runs.typed_paths import quoted
from ssl_framework.study.cells import Cell, cells_of
from ssl_framework.study.declaration import Study, names_of_studies, read_study

OUT = Path("outputs") / "studies"


Number = TypeVar("Number", int, float)


USAGE = """python scripts/study.py study=NAME [scale=small] [jobs=1] [seeds=0,1,2] [key=value ...]

NAME is one of configs/study, or the path of a file like those, such as study=my/table.yaml. A file's overrides may
name classes of this package and of packages that trust=[...] names.

Runs what the study's table lacks and writes the table. Stop it at any time and start it again: runs that are done
stay, interrupted ones go on from their checkpoint, failed ones are tried again.

  --dry-run          lists the runs and estimates their time from a few measured steps; runs nothing. Of a file, no
                     step is measured: nothing it names is constructed
  scale=paper        as published; small: for a CPU or one GPU
  jobs=2             runs side by side (on a GPU machine: one GPU after the other)
  seeds=0,1          in place of the study's own
  target=50          adds the cost to reach this value of the first metric (needs evaluation.every_n_epochs > 0)
  record=FOLDER      also keeps a record of the study there
  hydra/launcher=submitit_slurm hydra.launcher.partition=gpu hydra.launcher.timeout_min=600
                     hands the runs to SLURM, jobs=... at a time (pip install -e ".[sweeps]"); jobs that were
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
        launch.append(f"logger.wandb.group={quoted(study.name)}")
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
    if path.suffix == ".yaml" and not re.fullmatch(r"\w[\w.+ -]*", path.stem):
        raise ValueError(f"study={name}: name the file as a folder can be named, with letters, digits, -, + and .")
    own = path.suffix == ".yaml"
    study = read_study(path.stem, path.parent)._replace(foreign=True) if own else read_study(name)
    if clash := {*COLUMNS, "error"} & set(study.metrics):
        raise ValueError(f"study={name}: a metric cannot be called {min(clash)}, which is a column of the record")
    return study


def understood(arguments: Sequence[str]) -> tuple[Request, list[Cell]]:
    """What a command line asks for, and the cells it means; ends with one sentence where it cannot be understood."""
    with refusing():
        request = parse(arguments)
        return request, cells_of(request.study, request.scale, request.extra, request.seeds)
