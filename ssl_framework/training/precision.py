"""In which floating-point format a run trains, where the config leaves that to the machine."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from ssl_framework.device import accelerator_of
from ssl_framework.runs.folder import RunFolder
from ssl_framework.training.place import is_first


def settle_precision(cfg: DictConfig, folder: Path) -> None:
    """Replaces ``trainer.precision: auto`` by what it means here, in ``cfg`` and in the folder's config.yaml.

    A function of the accelerator alone, so that equal commands make equal runs: bf16 on a GPU that has it, else
    float32. Written down, a resumed run goes on in the same precision.
    """
    if cfg.trainer.precision != "auto":
        return
    gpu = accelerator_of(cfg.trainer) == "gpu" and torch.cuda.is_available()
    cfg.trainer.precision = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"
    if is_first():
        RunFolder(folder).write_config(cfg)
