"""What is left to do of a run whose folder is there: the same command starts it, goes on with it, or finds it complete,
at whatever instant the one before it was killed."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from ssl_framework.runs.config import config_hash, refuse_other_config
from ssl_framework.runs.folder import RunFolder

NOTHING, GOES_ON, ANEW = "nothing", "goes on", "anew"


def left_to_do(cfg: DictConfig, run: RunFolder) -> str:
    """``NOTHING`` where the run has its result, ``GOES_ON`` from a checkpoint, or ``ANEW``: a try that came to none.

    A damaged result is removed, and what went before is said; a result of fewer epochs stays until there is another.

    Args:
        cfg: the run's config, as it is to be trained.
        run: the folder, which this process holds.

    Raises:
        ValueError: there is a result of another config, but nothing from which training could go on.
    """
    if fault := run.result_fault:
        print(f"note: {fault}: the run's end is made again", flush=True)
        run.result_file.unlink()
    result = run.read_result()
    if result and result.get("config_hash", config_hash(cfg)) == config_hash(cfg):
        return NOTHING
    run.error_file.unlink(missing_ok=True)
    if run.has_checkpoint:
        return GOES_ON
    if result:
        raise ValueError(f"{run} has a result, but no checkpoint to go on from: choose another folder for a new run")
    return ANEW


def refuse_other_run(cfg: DictConfig, run: RunFolder, names: Mapping[str, Any], key: str) -> None:
    """Refuses to take what a folder holds for this command's run where it is another one.

    A damaged or lost config.yaml is no reason, if the names that are stored beside it are this command's: it is
    written again.

    Args:
        cfg: what this command composes; ``trainer.precision: auto`` is settled as in the folder.
        run: a folder that has trained.
        names: of this command, as run.json would say them.
        key: that chooses the folder, for the error.

    Raises:
        ValueError: it is another run, or nothing says which.
    """
    try:
        run.read_config()
    except (ValueError, FileNotFoundError) as error:
        refuse_other_names(run, names, key, str(error))
        return
    try:
        refuse_other_config(cfg, run, key)
    except ValueError as error:
        before = names_of(run)
        for what in ("method", "data") if before else ():
            if before[what] != names[what]:
                raise ValueError(
                    f"{run} holds a run of {what}={before[what]}, but this one is of {names[what]}: choose another "
                    f"{key}, or remove that folder"
                ) from error
        raise


def refuse_other_names(run: RunFolder, names: Mapping[str, Any], key: str, fault: str) -> None:
    """Refuses a run whose config.yaml has a fault, unless its names are this command's. Arguments and errors as of
    ``refuse_other_run``."""
    if not (run.has_checkpoint or run.result_file.is_file()):
        return  # nothing there is worth keeping
    before = names_of(run)
    if not before:
        raise ValueError(f"{fault}, and nothing else there says which run it was: choose another {key}")
    if same(before) != same(names):
        raise ValueError(f"{fault}; the command that writes it again is the run's own: {before['command']}")
    print(f"note: {fault}: it is written again", flush=True)


def same(names: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    """What has to be alike in the names of a run and those of a command that repeats it."""
    return names["method"], names["data"], sorted(names["overrides"])


def names_of(run: RunFolder) -> dict[str, Any]:
    """What the folder says the run is called, as run.json; {} where nothing says it whole."""
    try:
        found = run.read_about()
    except ValueError:
        return {}
    return found if {"method", "data", "overrides", "command"} <= found.keys() else {}
