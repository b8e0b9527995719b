"""The Lightning Trainer of a run."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from ssl_framework.device import accelerator_of
from ssl_framework.runs.folder import RunFolder
from ssl_framework.training.loops import FitLoop
from ssl_framework.training.mirror import Mirror
from ssl_framework.training.place import Place, is_first, local_processes, place
from ssl_framework.training.sharding import Sharded
from ssl_framework.training.writing import CheckpointWriter

ALONE = Place(0, 1, 0, 1)
"""Where a process stands that nothing has launched, whatever variables a batch job around it has set."""


class Launched(ClusterEnvironment):
    """Tells Lightning where this process stands among those that were launched (see ``place``), or that it is alone.

    Lightning's own environments know one launcher each, and some want as many processes on every machine.

    Args:
        here: where it stands.
    """

    def __init__(self, here: Place) -> None:
        super().__init__()
        self.here = here

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return place() is not None

    def world_size(self) -> int:
        return self.here.world_size

    def global_rank(self) -> int:
        return self.here.rank

    def local_rank(self) -> int:
        return self.here.local_rank

    def node_rank(self) -> int:
        return self.here.rank // self.here.local_size

    def set_world_size(self, size: int) -> None:
        """The launcher's word stands."""

    def set_global_rank(self, rank: int) -> None:
        """The launcher's word stands."""


def build_trainer(cfg: DictConfig, folder: Path, callbacks: list[L.Callback], loggers: list[Logger]) -> L.Trainer:
    """The Lightning Trainer; ``devices: auto`` are all local GPUs.

    Raises:
        ValueError: the machine lacks what the config asks for.
    """
    refuse_what_is_not_there(cfg)
    here, devices = place(), local_processes(cfg)
    plugins: list[Any] = [writer_of(cfg, RunFolder(folder)), Launched(here or ALONE)]
    # Lightning takes it from whatever variables are there.
    rank_zero_only.rank = (here or ALONE).rank  # type: ignore[attr-defined]
    trainer = L.Trainer(
        accelerator=accelerator_of(cfg),
        devices=devices,
        num_nodes=cfg.num_nodes,
        strategy=strategy_of(cfg, devices * cfg.num_nodes),
        precision=cfg.precision,
        max_epochs=cfg.max_epochs,
        max_steps=cfg.max_steps,
        accumulate_grad_batches=cfg.accumulate_grad_batches,
        gradient_clip_val=cfg.gradient_clip_val,
        sync_batchnorm=cfg.sync_batchnorm,
        log_every_n_steps=cfg.log_every_n_steps,
        default_root_dir=str(folder),
        callbacks=callbacks,
        logger=loggers,
        plugins=plugins,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    loop = FitLoop(trainer, trainer.fit_loop.min_epochs, trainer.fit_loop.max_epochs)
    loop.epoch_loop, trainer.fit_loop = trainer.fit_loop.epoch_loop, loop
    # With several processes Lightning asks in every step, by a broadcast that the host waits for, whether rank 0 got a
    # SIGTERM. StopSignals and Checkpoints do that every few steps.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]  # nor its handlers
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def writer_of(cfg: DictConfig, run: RunFolder) -> CheckpointWriter:
    """What writes the checkpoints, and has them copied elsewhere if ``trainer.mirror`` says so; the first process does.

    Raises:
        ValueError: no such place can be opened.
    """
    target = OmegaConf.select(cfg, "mirror")  # a run folder of an earlier version has no such key
    mirror = Mirror(str(target), run) if target is not None and is_first() else None
    return CheckpointWriter(run, accelerator_of(cfg) == "gpu", mirror)


def strategy_of(cfg: DictConfig, processes: int) -> str | Strategy:
    """How several processes train one model: each holds all of it, or a share (``trainer.strategy``).

    Raises:
        ValueError: there is no such way, or a single process would have to share.
    """
    chosen = OmegaConf.select(cfg, "strategy") or "ddp"  # a run folder of an earlier version has no such key
    if chosen not in ("ddp", "fsdp"):
        raise ValueError(
            f"trainer.strategy is {chosen}: choose ddp (every process holds all weights) or fsdp (a share)"
        )
    if chosen == "fsdp" and processes == 1:
        raise ValueError(
            "trainer.strategy is fsdp, which divides the weights among processes, but this run has only one: set "
            "trainer.strategy=ddp, or choose trainer=ddp or ddp_cpu"
        )
    if chosen == "fsdp":
        return Sharded(timeout=patience(cfg))
    return DDPStrategy(timeout=patience(cfg)) if processes > 1 else "auto"


def patience(cfg: DictConfig) -> timedelta:
    """How long a process waits for the others in a collective: longer than the watchdog, which says who is missing."""
    minutes = OmegaConf.select(cfg, "hang_after_minutes")
    return timedelta(days=7) if minutes is None else timedelta(minutes=2 * minutes + 5)


def refuse_what_is_not_there(cfg: DictConfig) -> None:
    """Refuses a GPU that this machine lacks, and float16 without one: Lightning would take bf16 and not say so."""
    if accelerator_of(cfg) == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator is gpu, but there is no GPU here: choose trainer=cpu or trainer=ddp_cpu")
    if accelerator_of(cfg) == "cpu" and cfg.precision == "16-mixed":
        raise ValueError(
            "trainer.precision is 16-mixed, which needs a GPU, but this run is on the CPU: choose bf16-mixed or 32-true"
        )
