"""In which floating-point format a run trains, where the config leaves that to the machine."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from ssl_framework.device import accelerator_of
from ssl_framework.runs.folder import RunFolder, write
from ssl_framework.training.place import is_first


def settle_precision(cfg: DictConfig, folder: Path) -> None:
    """Replaces ``trainer.precision: auto`` by what it means here, in ``cfg`` and in the folder's config.yaml.

    Written down, a resumed run goes on in the same precision.
    """
    if cfg.trainer.precision != "auto":
        return
    cfg.trainer.precision = meant(cfg.trainer)
    if is_first():
        RunFolder(folder).write_config(cfg)


def meant(cfg: DictConfig) -> str:
    """What ``precision: auto`` of ``trainer`` means here. A function of the accelerator alone, so that equal commands
    make equal runs: bf16 on a GPU that has it, else float32."""
    gpu = accelerator_of(cfg) == "gpu" and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"


def meant_in(sweep: Path, cfg: DictConfig) -> str:
    """What ``precision: auto`` of ``trainer`` means in every job of a multirun, whose folder keeps it: what it meant
    where the first one began, so that jobs on different machines are of one config."""
    if cfg.accelerator == "cpu":
        return meant(cfg)
    path = sweep / f"precision_{cfg.accelerator}.txt"
    try:
        with path.open("x") as file:
            file.write(f"{meant(cfg)}\n")
    except FileExistsError:
        if not path.read_text().strip():  # killed in between
            write(path, f"{meant(cfg)}\n")
    return path.read_text().strip()
