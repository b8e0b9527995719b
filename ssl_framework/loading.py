"""A finished run as objects, and the one door for configs that come out of a run folder."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build_module
from ssl_framework.models.weights import load_newest
from ssl_framework.module import SSLModule
from ssl_framework.runs.added_keys import as_built_now
from ssl_framework.runs.addresses import as_now
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.overrides import keys_of, override_each
from ssl_framework.runs.paths import confined
from ssl_framework.runs.plain import read_config
from ssl_framework.runs.trust import refuse_foreign


def load_run_config(folder: str | Path, said: Collection[str] = ()) -> DictConfig:
    """The resolved config of a run folder: bounded, of trusted classes, with places that are safe.

    Args:
        folder: of the run.
        said: keys that the command line sets itself, which are not looked at (see ``runs.paths``).

    Raises:
        FileNotFoundError: the folder or its config.yaml does not exist.
        ValueError: the config names something else, leads elsewhere, or is not a config.
    """
    path = RunFolder(Path(folder)).config_file
    if not path.is_file():
        what = "has no config.yaml: it is not a run folder" if Path(folder).is_dir() else "does not exist"
        within = [above for above in Path(folder).parents if Path(folder).is_file() and (above / path.name).is_file()]
        what = f"is a file: name the folder of the run, {within[0]}" if within else what
        raise FileNotFoundError(f"the run folder {folder} {what}")
    RunFolder(Path(folder)).refuse_cut_config()
    content = as_now(read_config(path))
    refuse_foreign(content, str(path))
    return OmegaConf.create(confined(as_built_now(content), str(path), Path(folder), said))


def load_run(folder: Path, overrides: Sequence[str]) -> tuple[DictConfig, SSLModule]:
    """The config and the trained module of a run folder; nothing in it is unpickled or imported from elsewhere.

    Raises:
        FileNotFoundError, ValueError: no such run, an unknown key, or a folder that is not trusted.
    """
    return load_run_and_checkpoint(folder, overrides)[:2]


def load_run_and_checkpoint(folder: Path, overrides: Sequence[str]) -> tuple[DictConfig, SSLModule, dict[str, Any]]:
    """As ``load_run``, and what else lies in the checkpoint."""
    cfg = load_run_config(folder, keys_of(overrides))
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
