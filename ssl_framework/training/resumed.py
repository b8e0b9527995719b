"""``resume=FOLDER``: the stored config, and what this command may change about how and how long it runs."""

import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_framework.runs.composition import PARTS, choice_of
from ssl_framework.runs.config import hosted, may_change
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import choices, groups
from ssl_framework.runs.left import names_of
from ssl_framework.runs.messages import command_line, explain
from ssl_framework.runs.overrides import key_of, keys_of, latest_of
from ssl_framework.runs.typed_paths import folder_override, quoted, unquoted, with_paths_quoted


def point_to_resumed_folder(arguments: list[str]) -> list[str]:
    """``resume=FOLDER`` writes into FOLDER: the run folder Hydra makes is the one that is resumed. Keys of this command
    are those of the run's own choices (``data=files``), which are added to it.

    Args:
        arguments: of the command, folders quoted.
    """
    given = [unquoted(a.partition("=")[2]) for a in arguments if a.startswith("resume=")]
    if not given or given[-1] in ("", "null") or any(a.startswith("hydra.run.dir=") for a in arguments):
        return arguments
    folder = RunFolder(Path(given[-1]).resolve())  # outputs/latest is a link that a new start would move
    if not (folder.config_file.is_file() or folder.about_file.is_file()):
        sys.exit(f"error: resume={given[-1]}: there is no run in that folder (no {folder.config_file.name})")
    said = keys_of(arguments)
    before = latest_of(names_of(folder).get("overrides", ()))
    chosen = [item for item in before if is_choice(item) and key_of(item) not in said]
    return [*with_paths_quoted(chosen), *arguments, f"hydra.run.dir={quoted(os.path.relpath(folder.path))}"]


def is_choice(item: str) -> bool:
    """Whether an override chooses a file of a group, ``data=files`` or ``backbone@teacher.backbone=timm``, that is
    there."""
    group = key_of(item).partition("@")[0]
    return group in groups() and item.partition("=")[2] in choices(group)


def resumed(cfg: DictConfig, run: RunFolder, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The stored config with the overrides of this command that may change, and the names of the run that it makes.

    Args:
        cfg: what this command composes.
        run: the folder.
        overrides: of this command.

    Raises:
        ValueError: an override contradicts the stored run, the stored config is not trusted, or something that says
            what the run is has been lost.
    """
    from ssl_framework.loading import load_run_config  # imports torch

    names, stored = names_of(run), config_or_cure(run, lambda path: load_run_config(path, keys_of(overrides)))
    refuse_fetching(OmegaConf.to_container(stored), run, keys_of(overrides))
    if not names:
        raise ValueError(
            f"resume={run}: {run.about_file} does not say any more which method and data the run is of: give the "
            f"command that began it, with hydra.run.dir={run}, which writes it again"
        )
    said = latest_of(names["overrides"])
    changes = [item for item in overrides if key_of(item) != "resume" and item not in said]
    for item in changes:
        refuse_fixed(item, cfg, stored, names, run)
    if free := [item for item in changes if may_change(key_of(item))]:
        after = latest_of([*names["overrides"], *free])
        stored = with_changes(stored, names["overrides"], after, free)
        names = {**names, "overrides": after, "command": command_line(after)}
    return stored, names


def refuse_fetching(node: Any, run: RunFolder, said: set[str], key: str = "") -> None:
    """Refuses to fetch what a stored config names: a run that has made no step would begin with public weights anew.

    Args:
        node: the stored config, or a part of it.
        run: its folder.
        said: keys that the command line sets itself.
        key: of the part.

    Raises:
        ValueError: a backbone begins with fetched weights, and there is no checkpoint.
    """
    for name, value in node.items() if isinstance(node, dict) and not run.has_checkpoint else ():
        where = f"{key}.{name}".lstrip(".")
        if name == "pretrained" and value is True and not said & {where, where.replace("student.", "")}:
            raise ValueError(
                f"resume={run} has no checkpoint yet, so it would begin anew with weights that are fetched ({where}): "
                f"if you want this, say so yourself in the command with {where.replace('student.', '')}=true"
            )
        refuse_fetching(value, run, said, where)


def config_or_cure(run: RunFolder, load: Any) -> DictConfig:
    """The stored config; where it is damaged, the error says how to have it written again."""
    try:
        return load(run.path)
    except (ValueError, FileNotFoundError) as error:
        names = names_of(run)
        if not names or run_is_whole(run):
            raise
        cure = command_line([*names["overrides"], folder_override("hydra.run.dir", run)])
        raise ValueError(f"{error}; the run's own command writes it again: {cure}") from error


def run_is_whole(run: RunFolder) -> bool:
    """Whether config.yaml can be read: what is wrong with it then is what it says."""
    try:
        return bool(run.read_config())
    except (ValueError, FileNotFoundError):
        return False


def refuse_fixed(item: str, cfg: DictConfig, stored: DictConfig, names: dict[str, Any], run: RunFolder) -> None:
    """Raises ValueError for an override that contradicts the stored run in what it learns from."""
    key, value = key_of(item), item.partition("=")[2]
    if key in ("method", "data", *PARTS):
        before = choice_of(names, key)
        if before != value:
            raise ValueError(f"resume={run} is a run of {key}={before}: leave {item} out, or start a new run")
        return
    before, now = OmegaConf.select(stored, key), OmegaConf.select(cfg, key)
    if may_change(key) or before == now:
        return
    if "." in key or key == "seed":
        raise ValueError(
            f"resume continues {run} as it was configured, with {key}={before}: leave {item} out, or start a new run "
            f"with {key}={now}"
        )
    raise ValueError(f"resume continues {run} as it was configured: leave {item} out, or start a new run")


def with_changes(stored: DictConfig, before: Sequence[str], after: Sequence[str], changes: Sequence[str]) -> DictConfig:
    """The stored config with what differs between the compositions of two lists of overrides.

    Where the shipped files have not changed since the run began, that is what the later list composes.

    Args:
        stored: of the run.
        before: the run's overrides.
        after: these with the changes.
        changes: overrides of this command.

    Raises:
        ValueError: they do not compose any more.
    """
    found: Any = OmegaConf.to_container(stored)
    now = composed(after)
    take_over(composed(before), now, found)
    config = OmegaConf.create(found)
    for key in (key for key in map(key_of, changes) if "." in key):  # it may be as shipped now, but not when it began
        OmegaConf.update(config, key, OmegaConf.select(OmegaConf.create(now), key), merge=False, force_add=True)
    return config


def composed(overrides: Sequence[str]) -> Any:
    """What overrides compose, resolved, as plain values."""
    try:
        return OmegaConf.to_container(hosted(hydra.compose("train", list(overrides))), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        own = "; what a package of your own brought needs its --config-dir again"
        more = own if isinstance(error, MissingConfigException) else ""
        said = f"the run's overrides ({' '.join(overrides)}) do not compose: {explain(error)}{more}"
        raise ValueError(said) from error


def take_over(before: Any, after: Any, into: Any) -> None:
    """Changes in ``into``, a nested mapping, what differs between two others."""
    for key in [*before, *(key for key in after if key not in before)]:
        if key not in after:
            into.pop(key, None)
        elif key not in before or before[key] != after[key]:
            if all(isinstance(node.get(key), dict) for node in (before, after, into)):
                take_over(before[key], after[key], into[key])
            else:
                into[key] = copy.deepcopy(after[key])
