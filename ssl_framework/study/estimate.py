"""How long a run trains, from a few of its own steps measured here."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build_data, build_module
from ssl_framework.device import use_threads
from ssl_framework.runs.messages import quiet
from ssl_framework.training.trainer import build_trainer

STEPS = 6
"""Measured; the first half warms up."""


class StepTimes(L.Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())


def training_seconds(cfg: DictConfig) -> float:
    """Of a whole run with this config on this machine: median step times number of steps.

    Start, evaluation and checkpoints come on top. Steps are measured in float32 where the precision is ``auto``.
    """
    quiet()
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
    use_threads(cfg.trainer.num_threads)
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = "32-true"
    data = build_data(cfg)
    module = build_module(cfg, data.pretrain.labelled, data.pretrain.shape[0])
    steps = cfg.trainer.max_epochs * -(-data.num_batches() // cfg.trainer.accumulate_grad_batches)
    if cfg.trainer.max_steps != -1:
        steps = min(steps, cfg.trainer.max_steps)
    cfg.trainer.max_steps = min(STEPS, steps)
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        build_trainer(cfg.trainer, Path(folder), [times], []).fit(module, datamodule=data)
    each = [later - earlier for earlier, later in zip(times.ends, times.ends[1:], strict=False)]
    return steps * statistics.median(each[len(each) // 2 :])
