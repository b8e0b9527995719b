"""What the layers of a frozen backbone know together: features behind several blocks, and what probes make of them.

L layers, N train and M test samples, D_l features of layer l.
"""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Protocol

import torch
from annotated_types import Interval, Len
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun, clean, frozen_copy
from ssl_framework.evaluation.features import Bare, Frozen, Splits, extract, refuse_non_finite
from ssl_framework.models.base import layered
from ssl_framework.module import SSLModule
from ssl_framework.objectives.contrastive_entropy import pooled

KEY = "evaluation.blocks"
"""Of the config, for errors."""


Position = Annotated[int, Interval(ge=-1000, le=1000)]
"""Of a block: more than any network has, so that the sentence about the network comes from it."""


class LayerProbe(Protocol):
    """Fits on the layers of train, scores those of test, first to last: L x [N, D_l] and L x [M, D_l]."""

    def __call__(self, train: Sequence[Frozen], test: Sequence[Frozen]) -> dict[str, float]:
        """Metric (with its protocol in its name) -> value."""
        ...


@guarded
class Layers(AfterRun):
    """Asks every probe about the mean over places of what some blocks give, of clean samples.

    Args:
        protocol: see ``AfterRun``.
        blocks: positions of the blocks, first to last: 1 is the first, -1 the last.
        probes: name -> probe.
    """

    images_shown = "clean train and test images; the outputs of several blocks, each the mean over places"
    at_the_end = True

    def __init__(
        self, protocol: str, blocks: Annotated[Sequence[Position], Len(2)], probes: Mapping[str, LayerProbe | None]
    ) -> None:
        super().__init__(protocol)
        self.blocks = list(blocks)
        self.probes = {name: probe for name, probe in probes.items() if probe is not None}

    def check(self, module: SSLModule | Bare) -> None:
        backbone = layered(module.student.backbone, KEY)
        for number in self.blocks:
            backbone.block(number, KEY)

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """What all probes say; nothing, with a warning, without labels.

        Raises:
            ValueError: the backbone has no such blocks.
        """
        if not data.has_labels:
            warnings.warn(f"evaluation={self.name} skipped: it needs labels and a test split, which these data lack")
            return {}
        splits = [self.layers(module, split, name) for name, split in (("train", data.train), ("test", data.test))]
        return {name: value for probe in self.probes.values() for name, value in probe(*splits).items()}

    def layers(self, module: SSLModule | Bare, split: Split, which: str) -> list[Frozen]:
        """Features of every block, L x [N, D_l], with the labels."""
        student = frozen_copy(module)
        backbone = layered(student.backbone, KEY)
        blocks = [backbone.block(number, KEY) for number in self.blocks]
        widths: list[int] = []

        def embed(x: Tensor) -> Tensor:
            found: dict[int, Tensor] = {}
            with contextlib.ExitStack() as looking:
                for number, block in enumerate(blocks):
                    looking.enter_context(backbone.changed_at(block, partial(found.__setitem__, number)))
                student.backbone(clean(module, x))
            parts = [pooled(found[number]) for number in range(len(blocks))]  # L x [B, D_l]
            widths[:] = [part.shape[1] for part in parts]
            return torch.cat(parts, dim=1)  # [B, sum of D_l]

        joint = refuse_non_finite(extract(embed, split, module.device), "the outputs of blocks", which)
        assert split.label is not None
        return [Frozen(x.contiguous(), split.label.cpu()) for x in joint.split(widths, dim=1)]
