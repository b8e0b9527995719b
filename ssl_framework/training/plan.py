"""What a command has to do: start a run, go on with it, or nothing, and in which folder. Imports no torch by itself."""

import contextlib
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, read_write

from ssl_framework.runs.composition import refuse_mixed_keys, refuse_mixed_parts
from ssl_framework.runs.config import hosted, names_of_run, refuse_other_config, refuse_unread
from ssl_framework.runs.folder import LATEST, RunFolder
from ssl_framework.runs.left import ANEW, GOES_ON, NOTHING, left_to_do, names_of, refuse_other_run, same
from ssl_framework.runs.messages import command_line
from ssl_framework.runs.settings import refuse_settings
from ssl_framework.training.meeting import agree, meeting
from ssl_framework.training.place import leave_to_launcher, settle
from ssl_framework.training.recipe import settle_recipe
from ssl_framework.training.resumed import resumed


class Plan(NamedTuple):
    """What a command has to do."""

    todo: str  # of ``runs.left``
    folder: Path
    cfg: DictConfig
    about: dict[str, Any]  # what the run is called, and "resume"


def decided(cfg: DictConfig, decide: Callable[[], Plan]) -> Plan:
    """What the first process decides, in every process.

    Raises:
        ValueError: what the config asks for cannot be done here, or in the folder.
        RunFailed: the first process said so.
    """
    task = HydraConfig.get().overrides.task
    refuse_mixed_parts(HydraConfig.get().runtime.choices)
    refuse_settings(cfg)
    hosted(cfg, task)
    refuse_mixed_keys(HydraConfig.get().runtime.choices, cfg)
    refuse_unread(cfg, task)
    settle(cfg.trainer)
    own: list[Plan] = []

    def decision() -> str:
        plan = decide()
        own.append(plan)
        text = OmegaConf.to_yaml(plan.cfg, resolve=True) if meeting() is not None else ""
        return json.dumps([plan.todo, str(plan.folder), text, plan.about])

    todo, folder, text, about = json.loads(agree(decision))
    if own:
        return own[0]
    found: Any = OmegaConf.create(text)
    leave_to_launcher(found.trainer)
    settle(found.trainer)
    return Plan(todo, Path(folder), found, about)


def planned(cfg: DictConfig, folder: Path, claims: contextlib.ExitStack, seen: dict[RunFolder, Any]) -> Plan:
    """What a single run's command has to do, prepared: in the folder that ``resume`` names, in that of the newest run
    if the same command began it and something ended it, or in its own.

    Args:
        cfg: as composed.
        folder: of its own.
        claims: takes the claim of the folder.
        seen: gets what lies in it.

    Raises:
        ValueError: another process writes there, or it is another run's.
    """
    names, run = describe(), RunFolder(folder)
    if cfg.resume is None:
        begin_as_weights(cfg, begun_here(run))
    if cfg.resume is not None and Path(str(cfg.resume)).resolve() != folder.resolve():
        raise ValueError(f"resume={cfg.resume} goes on in that folder itself: leave out -m and hydra.run.dir")
    if cfg.resume is None and (found := begun_before(cfg, run, names, claims)) is not None:
        run = found
    elif not claims.enter_context(run.claimed()):
        raise ValueError(f"{run.held_by}: wait for it to end, or choose another hydra.run.dir")
    seen[run] = run.progress(), run.said()
    if cfg.resume is not None:
        cfg, names = resumed(cfg, run, HydraConfig.get().overrides.task)
        refuse_settings(cfg)
        leave_to_launcher(cfg.trainer)
        settle(cfg.trainer)
    elif run.has_trained:
        refuse_other_run(cfg, run, names, "hydra.run.dir")
        names = names_of(run) or names
    return prepared(cfg, run, names, None)


def begin_as_weights(cfg: DictConfig, run: RunFolder) -> None:
    """Has the data be as the weights expect that the run begins with, and says so; see ``settle_recipe``."""
    composed: Any = HydraConfig.get()
    if said := settle_recipe(cfg, composed.runtime.choices.data, composed.overrides.task, run):
        print(said, flush=True)


def begun_here(own: RunFolder) -> RunFolder:
    """The folder in which this command may have begun its run: its own, or that of the newest run."""
    return own if own.has_trained or not LATEST.is_symlink() else RunFolder(LATEST.resolve())


def begun_before(
    cfg: DictConfig, own: RunFolder, names: dict[str, Any], claims: contextlib.ExitStack
) -> RunFolder | None:
    """The newest run, if this very command began it, something ended it and no process holds it; else ``None``.

    Only where the run's folder is named by the time of day: one that the command names is meant.
    """
    dated = "${began:" in str(OmegaConf.to_container(HydraConfig.get().run, resolve=False))
    latest = RunFolder(LATEST.resolve())
    if not dated or not LATEST.is_symlink() or latest.path.parent != own.path.resolve().parent:
        return None
    if latest.state not in ("interrupted", "damaged") or same(names_of(latest)) != same(names):
        return None
    with contextlib.ExitStack() as claim:
        if not claim.enter_context(latest.claimed()) or not is_same(cfg, latest):
            return None
        claims.push(claim.pop_all())
    anew = command_line([*names["overrides"], f"hydra.run.dir={os.path.relpath(own.path)}"])
    print(f"goes on with {os.path.relpath(latest.path)}, which this command began; to start anew: {anew}", flush=True)
    settings: Any = HydraConfig.get()
    with read_write(settings):
        settings.runtime.output_dir = str(latest.path)  # where loggers write
    with contextlib.suppress(OSError):
        own.path.rmdir()
    return latest


def is_same(cfg: DictConfig, run: RunFolder) -> bool:
    """Whether a folder's config is that of this command; one that cannot be read is, as its names are."""
    try:
        run.read_config()
    except (ValueError, FileNotFoundError):
        return True
    try:
        refuse_other_config(copy.deepcopy(cfg), run)
    except ValueError:
        return False
    return True


def prepared(cfg: DictConfig, run: RunFolder, names: dict[str, Any], sweep: Path | None) -> Plan:
    """What is left of a run, with its folder ready for it: half-written files of killed processes are removed, and
    config.yaml and run.json say what will run.

    Args:
        cfg: of the run.
        run: its folder, which this process holds.
        names: what it is called.
        sweep: folder of the multirun, if it is a job of one.

    Raises:
        ValueError: see ``left_to_do``.
    """
    from ssl_framework.training.precision import meant, meant_in  # imports torch

    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = meant(cfg.trainer) if sweep is None else meant_in(sweep, cfg.trainer)
    todo = left_to_do(cfg, run)
    about = {**names, "resume": todo == GOES_ON}
    run.sweep_partials()  # also of a page
    if todo != NOTHING:
        if todo == ANEW:
            run.forget_try()
        run.prepare(cfg, names)
        run.point_latest_here()
    return Plan(todo, run.path, cfg, about)


def planned_job(cfg: DictConfig, run: RunFolder, mine: bool) -> Plan:
    """What is left of a job, prepared; nothing where another process runs it.

    Raises:
        ValueError: what lies there belongs to another run, and stays as it is.
    """
    names = describe()
    if not mine:
        print("left to the process that is running it")
        return Plan(NOTHING, run.path, cfg, {})
    if cfg.resume is not None:
        raise ValueError(f"resume={cfg.resume} goes on in that folder itself: leave out -m and hydra.run.dir")
    begin_as_weights(cfg, run)
    if run.has_trained:
        refuse_other_run(cfg, run, names, "hydra.sweep.dir")
        names = names_of(run) or names
    plan = prepared(cfg, run, names, run.path.parent)
    if plan.todo == NOTHING:
        print("has a result already")
    return plan


def describe() -> dict[str, Any]:
    """What the run is called, its data set and chosen groups, the overrides, and a command that repeats the run."""
    hydra_cfg = HydraConfig.get()
    overrides = [item for item in hydra_cfg.overrides.task if not item.startswith("resume=")]
    return names_of_run(hydra_cfg.runtime.choices, overrides)
