"""The command: compose a config, prepare the run's folder, start the run in this process or in several.

Imports nothing heavy, so that ``--help``, ``--cfg job`` and a misspelt key answer at once.
"""

import contextlib
import copy
import difflib
import functools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_framework.sweep import ERROR, claimed, command_line, refuse_other_config

HERE = Path(__file__).resolve().parent
CONFIGS = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"  # installed, or a source tree
MAY_CHANGE = (
    *("trainer", "logger", "evaluation", "report", "resume"),
    *("data.root", "data.download", "data.num_workers", "data.resident_share", "data.store"),
)
"""Keys that may differ when a run is resumed: they say how and how long it runs, not what it learns from."""

STOPPED = 128
"""Exit codes above it name, as a shell's do, the signal that stopped a run."""

TRACES = ("checkpoints", "metrics.csv", "result.json")
"""What training leaves in a run folder from its first steps on."""

failures: list[str] = []


class RunFailed(Exception):
    """A process of a run ended with an error that it has printed itself."""


REFUSALS = (ValueError, FileNotFoundError, OmegaConfBaseException, RunFailed)
"""What a user can cause, and what was said already."""


def main() -> None:
    """Entry point of ``python train.py`` and ``ssl-train``."""
    whole_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, and they are explained here
    sys.argv[1:] = point_to_resumed_folder(sys.argv[1:])
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        if whole_errors:
            raise
        sys.exit(f"error: {explain(error)}")
    except ValueError:
        if not failures:
            raise
        sys.exit("error: no trial of the search has ended with a value")  # of which Optuna takes the best
    except KeyboardInterrupt:
        sys.exit("interrupted before training began, or twice: nothing was saved beyond the last checkpoint")
    if failures:
        sys.exit(1)


def point_to_resumed_folder(arguments: list[str]) -> list[str]:
    """``resume=FOLDER`` writes into FOLDER: the run folder Hydra makes is the one that is resumed."""
    resumed = [a.split("=", 1)[1] for a in arguments if a.startswith("resume=") and a != "resume=null"]
    if not resumed or any(a.startswith("hydra.run.dir=") for a in arguments):
        return arguments
    folder = Path(resumed[-1]).resolve()  # outputs/latest is a link that the new start would move
    if not (folder / "config.yaml").is_file():
        sys.exit(f"error: resume={resumed[-1]}: there is no run in that folder (no config.yaml)")
    return [*arguments, f"hydra.run.dir={quoted(os.path.relpath(folder))}"]


def quoted(text: str) -> str:
    """A path as a value of Hydra's override grammar."""
    return "'" + text.replace("'", r"\'") + "'"


def job(cfg: DictConfig) -> float | None:
    """One job: a single run, or one of a multirun. A user's error is one line; the other jobs of a multirun go on.

    Returns:
        What a search of hyper-parameters is after, if this is one of its trials and has come to its end.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        print(f"\njob {HydraConfig.get().job.num}: {' '.join(HydraConfig.get().overrides.task)}", flush=True)
        job_of_multirun(cfg, folder)
        return objective_of(cfg, folder)
    latest = Path("outputs") / "latest"
    before = os.readlink(latest) if latest.is_symlink() else None
    try:
        stopped_by = start(cfg, folder)
    except REFUSALS as error:
        say_error(error)
        failures.append(str(folder))
        discard_unless_trained(folder, before)
        return None
    if is_first_process(cfg):
        end(stopped_by, os.path.relpath(folder), f"python train.py resume={os.path.relpath(folder)}")
    return None


def objective_of(cfg: DictConfig, folder: Path) -> float | None:
    """The value of ``hparams_search.metric`` in a job's result; ``None`` where nothing is searched or it failed."""
    metric = OmegaConf.select(cfg, "hparams_search.metric")
    if metric is None or not (folder / "result.json").is_file() or str(folder) in failures:
        return None
    found = json.loads((folder / "result.json").read_text())["metrics"]
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


def job_of_multirun(cfg: DictConfig, folder: Path) -> None:
    """Does what is left of a job: nothing where it has a result or another process runs it, the rest where it was
    interrupted. A failure is noted in the folder, and tried again when the multirun is started again."""
    with claimed(folder) if is_first_process(cfg) else contextlib.nullcontext(True) as mine:
        if not mine:
            print("left to the process that is running it")
            return
        try:
            goes_on = False
            refuse_test_labels(cfg)
            if has_trained(folder):
                refuse_other_config(cfg, folder)
                if (folder / "result.json").is_file():
                    print("has a result already")
                    return
                goes_on = has_checkpoint(folder)
        except REFUSALS as error:  # what lies there belongs to another run: it stays as it is
            say_error(error)
            failures.append(str(folder))
            return
        (folder / ERROR).unlink(missing_ok=True)
        if not goes_on:  # interrupted before its first checkpoint: it starts anew
            (folder / "metrics.csv").unlink(missing_ok=True)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        try:
            stopped_by = start(cfg, folder, goes_on)
        except Exception as error:
            say_error(error)
            failures.append(str(folder))
            write(folder / ERROR, f"{type(error).__name__}: {' '.join(str(error).split())}\n")
            if not (folder / "run.json").is_file():
                write(folder / "run.json", json.dumps(describe(), indent=2) + "\n")
            return
    if is_first_process(cfg):
        end(
            stopped_by,
            os.path.relpath(folder),
            f"the same command with hydra.sweep.dir={os.path.relpath(folder.parent)}",
        )


def say_error(error: Exception) -> None:
    """One line for what a user can cause, the traceback for the rest; a rank has printed its own."""
    if isinstance(error, RunFailed):
        return
    if isinstance(error, REFUSALS):
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)


def end(stopped_by: str | None, shown: str, again: str) -> None:
    """The last lines of a job: its folder, and for one that a signal stopped, the command that continues it."""
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
    first = is_first_process(cfg)
    requeued = bool(cfg.trainer.slurm and int(os.environ.get("SLURM_RESTART_COUNT", "0")))
    resume = goes_on or cfg.resume is not None or (requeued and has_checkpoint(folder))
    about = describe()
    about["resume"] = resume
    refuse_other_types(cfg, HydraConfig.get().overrides.task)
    if cfg.resume is not None:
        if Path(str(cfg.resume)).resolve() != folder.resolve():
            raise ValueError(f"resume={cfg.resume} goes on in that folder itself: leave out -m and hydra.run.dir")
        cfg = resumed_config(cfg, Path(str(cfg.resume)))
    if first and not resume and has_trained(folder):
        raise ValueError(
            f"{folder} already holds a run: continue it with resume={folder}, or choose another hydra.run.dir"
        )
    if first:
        prepare(cfg, folder, about)
    stopped_by = go_through(cfg, folder, about, first)
    if stopped_by == "SIGUSR1" and first:
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
    return stopped_by


def go_through(cfg: DictConfig, folder: Path, about: dict[str, Any], first: bool) -> str | None:
    """Runs the stages of a run one after another; most runs have one, which is the run itself.

    Stage s lies in ``folder/stage_<s>``, the last in ``folder``. In a run that is resumed, finished stages are left
    out, the one that was interrupted goes on, and later ones start.

    Args:
        cfg: of the whole run, which is that of its last stage.
        folder: of the run, prepared.
        about: what the run is called, and whether it is resumed.
        first: whether this process writes the folders.

    Returns:
        Name of the signal that stopped the run, ``None`` if it ran to its end.
    """
    last = OmegaConf.select(cfg, "student.earlier") or 0
    for stage in range(last + 1):
        where = folder if stage == last else folder / f"stage_{stage}"
        if stage < last and about["resume"] and (where / "result.json").is_file():
            continue
        own = stage_config(cfg, folder, stage, last)
        goes_on = about["resume"] and (where / "checkpoints" / "last.ckpt").is_file()
        if last and goes_on and own.trainer.precision == "auto":  # settled when the stage began
            own.trainer.precision = OmegaConf.load(where / "config.yaml").trainer.precision
        if last and first:
            where.mkdir(exist_ok=True)
            if not goes_on:
                (where / "metrics.csv").unlink(missing_ok=True)  # of a try that was killed before its first checkpoint
            record(own, where, {**about, "resume": goes_on})
            print(f"stage {stage + 1} of {last + 1}: {os.path.relpath(where)}", flush=True)
        processes = local_processes(own.trainer)
        if processes == 1 or own.trainer.slurm:
            from ssl_framework.run import run  # imports torch: only now, and not where the ranks do it

            OmegaConf.resolve(own)
            stopped_by = run(own, where, about, goes_on)
        else:
            stopped_by = launch(where, processes)
        if stopped_by is not None:
            return stopped_by
    return None


def stage_config(cfg: DictConfig, folder: Path, stage: int, last: int) -> DictConfig:
    """The config of one stage: it begins with the stages before it; the first has no clusters to go by."""
    own = copy.deepcopy(cfg)
    if not last:
        return own
    OmegaConf.set_struct(own, False)
    own.student.earlier = stage
    if stage == 0:
        own.sampler = {"_target_": "ssl_framework.data.samplers.Uniform"}
        own.pseudo_labels, own.previous = {}, None
    else:
        own.previous = str((folder / f"stage_{stage - 1}").resolve())
        if "previous" in own.pseudo_labels:
            own.pseudo_labels.previous = own.previous
        if "baselines" in own.evaluation:
            own.evaluation.baselines = False  # they are the first stage's
    return own


def has_checkpoint(folder: Path) -> bool:
    """Whether a run, or its first stage, has come as far as its first checkpoint."""
    return any((where / "checkpoints" / "last.ckpt").is_file() for where in (folder, folder / "stage_0"))


def has_trained(folder: Path) -> bool:
    """Whether a run, or its first stage, has taken a step."""
    return any((where / name).exists() for where in (folder, folder / "stage_0") for name in TRACES)


def is_first_process(cfg: DictConfig) -> bool:
    """Whether this process writes the run's folder: always, but for the later tasks of a SLURM job."""
    return not cfg.trainer.slurm or int(os.environ.get("SLURM_PROCID", "0")) == 0


def discard_unless_trained(folder: Path, latest: str | None) -> None:
    """Removes the folder of a run that was refused before its first step, so that the next try can have it.

    ``latest`` is where outputs/latest pointed before, and points again.
    """
    if has_trained(folder):
        return
    for where in (folder / "stage_0", folder):
        for name in ("config.yaml", "run.json", "pseudo_labels.npy"):
            (where / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies there, or nothing at all
            where.rmdir()
    link = Path("outputs") / "latest"
    if link.is_symlink() and not link.exists():
        link.unlink()
        if latest is not None:
            link.symlink_to(latest)


def local_processes(cfg: DictConfig) -> int:
    """How many processes of the run this machine holds.

    Raises:
        ValueError: ``devices: auto`` without a GPU, or a number that makes no sense.
    """
    if cfg.devices == "auto":
        import torch

        if not torch.cuda.device_count():
            raise ValueError(
                "trainer.devices is auto (all local GPUs), but there is none: choose trainer=cpu or ddp_cpu"
            )
        return torch.cuda.device_count()
    if not isinstance(cfg.devices, int) or cfg.devices < 1:
        raise ValueError(f"trainer.devices is {cfg.devices}: it must be a whole number above 0, or auto")
    return cfg.devices


@functools.cache
def as_shipped(*groups: str) -> DictConfig:
    """The config of these choices without any other override; the jobs of a multirun share most of them."""
    return hydra.compose("train", overrides=list(groups))


def refuse_other_types(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses a value that is no number (or no truth value) where the shipped config has one."""
    split = [item.partition("=") for item in overrides if not item.startswith(("+", "~"))]
    shipped = as_shipped(*(f"{key}={value}" for key, _, value in split if (CONFIGS / key).is_dir()))
    for key, _, _ in split:
        if (CONFIGS / key).is_dir():
            continue
        default, value = OmegaConf.select(shipped, key), OmegaConf.select(cfg, key)
        for kind, name in ((bool, "true or false"), ((int, float), "a number")):
            if isinstance(default, kind) and not isinstance(value, kind) and value is not None:
                raise ValueError(f"{key} is {value!r}: it must be {name} (as shipped: {default})")


def describe() -> dict[str, Any]:
    """Names of the chosen method and data set, the overrides, and a command that repeats the run."""
    hydra_cfg = HydraConfig.get()
    overrides = [item for item in hydra_cfg.overrides.task if not item.startswith("resume=")]
    choices = hydra_cfg.runtime.choices
    names = {"method": choices["method"], "data": choices["data"]}
    return {**names, "overrides": overrides, "command": command_line(overrides)}


def prepare(cfg: DictConfig, folder: Path, about: dict[str, Any]) -> None:
    """Writes the resolved config and what the run is called, and points outputs/latest to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if about["resume"] and (folder / "run.json").is_file():  # the first start's names stay
        about |= {**json.loads((folder / "run.json").read_text()), "resume": True}
    record(cfg, folder, about)
    outputs = Path("outputs")
    outputs.mkdir(exist_ok=True)
    link = outputs / f".latest.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(folder.resolve(), outputs.resolve()))
    link.replace(outputs / "latest")


def record(cfg: DictConfig, folder: Path, about: dict[str, Any]) -> None:
    """Writes the resolved config and what the run is called, which is what its ranks read."""
    write(folder / "run.json", json.dumps(about, indent=2) + "\n")
    write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def resumed_config(cfg: DictConfig, folder: Path) -> DictConfig:
    """The stored config, with the overrides of this command that may change.

    Raises:
        ValueError: an override contradicts the stored run, or the stored config is not trusted.
    """
    from ssl_framework.build import load_run_config

    stored = load_run_config(folder.resolve())
    if not has_checkpoint(folder):
        raise FileNotFoundError(f"resume={folder}: no checkpoint was written there yet; start the run again")
    names = json.loads((folder / "run.json").read_text()) if (folder / "run.json").is_file() else {}
    for item in HydraConfig.get().overrides.task:
        key, _, value = item.lstrip("+~").partition("=")
        if key == "resume":
            continue
        if key in ("method", "data"):
            if names.get(key) != value:
                raise ValueError(
                    f"resume={folder} is a run of {key}={names.get(key)}: leave {item} out, or start a new run"
                )
        elif any(key == free or key.startswith(free + ".") for free in MAY_CHANGE):
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key))
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


def launch(folder: Path, processes: int) -> str | None:
    """Starts one process a device, passes signals on to them, and waits.

    Each rank reads the config from the folder and never sees Hydra, so a multirun keeps one folder a job. (torchrun
    does the same but answers a user's mistake with its own traceback.)

    Raises:
        ValueError: what the ranks refused.
        RunFailed: a rank died of something else, whose traceback it has printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(processes)}
    shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    # The ranks find this package also where it runs from a source tree without being installed.
    shared |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "ssl_framework.run", str(folder)]
    ranks = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}, start_new_session=True
        )
        for i in range(processes)
    ]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in ranks:
            child.send_signal(number)

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, pass_on)
    try:
        while any(child.poll() is None for child in ranks) and not any(child.poll() for child in ranks):
            time.sleep(0.1)
        for child in ranks:  # one is done or dead: the others end as well, or wait for it in vain
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=20)
            child.kill()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    refused = sorted(folder.glob(".refused.*"))
    messages = list(dict.fromkeys(path.read_text() for path in refused))
    for path in refused:
        path.unlink()
    if messages:
        raise ValueError("; ".join(messages))
    code = ranks[0].wait()
    if code > STOPPED:
        return signal.Signals(code - STOPPED).name
    if code or any(child.wait() for child in ranks):
        raise RunFailed
    return None


def explain(error: Exception) -> str:
    """A composition error in one or two lines: what was found, what exists, and the nearest name."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, MissingConfigException):
        cause = cause.__cause__
    message = str(error).strip()
    if isinstance(error, MissingConfigException) and error.options:
        group, _, wanted = (error.missing_cfg_file or "").rpartition("/")
        return (
            f"there is no {group}={wanted}{nearest(wanted, error.options)}; {group} can be: {', '.join(error.options)}"
        )
    key = getattr(cause, "key", None)
    parent = getattr(cause, "parent_node", None)
    if isinstance(error, ConfigCompositionException) and key is not None and isinstance(parent, DictConfig):
        known = [str(name) for name in parent if not str(name).startswith("_") and name != "hydra"]
        full = str(getattr(cause, "full_key", "") or key)
        where = full.rsplit(".", 1)[0] if "." in full else "the config"
        if "." not in full:
            known = sorted({*known, *(path.name for path in CONFIGS.iterdir() if path.is_dir())})
        if not known:
            return f"there is no key {full}, and {where} is empty as shipped: add it with +{full}=..."
        return f"there is no key {full}{nearest(str(key), known)}; {where} has: {', '.join(known)}"
    found = re.search(r"Could not override '(\w+)'", message)
    if found and "No match in the defaults list" in message:
        groups = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
        return f"there is no group {found[1]}{nearest(found[1], groups)}; groups are: {', '.join(groups)}"
    return " ".join(message.split())


def nearest(wanted: str, known: Sequence[str]) -> str:
    """`` (did you mean X?)`` or nothing."""
    match = difflib.get_close_matches(wanted, known, n=1)
    return f" (did you mean {match[0]}?)" if match else ""
