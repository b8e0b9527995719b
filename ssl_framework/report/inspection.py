"""What pictures of a run read: its record, a bounded number of its images and their features, each read once.

N images, C channels, h x w pixels, D features.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from ssl_framework.build import build_data, build_module
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.device import accelerator_of
from ssl_framework.evaluation.features import refuse_non_finite, samples_at_once
from ssl_framework.loading import load_run, load_run_config
from ssl_framework.models.weights import load_newest
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.overrides import keys_of


class Inspection:
    """A run folder, of which everything is read when it is first asked for.

    Args:
        folder: of a run, finished or still in training.
        overrides: of the run's config, such as another ``data.root``.
        num_images: images read, half from the train split, half from test.
        seed: of their choice and of what pictures draw at random.

    Raises:
        FileNotFoundError, ValueError: there is no run, or its config is not trusted.
    """

    def __init__(self, folder: Path, overrides: Sequence[str], num_images: int, seed: int) -> None:
        self.folder = folder
        self.run = RunFolder(folder)
        self.overrides = list(overrides)
        self.num_images = num_images
        self.seed = seed
        self.stored = load_run_config(folder, keys_of(self.overrides))  # as written, without the overrides

    @cached_property
    def about(self) -> dict[str, Any]:
        """The names of method and data, overrides and command, from run.json or else result.json."""
        unknown = {"method": "a run", "data": self.stored.data.name, "overrides": [], "command": ""}
        return unknown | {k: v for k, v in self.result.items() if k in unknown} | self.run.read_about()

    @cached_property
    def result(self) -> dict[str, Any]:
        """result.json; {} while the run is in training."""
        return self.run.read_result()

    @cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """metrics.csv: name -> (step, value) in the order of steps."""
        return self.run.read_metrics()

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The last checkpoint.

        Raises:
            ValueError: none was written yet.
        """
        if not self.run.checkpoint_files:
            raise ValueError("the run has written no checkpoint yet")
        return load_newest(self.run)

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Metrics, baselines and intervals of the last evaluation, from result.json or else the last checkpoint."""
        if self.result:
            return self.result
        try:
            return self.checkpoint["callbacks"].get("FrozenEvaluation", {})
        except (ValueError, KeyError):
            return {}

    @cached_property
    def loaded(self) -> tuple[DictConfig, SSLModule]:
        """The config with the overrides, and the module as the last checkpoint has it, in eval mode on its device."""
        assert self.checkpoint
        cfg, module = load_run(self.folder, self.overrides)
        return cfg, self._ready(cfg, module)

    def _ready(self, cfg: DictConfig, module: SSLModule) -> SSLModule:
        gpu = accelerator_of(cfg.trainer) == "gpu" and torch.cuda.is_available()
        return module.eval().requires_grad_(False).to("cuda" if gpu else "cpu")

    @property
    def cfg(self) -> DictConfig:
        """The config with the overrides."""
        return self.loaded[0]

    @property
    def module(self) -> SSLModule:
        """As the last checkpoint has it."""
        return self.loaded[1]

    @cached_property
    def data(self) -> DataModule:
        """The run's data."""
        return build_data(self.cfg, self.folder, resumed=True)  # what it has made lies in its folder

    @cached_property
    def train(self) -> Split:
        """N <= ``num_images / 2`` images of the train split, in memory."""
        return sampled(self.data.train, self.num_images // 2, self.seed)

    @cached_property
    def test(self) -> Split:
        """N <= ``num_images / 2`` images of the test split, in memory."""
        return sampled(self.data.test, self.num_images // 2, self.seed)

    @cached_property
    def train_x(self) -> Tensor:
        """Features of ``train``, [N, D]."""
        return refuse_non_finite(embedded(self.module, self.train), "the backbone's features", "train")

    @cached_property
    def test_x(self) -> Tensor:
        """Features of ``test``, [N, D]."""
        return refuse_non_finite(embedded(self.module, self.test), "the backbone's features", "test")

    @cached_property
    def untrained_x(self) -> Tensor:
        """Features of ``train`` by a network with the weights that the run's seed begins with, [N, D]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.cfg.seed)
            module = build_module(self.cfg, self.data.pretrain.labelled, self.data.pretrain.shape[0])
        return embedded(self._ready(self.cfg, module), self.train)

    def shown(self, images: Split, index: Tensor) -> list[Tensor | str]:
        """Samples at positions [n] as evaluation sees them, n pictures or words (see ``ViewMaker.picture``)."""
        clean = self.module.views.clean(images.rows[index].to(self.module.device))
        return [self.module.views.picture(one) for one in clean]


def sampled(images: Split, count: int, seed: int) -> Split:
    """``count`` images, or all if there are fewer, drawn once from the seed and left in their order, in memory."""
    total = len(images.rows)
    index = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values  # [n]
    label = None if images.label is None else images.label.cpu()[index]  # [n]
    beside = images.beside and {name: column.cpu()[index] for name, column in images.beside.items()}
    rows = chosen(images.rows, index.to(images.rows.device)).cpu()  # [n, ...]
    return Split(rows, label, images.classes, beside=beside, prompts=images.prompts)


@torch.no_grad()
def embedded(module: SSLModule, images: Split) -> Tensor:
    """Features of the student's backbone, [N, D] float32 on the CPU.

    Rank 0 alone draws pictures, so this is not ``extract``, in which every rank takes part.
    """
    device = module.device
    chunk = samples_at_once(images, device)
    parts = [images.rows[index] for index in torch.arange(images.shape[0]).split(chunk)]
    clean = (module.views.clean(part.to(device)) for part in parts)
    return torch.cat([module.student.embed(x).float().cpu() for x in clean])


def class_names(images: Split) -> list[str] | None:
    """The name of every class, its number where the source has no name; ``None`` without labels or for numbers."""
    if images.label is None or images.label.is_floating_point():
        return None
    count = max(len(images.classes), int(images.label.max()) + 1)
    return [images.classes[c] if c < len(images.classes) else str(c) for c in range(count)]
