"""The command: compose a config, prepare the run's folder, start the run in this process or in several.

Where a launcher has started several processes of it, each composes the same config, and the first decides what is done
and in which folder (``agree``). Imports nothing heavy, so that ``--help``, ``--cfg job`` and a misspelt key answer at
once.
"""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_framework.runs.config import (
    begin,
)
from ssl_framework.runs.folder import LATEST, RunFolder, point_back
from ssl_framework.runs.groups import CONFIGS, admit, choices, groups
from ssl_framework.runs.importing import importing
from ssl_framework.runs.left import NOTHING
from ssl_framework.runs.made import remove_made
from ssl_framework.runs.messages import (
    REFUSALS,
    STOPPED,
    RunFailed,
    command_line,
    commanded,
    error_line,
    explain,
    failures,
    say_error,
    shell_word,
    typed,
)
from ssl_framework.runs.search import refuse_test_labels
from ssl_framework.runs.stopping import AGAIN, Interrupted, stop
from ssl_framework.runs.typed_paths import with_paths_quoted
from ssl_framework.training.meeting import agree, end_together, first_to_say, meeting
from ssl_framework.training.place import described, is_first
from ssl_framework.training.plan import Plan, decided, describe, planned, planned_job
from ssl_framework.training.resumed import point_to_resumed_folder


@commanded()
def main() -> None:
    """Entry point of ``python train.py`` and ``ssl-train``."""
    stop.then = "nothing was saved beyond the last checkpoint; the same command goes on"
    whole_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, and they are explained here
    sys.argv[1:] = point_to_resumed_folder(with_paths_quoted(admit(sys.argv[1:])))
    refuse_null_choices(sys.argv[1:])
    refuse_other_place(sys.argv[1:])
    begin_together(sys.argv[1:])
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        if whole_errors:
            raise
        sys.exit(error_line(explain(error)) if first_to_say(str(error)) else 1)
    except BrokenPipeError:  # see ``commanded``
        raise
    except OSError as error:  # of the folder, which Hydra makes
        sys.exit(error_line(error) if not failures and first_to_say(str(error)) else 1)
    except ValueError as error:  # of the command line, before there is a run, or of a search
        said = first_to_say(str(error))
        end_together()
        sys.exit(error_line(error) if said else 1)
    except RunFailed:  # the first process has said why there is no search
        end_together()
        sys.exit(1)
    if failures:
        sys.exit(1)


def refuse_null_choices(arguments: list[str]) -> None:
    """Ends the command if a group's choice is ``null``, which Hydra takes for no choice at all, or no name."""
    for item in arguments:
        group, _, choice = item.partition("=")
        if choice == "null" and group in groups():
            instead = f"{group}=none" if "none" in choices(group) else f"one of its files, or no {group}"
            sys.exit(f"error: {item} chooses nothing: choose {instead}")
        if group in groups() and re.fullmatch(r"[-+.\d]+(e[-+]?\d+)?|true|false|nan|inf|\{.*\}", choice, re.IGNORECASE):
            sys.exit(f"error: {item} names no choice: {group} can be {', '.join(choices(group))}")


def refuse_other_place(arguments: list[str]) -> None:
    """Ends the command if its jobs are to run in their folders: paths in it are those of where it was typed."""
    for item in arguments:
        key, _, value = item.lstrip("+").partition("=")
        if key == "hydra.job.chdir" and value.lower() not in ("false", "null"):
            sys.exit(f"error: {item}: paths are read from the folder in which the command is typed: leave it out")


def begin_together(arguments: list[str]) -> None:
    """Settles when the command was called; one sentence if its processes have nowhere to meet."""
    try:
        begin(called_at(arguments))
    except ValueError as error:
        sys.exit(error_line(str(error)) if is_first() else 1)


def called_at(arguments: list[str]) -> str:
    """When the command was called, which names its folder: alike in all processes, if it asks for runs."""
    looks = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version"} & set(arguments)
    now = datetime.now().isoformat()
    return now if looks else agree(lambda: now)


def job(cfg: DictConfig) -> float | None:
    """One job: a single run, or one of a multirun. A user's error is one line; the other jobs of a multirun go on.

    Returns:
        What a search of hyper-parameters is after, if this is one of its trials and has come to its end.
    """
    folder = agreed_folder()
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        if is_first():
            print(f"\njob {HydraConfig.get().job.num}: {' '.join(HydraConfig.get().overrides.task)}", flush=True)
        job_of_multirun(cfg, folder)
        return objective_of(cfg, folder) if is_first() else None
    with contextlib.ExitStack() as claims:
        single_run(cfg, folder, claims)
    return None


def single_run(cfg: DictConfig, folder: Path, claims: contextlib.ExitStack) -> None:
    """Does what is left of a run that stands for itself. ``claims`` ends with it."""
    before = os.readlink(LATEST) if LATEST.is_symlink() else None
    seen: dict[RunFolder, Any] = {}  # what the first process found in the folder
    try:
        plan = decided(cfg, lambda: planned(cfg, folder, claims, seen))
        stopped_by = None if plan.todo == NOTHING else start(plan.cfg, plan.folder, plan.about)
    except Interrupted as error:
        leave_again(error)
    except REFUSALS as error:
        say_once(error)
        failures.append(str(folder))
        if is_first():
            leave_as_before(seen, before)
        leave_unless_all_refuse()
        return
    shown = os.path.relpath(plan.folder)
    if plan.todo == NOTHING and is_first():
        print(complete(plan, shown))
    end(stopped_by, shown, command_line([f"resume={shown}"]))


def complete(plan: Plan, shown: str) -> str:
    """What is said of a run that has its result, and what may still be wanted of it."""
    more = f"{command_line([f'resume={shown}', 'trainer.max_epochs=...'])} trains it further"
    if OmegaConf.select(plan.cfg, "report") and not RunFolder(plan.folder).has_page:
        more += f"; {typed('show')} report {shell_word(f'run={shown}')} makes its page, which is not there"
    return f"complete: the run has its result; {more}"


def leave_as_before(seen: dict[RunFolder, Any], latest: str | None) -> None:
    """Removes what a run has made that was refused before its first step: its folder, and outputs/latest to it. One
    that had trained says of itself what it said."""
    for run, (progress, said) in seen.items():
        run.discard_unless_trained()
        if run.progress() == progress:
            run.say_again(said)
            point_back(latest)
    remove_made()


def agreed_folder() -> Path:
    """The folder of the job, which is the first process's wherever the config names it by the time of day."""
    own = Path(HydraConfig.get().runtime.output_dir)
    folder = Path(agree(lambda: str(own)))
    if folder != own:
        with contextlib.suppress(OSError):
            own.rmdir()
    return folder


def say_once(error: Exception) -> None:
    """Says what all processes of the run have to say in one of them."""
    if first_to_say(str(error)):
        say_error(error)


def leave_unless_all_refuse() -> None:
    """Ends this process at once if others of the run go on: they wait for it, and the launcher ends them with it."""
    found = meeting()
    if found is not None and not found.all_refuse():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def leave_again(error: Interrupted) -> NoReturn:
    """Ends the command, a multirun as a whole: the same one goes on. A process of several waits for nobody."""
    if first_to_say(str(error)):
        stop.say(f"interrupted: {error}")
    if meeting() is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(AGAIN)
    sys.exit(AGAIN)


def objective_of(cfg: DictConfig, folder: Path) -> float | None:
    """The value of ``hparams_search.metric`` in a job's result; ``None`` where nothing is searched or it failed."""
    metric = OmegaConf.select(cfg, "hparams_search.metric")
    if metric is None or not RunFolder(folder).result_file.is_file() or str(folder) in failures:
        return None
    found = RunFolder(folder).read_result()["metrics"]
    if math.isfinite(value := found.get(metric, math.nan)):
        return value
    say_error(
        ValueError(f"hparams_search.metric is {metric}, of which this trial has no number; it has: {', '.join(found)}")
    )
    failures.append(str(folder))
    return None


def job_of_multirun(cfg: DictConfig, folder: Path) -> None:
    """Does what is left of a job. A failure is noted in the folder, and tried again when the multirun is started
    again."""
    run = RunFolder(folder)
    with run.claimed() if is_first() else contextlib.nullcontext(True) as mine:
        before = run.progress(), run.said()
        try:
            refuse_test_labels(cfg)
            plan = decided(cfg, lambda: planned_job(cfg, run, mine))
        except REFUSALS as error:
            say_once(error)
            failures.append(str(folder))
            if is_first() and mine and not run.has_trained:  # else it is another run's
                note_failure(run, error)
            return
        if plan.todo == NOTHING:
            return
        try:
            stopped_by = start(plan.cfg, folder, plan.about)
        except Interrupted as error:
            leave_again(error)
        except Exception as error:
            say_once(error)
            failures.append(str(folder))
            if is_first():
                if run.progress() == before[0]:
                    run.say_again(before[1])
                note_failure(run, error)
            leave_unless_all_refuse()
            return
    end(stopped_by, os.path.relpath(folder), f"the same command with hydra.sweep.dir={os.path.relpath(folder.parent)}")


def note_failure(run: RunFolder, error: Exception) -> None:
    """Leaves in a job's folder why it failed, and what it was."""
    run.write_error(error)
    if not run.about_file.is_file():
        run.write_about(describe())


def end(stopped_by: str | None, shown: str, again: str) -> None:
    """The last lines of a job: its folder, and for one that a signal stopped, the command that continues it."""
    if is_first():
        if stopped_by is not None:
            print(f"stopped by {stopped_by}; to continue: {again}")
        print(shown, flush=True)
    if stopped_by is not None:
        sys.exit(STOPPED + signal.Signals[stopped_by])


def start(cfg: DictConfig, folder: Path, about: dict[str, Any]) -> str | None:
    """Runs; returns the name of the signal that stopped the run, if one did.

    Args:
        cfg: of the run.
        folder: of the run, prepared.
        about: what the run is called, and whether it is resumed.

    Raises:
        ValueError, FileNotFoundError: what the user asked for cannot be done.
        RunFailed: a process of the run failed and said why.
        Interrupted: something outside the run has stopped it.
    """
    with importing():
        from ssl_framework.training.stages import go_through  # imports torch: only now

    if is_first() and (launched := described()):
        print(launched, flush=True)
    stopped_by = go_through(cfg, folder, about, is_first())
    if stopped_by == "SIGUSR1" and cfg.trainer.slurm and "SLURM_JOB_ID" in os.environ and is_first():
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
    return stopped_by
