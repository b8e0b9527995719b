"""The jobs of a multirun: their folders, what is left to do of each, and the table at the end.

A multirun started again with the same ``hydra.sweep.dir`` does what is missing there. Several may run at once in one
folder: a job that another process is running is left to it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

ERROR = "error.txt"
"""Lies in the folder of a job that failed, and says why."""

LONGEST_NAME = 120
"""Characters of a job folder's name; file systems take 255 bytes."""


def job_folder(overrides: Sequence[str]) -> str:
    """Name of a job's folder: a function of its overrides alone, in whatever order and whichever others run beside it.

    ``data-shapes+method-simclr+seed-0``: only characters that need no quotes in Hydra's grammar or in a shell. A hash
    takes the place of what is too long, and tells apart what differs in other characters only.
    """
    text = "+".join(sorted(overrides))
    name = re.sub(r"[^\w.+-]", "_", "+".join(item.replace("=", "-", 1) for item in sorted(overrides)), flags=re.ASCII)
    if len(name) <= LONGEST_NAME and name.count("_") == text.count("_"):
        return name or "default"
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)  # also where a launcher unpickles a job


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Holds a job's folder for this process; False where another process holds it. Given up when the process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def refuse_other_config(cfg: DictConfig, folder: Path) -> None:
    """Refuses to take a run for this job's that was configured otherwise. Settles ``trainer.precision: auto`` as there.

    Loggers and places, which change no number, may differ.

    Raises:
        ValueError: a key of the folder's config.yaml and of ``cfg`` differ.
    """
    stored, now = OmegaConf.load(folder / "config.yaml"), OmegaConf.create(OmegaConf.to_yaml(cfg, resolve=True))
    if now.trainer.precision == "auto":
        now.trainer.precision = cfg.trainer.precision = stored.trainer.precision
    # A run of several stages fills these in when its last one begins.
    filled_in = ("previous", "pseudo_labels.previous", "evaluation.baselines") if now.student.get("earlier") else ()
    before, after = (dict(leaves(without_places(OmegaConf.to_container(c)))) for c in (stored, now))
    for key in sorted((before.keys() | after.keys()) - set(filled_in)):
        here, there = (values.get(key, "absent") for values in (after, before))
        if here != there:
            raise ValueError(
                f"{folder} holds a run with {key}={there}, but here it is {here}: choose another hydra.sweep.dir, or "
                "remove that folder"
            )


def config_hash(cfg: DictConfig) -> str:
    """Short hash of what determines a result up to chance: all but seed, places, loggers, report and alarm."""
    content = without_places(OmegaConf.to_container(cfg, resolve=True))
    for key in ("seed", "previous"):
        content.pop(key, None)
    content["data"]["source"].pop("seed", None)
    (content.get("pseudo_labels") or {}).pop("previous", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def without_places(content: Any) -> dict[str, Any]:
    """A config without what changes no number: where things lie, how they are fetched, loggers, report and alarm.

    Changes ``content``.
    """
    for key in ("resume", "logger", "report", "hparams_search"):
        content.pop(key, None)
    data = content.get("data", {})
    for node in (data, data.get("source", {})):
        for key in ("root", "download", "resident_share", "store", "num_workers", "num_threads", "cache"):
            node.pop(key, None)
    for key in ("num_threads", "collapse_below"):
        content.get("trainer", {}).pop(key, None)
    generated = content.get("generated") or {}
    for node in (generated, generated.get("source", {})):
        for key in ("root", "path"):
            node.pop(key, None)
    return content


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """``a.b.0`` and value for everything in a nested config that is neither mapping nor list, or is an empty one."""
    if isinstance(node, (dict, list)) and node:
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def command_line(overrides: Sequence[str], *options: str) -> str:
    """The command that a user types for these overrides."""
    quoted = (item if re.fullmatch(r"[\w=.,:/+~@%-]+", item) else f'"{item}"' for item in overrides)
    return " ".join(["python train.py", *options, *quoted])


def best_trial(jobs: Sequence[Any], metric: str, direction: str) -> str:
    """What a search of hyper-parameters has found, of how many trials, and the command that trains with it."""
    scored = [(job.result["metrics"][metric], job) for job in jobs if job.result and metric in job.result["metrics"]]
    failed = sum(job.state == "failed" for job in jobs)
    if not scored:
        return f"no trial of {len(jobs)} has {metric} ({failed} failed)"
    # A Direction of the sweeper, or its name.
    value, best = (max if "maximize" in direction else min)(scored, key=lambda pair: pair[0])
    rest = [item for item in best.overrides if item.partition("=")[0] not in ("hparams_search", "evaluation", "method")]
    command = command_line([f"method={best.about['method']}", *rest])
    return f"best of {len(jobs)} trials ({failed} failed) by {metric}: {value:.4g}\nwith it: {command}"


class SweepTable(Callback):
    """Keeps the commands of ``python train.py -m ...`` in the sweep's folder, and ends each with one table over all
    jobs there and the folder as the last line."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Adds this command to command.txt, unless it is there."""
        path = Path(config.hydra.sweep.dir) / "command.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        line = command_line([*config.hydra.overrides.task, f"hydra.sweep.dir={config.hydra.sweep.dir}"], "-m")
        if not path.is_file() or line not in path.read_text().splitlines():
            with path.open("a") as file:
                file.write(line + "\n")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints the table."""
        from rich.console import Console

        from ssl_framework.report.tables import read_jobs, sweep_table

        folder = Path(config.hydra.sweep.dir)
        Console(width=None if sys.stdout.isatty() else 200).print(sweep_table(folder))  # a file takes any width
        if not str(OmegaConf.select(config, "hydra.launcher._target_")).endswith(".BasicLauncher"):
            from ssl_framework.main import failures

            failures += [job.error for job in read_jobs(folder) if job.error]  # of jobs in processes elsewhere
        if (metric := OmegaConf.select(config, "hparams_search.metric")) is not None:
            print(best_trial(read_jobs(folder), metric, str(OmegaConf.select(config, "hydra.sweeper.direction"))))
        print(folder)
