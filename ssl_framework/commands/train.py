"""The command: compose a config, prepare the run's folder, start the run in this process or in several.

Where a launcher has started several processes of it, each composes the same config, and the first decides what is done
and in which folder (``agree``). Imports nothing heavy, so that ``--help``, ``--cfg job`` and a misspelt key answer at
once.
"""

import contextlib
import json
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

from ssl_framework.runs.composition import PARTS, choice_of, refuse_mixed_parts
from ssl_framework.runs.config import (
    begin,
    hosted,
    may_change,
    names_of_run,
    quoted,
    refuse_other_config,
)
from ssl_framework.runs.folder import LATEST, RunFolder
from ssl_framework.runs.groups import CONFIGS, admit, choices, groups
from ssl_framework.runs.messages import (
    REFUSALS,
    STOPPED,
    command_line,
    commanded,
    error_line,
    explain,
    failures,
    say_error,
)
from ssl_framework.runs.settings import refuse_settings
from ssl_framework.runs.stopping import AGAIN, Interrupted, stop
from ssl_framework.training.meeting import agree, first_to_say, meeting
from ssl_framework.training.place import described, is_first, leave_to_launcher, settle


@commanded()
def main() -> None:
    """Entry point of ``python train.py`` and ``ssl-train``."""
    stop.then = "nothing was saved beyond the last checkpoint; the same command goes on"
    whole_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, and they are explained here
    sys.argv[1:] = point_to_resumed_folder(admit(sys.argv[1:]))
    refuse_null_choices(sys.argv[1:])
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
        sys.exit(error_line(error) if first_to_say(str(error)) else 1)
    except ValueError as error:
        if not first_to_say(str(error)):
            sys.exit(1)
        if not failures:  # of the command line, which Hydra reads before there is a run
            sys.exit(error_line(error))
        sys.exit("error: no trial of the search has ended with a value")  # of which Optuna takes the best
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


def point_to_resumed_folder(arguments: list[str]) -> list[str]:
    """``resume=FOLDER`` writes into FOLDER: the run folder Hydra makes is the one that is resumed."""
    resumed = [a.split("=", 1)[1] for a in arguments if a.startswith("resume=") and a != "resume=null"]
    if not resumed or any(a.startswith("hydra.run.dir=") for a in arguments):
        return arguments
    folder = Path(resumed[-1]).resolve()  # outputs/latest is a link that the new start would move
    if not RunFolder(folder).config_file.is_file():
        sys.exit(f"error: resume={resumed[-1]}: there is no run in that folder (no config.yaml)")
    return [*arguments, f"hydra.run.dir={quoted(os.path.relpath(folder))}"]


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
        return objective_of(cfg, folder)
    before = os.readlink(LATEST) if LATEST.is_symlink() else None
    try:
        stopped_by = start(cfg, folder)
    except Interrupted as error:
        leave_again(error)
    except REFUSALS as error:
        say_once(error)
        failures.append(str(folder))
        if is_first():
            RunFolder(folder).discard_unless_trained(before)
        leave_unless_all_refuse()
        return None
    end(stopped_by, os.path.relpath(folder), command_line([f"resume={os.path.relpath(folder)}"]))
    return None


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


def refuse_test_labels(cfg: DictConfig) -> None:
    """Refuses a search that would choose by the test split.

    Raises:
        ValueError: ``hparams_search.metric`` may come from a probe of it.
    """
    metric = OmegaConf.select(cfg, "hparams_search.metric")
    probes = [*(cfg.evaluation.get("probes") or {}), *(cfg.evaluation.get("head_probes") or {})]
    if metric is not None and probes and not metric.endswith("/train_top1"):
        raise ValueError(
            f"hparams_search.metric is {metric}, but {', '.join(map(str, probes))} of evaluation.probes read the test "
            "split, by which nothing may be chosen: set evaluation=search"
        )


def left_to_do(cfg: DictConfig, run: RunFolder, mine: bool) -> str:
    """What is left of a job: "nothing" where it has a result or another process runs it, or it "goes on" where it was
    interrupted, or begins "anew", where a try that came to no checkpoint is removed.

    Raises:
        ValueError: what lies there belongs to another run, and stays as it is.
    """
    if not mine:
        print("left to the process that is running it")
        return "nothing"
    refuse_test_labels(cfg)
    if run.has_trained:
        refuse_other_config(cfg, run)
        if run.result_file.is_file():
            print("has a result already")
            return "nothing"
    run.error_file.unlink(missing_ok=True)
    if run.has_checkpoint:
        return "goes on"
    run.forget_try()
    return "anew"


def job_of_multirun(cfg: DictConfig, folder: Path) -> None:
    """Does what is left of a job. A failure is noted in the folder, and tried again when the multirun is started
    again."""
    run = RunFolder(folder)
    with run.claimed() if is_first() else contextlib.nullcontext(True) as mine:
        try:
            refuse_settings(cfg)
            settle(hosted(cfg, HydraConfig.get().overrides.task).trainer)
            todo = agree(lambda: left_to_do(cfg, run, mine))
        except REFUSALS as error:
            say_once(error)
            failures.append(str(folder))
            return
        if todo == "nothing":
            return
        try:
            stopped_by = start(cfg, folder, todo == "goes on")
        except Interrupted as error:
            leave_again(error)
        except Exception as error:
            say_once(error)
            failures.append(str(folder))
            if is_first():
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


def start(cfg: DictConfig, folder: Path, goes_on: bool = False) -> str | None:
    """Prepares the folder and runs; returns the name of the signal that stopped the run, if one did.

    Args:
        cfg: the composed config.
        folder: of the run.
        goes_on: continue from the folder's checkpoint, as ``resume`` does.

    Raises:
        ValueError, FileNotFoundError: what the user asked for cannot be done.
        RunFailed: a process of the run failed and said why.
    """
    from ssl_framework.training.stages import go_through  # imports torch: only now

    refuse_settings(cfg)
    settle(cfg.trainer)
    refuse_mixed_parts(HydraConfig.get().runtime.choices)
    hosted(cfg, HydraConfig.get().overrides.task)
    if cfg.resume is not None:
        if Path(str(cfg.resume)).resolve() != folder.resolve():
            raise ValueError(f"resume={cfg.resume} goes on in that folder itself: leave out -m and hydra.run.dir")
        cfg, goes_on = resumed_config(cfg, Path(str(cfg.resume))), True
        refuse_settings(cfg)
        leave_to_launcher(cfg.trainer)
        settle(cfg.trainer)
    about = json.loads(agree(lambda: json.dumps(opened(cfg, folder, goes_on))))
    if is_first() and (launched := described()):
        print(launched, flush=True)
    stopped_by = go_through(cfg, folder, about, is_first())
    if stopped_by == "SIGUSR1" and cfg.trainer.slurm and "SLURM_JOB_ID" in os.environ and is_first():
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
    return stopped_by


def opened(cfg: DictConfig, folder: Path, goes_on: bool) -> dict[str, Any]:
    """Prepares the folder of a run; what the run is called, and whether it is resumed.

    Raises:
        ValueError: the folder holds a run that this one would overwrite.
    """
    requeued = bool(cfg.trainer.slurm and int(os.environ.get("SLURM_RESTART_COUNT", "0")))
    resume = goes_on or (requeued and RunFolder(folder).has_checkpoint)
    if not resume and RunFolder(folder).has_trained:
        raise ValueError(
            f"{folder} already holds a run: continue it with resume={folder}, or choose another hydra.run.dir"
        )
    about = {**describe(), "resume": resume}
    prepare(cfg, folder, about)
    return about


def describe() -> dict[str, Any]:
    """What the run is called, its data set and chosen groups, the overrides, and a command that repeats the run."""
    hydra_cfg = HydraConfig.get()
    overrides = [item for item in hydra_cfg.overrides.task if not item.startswith("resume=")]
    return names_of_run(hydra_cfg.runtime.choices, overrides)


def prepare(cfg: DictConfig, folder: Path, about: dict[str, Any]) -> None:
    """Writes the resolved config and what the run is called, and points outputs/latest to the folder."""
    if about["resume"]:  # the first start's names stay
        about |= {**RunFolder(folder).read_about(), "resume": True}
    RunFolder(folder).prepare(cfg, about)
    RunFolder(folder).point_latest_here()


def resumed_config(cfg: DictConfig, folder: Path) -> DictConfig:
    """The stored config, with the overrides of this command that may change.

    Raises:
        ValueError: an override contradicts the stored run, or the stored config is not trusted.
    """
    from ssl_framework.loading import load_run_config
    from ssl_framework.runs.overrides import keys_of, let_source_follow

    stored = load_run_config(folder.resolve(), keys_of(HydraConfig.get().overrides.task))
    if not RunFolder(folder).has_checkpoint:
        raise FileNotFoundError(f"resume={folder}: no checkpoint was written there yet; start the run again")
    names = RunFolder(folder).read_about()
    for item in HydraConfig.get().overrides.task:
        key, _, value = item.lstrip("+~").partition("=")
        if key == "resume":
            continue
        if key in ("method", "data", *PARTS):
            before = choice_of(names, key)
            if before != value:
                raise ValueError(f"resume={folder} is a run of {key}={before}: leave {item} out, or start a new run")
        elif may_change(key):
            before = OmegaConf.select(stored, key)
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key))
            let_source_follow(stored, key, before)
        elif "." in key or key == "seed":
            before, now = OmegaConf.select(stored, key), OmegaConf.select(cfg, key)
            if before != now:
                raise ValueError(
                    f"resume continues {folder} as it was configured, with {key}={before}: leave {item} out, "
                    f"or start a new run with {key}={now}"
                )
        elif OmegaConf.select(stored, key) != OmegaConf.select(cfg, key):
            raise ValueError(f"resume continues {folder} as it was configured: leave {item} out, or start a new run")
    return stored
