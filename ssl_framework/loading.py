"""A finished run as objects, and the safety rule for configs that come out of a run folder."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build_module
from ssl_framework.models.weights import load_newest
from ssl_framework.module import SSLModule
from ssl_framework.runs.addresses import as_now
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.overrides import override_each
from ssl_framework.runs.plugins import trusted, trustworthy, within

TRUSTED = ("ssl_framework", "torch.optim", "torch.nn", "lightning.pytorch.loggers")
"""Where the classes that a stored config names may come from, beside the packages that a plugin or the command line
says are trusted (see ``runs.plugins``)."""


def load_run_config(folder: str | Path) -> DictConfig:
    """The resolved config of a run folder, after checking that it names only classes of trusted packages.

    Raises:
        FileNotFoundError: the folder or its config.yaml does not exist.
        ValueError: the config names something else, or is not a config.
    """
    path = RunFolder(Path(folder)).config_file
    if not path.is_file():
        what = "has no config.yaml: it is not a run folder" if Path(folder).is_dir() else "does not exist"
        raise FileNotFoundError(f"the run folder {folder} {what}")
    cfg = OmegaConf.load(path)
    if not isinstance(cfg, DictConfig):
        raise ValueError(f"{path} is not a run's config: it holds {type(cfg).__name__}, not a mapping")
    content = as_now(OmegaConf.to_container(cfg, resolve=False))
    refuse_foreign(content, str(path))
    return OmegaConf.create(content)


def refuse_foreign(node: Any, where: str) -> None:
    """Raises ValueError for a ``_target_`` that is not trusted and for interpolations, which a stored config lacks."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_" and not is_trusted(value):
                raise ValueError(f"{where} asks to construct {value!r}, {why_foreign(value)}")
            refuse_foreign(value, where)
    elif isinstance(node, list):
        for value in node:
            refuse_foreign(value, where)
    elif isinstance(node, str) and "${" in node:
        raise ValueError(
            f"{where} holds the interpolation {node!r}, but a run's config is stored resolved: nothing was loaded"
        )


def is_trusted(target: Any) -> bool:
    """Whether a dotted name is a class defined (not merely imported) in a trusted package."""
    prefixes = (*TRUSTED, *trusted())
    if not isinstance(target, str) or not within(target, prefixes):
        return False
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return inspect.isclass(found) and within(found.__module__, prefixes)


def why_foreign(target: Any) -> str:
    """Why ``target`` is not constructed, and what the user can do about it."""
    root = str(target).partition(".")[0]
    if isinstance(target, str) and within(target, trusted()):
        return (
            f"but {root}, which is trusted, has no such class of its own here: nothing was loaded; install the version "
            "of it that the run was made with, or put it on PYTHONPATH"
        )
    others = ", ".join([*TRUSTED[1:], *trusted()])
    said = f"which is not a class of this package or of {others}: nothing was loaded"
    try:
        trustworthy(root)
    except ValueError:
        return said
    return (
        f"{said}; if you trust {root}, write trust=[{root}] into the command, or install the package that declares it "
        "as a plugin"
    )


def load_run(folder: Path, overrides: Sequence[str]) -> tuple[DictConfig, SSLModule]:
    """The config and the trained module of a run folder; nothing in it is unpickled or imported from elsewhere.

    Raises:
        FileNotFoundError, ValueError: no such run, an unknown key, or a folder that is not trusted.
    """
    return load_run_and_checkpoint(folder, overrides)[:2]


def load_run_and_checkpoint(folder: Path, overrides: Sequence[str]) -> tuple[DictConfig, SSLModule, dict[str, Any]]:
    """As ``load_run``, and what else lies in the checkpoint."""
    cfg = load_run_config(folder)
    override_each([cfg], overrides, str(RunFolder(folder).config_file))
    checkpoint = load_newest(RunFolder(folder))
    module = build_module(cfg, has_labels=True, num_samples=checkpoint["DataModule"].get("num_samples"))
    try:
        module.load_state_dict(checkpoint.pop("state_dict"))
    except RuntimeError as error:
        raise ValueError(
            f"{folder}: the checkpoint does not fit config.yaml: {' '.join(str(error).split())}"
        ) from error
    return cfg, module, checkpoint
