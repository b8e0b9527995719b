"""Evaluation on frozen features: extracted once, of clean images, in eval mode, and read by every probe."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import lightning as L
import torch
from torch import Tensor, nn

from ssl_framework.data.loader import DataModule, ahead, chosen
from ssl_framework.data.residence import free_memory
from ssl_framework.data.sources import Images
from ssl_framework.distributed import gather, rank, world_size
from ssl_framework.module import SSLModule

CHUNK_PIXELS = 512 * 64 * 64
"""Pixels (times channels ignored) that go through the encoder at once."""


class Frozen(NamedTuple):
    """Features of one split."""

    x: Tensor  # [N, D] float32, not normalised
    y: Tensor  # [N] int64


class Probe(Protocol):
    """Fits on the features of train, scores those of test; returns metric name (with its protocol) -> percent."""

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]: ...


@torch.no_grad()
def extract(embed: Callable[[Tensor], Tensor], images: Images, device: torch.device | str) -> Tensor:
    """Features of all images in their order, each computed on exactly one rank.

    Args:
        embed: uint8 [B, C, H, W] -> [B, D].
        images: N images.
        device: where ``embed`` runs.

    Returns:
        [N, D] float32 on the CPU, the same on every rank.
    """
    pixels = images.pixels
    total, ranks = len(pixels), world_size()
    share = -(-total // ranks)  # rounded up; the rows that pad the last rank are cut off below
    mine = torch.arange(rank() * share, (rank() + 1) * share).clamp(max=total - 1)  # [share]
    chunk = max(1, CHUNK_PIXELS // (pixels.shape[2] * pixels.shape[3]))
    read = ahead(chosen(pixels, index.to(pixels.device)) for index in mine.split(chunk))  # while the encoder is busy
    parts = [embed(part.to(device)).float() for part in read]
    return gather(torch.cat(parts))[:total].cpu()  # [N, D]


@torch.no_grad()
def extract_frozen(module: SSLModule, images: Images) -> Tensor:
    """Features of the student's backbone: clean images, eval mode, float32; the module's modes are restored."""
    modes = {name: part.training for name, part in module.named_modules()}
    module.eval()
    try:
        return extract(lambda x: module.student.embed(module.views.clean(x)), images, module.device)
    finally:
        for name, part in module.named_modules():
            part.training = modes[name]


class FrozenEvaluation(L.Callback):
    """Runs every probe on the frozen features every n epochs and at the end; scores raw pixels and the untrained
    backbone once, at the start, with the same probes.

    Args:
        probes: name -> probe.
        every_n_epochs: 0 for only at the end.
        baselines: whether to score raw pixels and the untrained backbone.

    Logs ``eval/<metric>``. ``metrics`` holds the latest values, ``baselines`` the two references.
    """

    def __init__(self, probes: Mapping[str, Probe], every_n_epochs: int, baselines: bool = True) -> None:
        if every_n_epochs < 0:
            raise ValueError(
                f"evaluation.every_n_epochs is {every_n_epochs}: it must be at least 0 (0: only at the end)"
            )
        self.probes = {name: probe for name, probe in probes.items() if probe is not None}
        self.every_n_epochs = every_n_epochs
        self.with_baselines = baselines
        self.metrics: dict[str, float] = {}
        self.baselines: dict[str, dict[str, float]] = {}
        self.evaluated_at = -1

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "baselines": self.baselines, "evaluated_at": self.evaluated_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.metrics, self.baselines, self.evaluated_at = state["metrics"], state["baselines"], state["evaluated_at"]

    def score(self, features: Callable[[Images], Tensor], data: DataModule) -> dict[str, float]:
        """All probes on one kind of features; computed on rank 0, the same result on every rank.

        Args:
            features: images -> [N, D]; every rank takes part.
            data: gives the labelled train and test split.
        """
        train_x, test_x = features(data.train), features(data.test)
        result: list[Any] = [None]
        if rank() == 0:
            assert data.train.label is not None and data.test.label is not None
            train = Frozen(train_x, data.train.label.cpu())
            test = Frozen(test_x, data.test.label.cpu())
            scores: dict[str, float] = {}
            for probe in self.probes.values():
                scores |= probe(train, test)
            result = [scores]
        if world_size() > 1:
            torch.distributed.broadcast_object_list(result, src=0)
        return result[0]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        if self.probes and not data.has_labels:
            if rank() == 0:
                warnings.warn(
                    f"evaluation skipped: {', '.join(self.probes)} need labels and a test split, "
                    "which this data set lacks"
                )
            self.probes = {}
        if self.probes and self.with_baselines and not self.baselines:
            assert isinstance(pl_module, SSLModule)
            self.baselines = {
                "raw_pixels": self.score(raw_pixels, data),
                "untrained": self.score(lambda images: extract_frozen(pl_module, images), data),
            }

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.current_epoch + 1
        last = done == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if (
            self.probes
            and not trainer.should_stop
            and (last or (self.every_n_epochs and done % self.every_n_epochs == 0))
        ):
            self.evaluate(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A run bounded by max_steps may end inside an epoch.
        ended = trainer.global_step >= trainer.estimated_stepping_batches
        if self.probes and ended and self.evaluated_at != trainer.global_step:
            self.evaluate(trainer, pl_module)

    def evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scores the student as it is now. Changes ``metrics``."""
        assert isinstance(pl_module, SSLModule)
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.metrics = self.score(lambda images: extract_frozen(pl_module, images), data)
        self.evaluated_at = trainer.global_step
        logged = {f"eval/{name}": value for name, value in self.metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step)


def raw_pixels(images: Images) -> Tensor:
    """[N, C * H * W] in [0, 1]: what a representation has to beat.

    Raises:
        ValueError: they do not fit in memory as float32.
    """
    size, free = 4 * math.prod(images.shape), free_memory()
    if size > free:
        raise ValueError(
            f"the baseline on raw pixels needs {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB of memory are free: "
            "set evaluation.baselines=false"
        )
    pixels = images.pixels
    if not isinstance(pixels, Tensor):
        pixels = pixels[torch.arange(len(pixels))]  # [N, C, H, W]
    return pixels.flatten(1).cpu().float().div_(255)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
