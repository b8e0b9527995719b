"""In which floating-point format a run trains, where the config leaves that to the machine."""

import copy
import os
import statistics
import time
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ssl_framework.data.datamodule import DataModule
from ssl_framework.device import accelerator_of, cpu_has_bf16
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import write
from ssl_framework.training.launch import local_processes

FASTER = 1.15
"""Half precision has to win by this factor to be chosen."""


def faster_precision(encoder: Encoder, images: Tensor, rounds: int = 5) -> str:
    """Times forward and backward passes of the encoder on the CPU in both precisions, in turns.

    Args:
        encoder: stays as it is; a copy is timed.
        images: [B, C, H, W] float32.
        rounds: of both, after one that does not count.

    Returns:
        "bf16-mixed" if that is faster by ``FASTER``, else "32-true".
    """
    trial = copy.deepcopy(encoder)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with torch.random.fork_rng(devices=[]):
        for _ in range(rounds + 1):
            for half, taken in seconds.items():
                started = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    outputs = trial.encode(images)
                torch.stack([x.float().square().mean() for x in outputs.values()]).sum().backward()
                taken.append(time.perf_counter() - started)
    single, half_precision = (statistics.median(taken[1:]) for taken in seconds.values())
    return "bf16-mixed" if single > FASTER * half_precision else "32-true"


def settle_precision(cfg: DictConfig, folder: Path, module: SSLModule, data: DataModule) -> None:
    """Replaces ``trainer.precision: auto`` by what it means here, in ``cfg`` and in the folder's config.yaml.

    On a GPU bf16 where it has it. On a CPU with bf16 instructions, for one process, what is faster for this encoder as
    timed now; else float32. Written down, a resumed run goes on in the same precision.
    """
    if cfg.trainer.precision != "auto":
        return
    precision = "32-true"
    if accelerator_of(cfg.trainer) == "gpu":
        if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
            precision = "bf16-mixed"
    elif cpu_has_bf16() and local_processes(cfg.trainer) * cfg.trainer.num_nodes == 1:
        index = torch.arange(min(64, data.train.shape[0]))
        precision = faster_precision(module.student, module.views.clean(data.train.rows[index]))
    cfg.trainer.precision = precision
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0:
        write(folder / "config.yaml", OmegaConf.to_yaml(cfg))
