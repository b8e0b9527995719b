"""The jobs of a multirun: their folders, what is left to do of each, and the table at the end.

A multirun started again with the same ``hydra.sweep.dir`` does what is missing there. Several may run at once in one
folder: a job that another process is running is left to it.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.composition import choice_of
from ssl_framework.runs.config import SWEPT
from ssl_framework.runs.folder import Summary, read_runs
from ssl_framework.runs.made import about_to_make
from ssl_framework.runs.messages import command_line, error_line, failures, quiet, say_error
from ssl_framework.runs.overrides import key_of
from ssl_framework.runs.search import refuse_test_labels
from ssl_framework.runs.typed_paths import folder_override
from ssl_framework.training.place import is_first


def best_trial(jobs: Sequence[Summary], metric: str, direction: str) -> str:
    """What a search of hyper-parameters has found, of how many trials, and the command that trains with it."""
    scored = [(job.metrics[metric], job) for job in jobs if metric in job.metrics]
    failed = sum(job.state == "failed" for job in jobs)
    if not scored:
        return f"no trial of {len(jobs)} has {metric} ({failed} failed)"
    value, best = (max if direction == "maximize" else min)(scored, key=lambda pair: pair[0])
    rest = [item for item in best.overrides if item.partition("=")[0] not in ("hparams_search", "evaluation", "method")]
    command = command_line([f"method={choice_of(best.folder.read_about(), 'method')}", *rest])
    return f"best of {len(jobs)} trials ({failed} failed) by {metric}: {value:.4g}\nwith it: {command}"


@contextlib.contextmanager
def said() -> Iterator[None]:
    """Says what goes wrong meanwhile, and has the command fail: Hydra would go on with a warning."""
    try:
        yield
    except Exception as error:
        say_error(error)
        failures.append(str(error))


class SweepTable(Callback):
    """Keeps the commands of ``python train.py -m ...`` in the sweep's folder, and ends each with one table over all
    jobs there and the folder as the last line."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes what is made for a single run."""
        with said():
            HydraConfig.instance().set_config(config)
            about_to_make(Path(str(config.hydra.run.dir)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Adds this command to command.txt, unless it is there; ends a search that cannot be made."""
        refuse_search(config)
        os.environ[SWEPT] = ",".join(key_of(item) for item in swept(config.hydra.overrides.task))
        if not is_first():
            return
        with said():
            path = Path(config.hydra.sweep.dir) / "command.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            line = command_line(
                [*config.hydra.overrides.task, folder_override("hydra.sweep.dir", config.hydra.sweep.dir)], "-m"
            )
            if not path.is_file() or line not in path.read_text().splitlines():
                with path.open("a") as file:
                    file.write(line + "\n")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints the table."""
        os.environ.pop(SWEPT, None)
        if not is_first():
            return
        with said():
            self.print_table(config)

    def print_table(self, config: DictConfig) -> None:
        """The table, what a search has found, and the folder."""
        from rich.console import Console

        from ssl_framework.report.tables import sweep_table

        folder = Path(config.hydra.sweep.dir)
        quiet()
        Console(width=None if sys.stdout.isatty() else 200).print(sweep_table(folder))  # a file takes any width
        if not str(OmegaConf.select(config, "hydra.launcher._target_")).endswith(".BasicLauncher"):
            failures.extend(job.error for job in read_runs(folder) if job.error)  # of jobs in processes elsewhere
        if (metric := OmegaConf.select(config, "hparams_search.metric")) is not None:
            print(best_trial(read_runs(folder), metric, str(OmegaConf.select(config, "hydra.sweeper.direction"))))
        print(folder)


def refuse_search(config: DictConfig) -> None:
    """Ends the command where it searches hyper-parameters as none of its trials may."""
    try:
        refuse_test_labels(config)
    except ValueError as error:
        sys.exit(error_line(error) if is_first() else 1)


def swept(overrides: Sequence[str]) -> list[str]:
    """The overrides of a multirun that have several values."""
    return [item for item in overrides if OverridesParser.create().parse_override(item).is_sweep_override()]
