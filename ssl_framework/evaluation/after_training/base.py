"""Evaluations of a finished run: they train, or take longer than a training should wait for.

``python scripts/evaluate.py run=<folder> evaluation=<name>`` runs them; ``train.py`` refuses them, but for those that
``FrozenEvaluation`` may run at the end of a training.
"""

import copy
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ssl_framework.data.datamodule import DataModule
from ssl_framework.distributed import world_size
from ssl_framework.evaluation.features import Bare, Splits
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule


class AfterRun(ABC):
    """What ``score_all`` calls instead of a ``FrozenEvaluation``. It leaves the module as it is.

    Args:
        protocol: name and version of its settings as they are shipped, such as "finetune/1".
    """

    images_shown: ClassVar[str]
    """What is trained and scored on, for the record of the protocol."""

    at_the_end: ClassVar[bool] = False
    """Whether a training may wait for it."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol

    @property
    def name(self) -> str:
        """As ``evaluation=<name>`` says it."""
        return self.protocol.split("/")[0]

    def check(self, module: SSLModule | Bare) -> None:  # noqa: B027
        """Is asked before a training begins that ends with it, so that nobody trains in vain; by default all is well.

        Raises:
            ValueError: it cannot be done with a student like this one.
        """

    def score_module(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """All metrics of a student, on the device of the module: metric -> value, an ``Accuracy`` where every
        test sample was scored once.

        Raises:
            ValueError: it cannot be done with this module or these data, or there are several processes.
        """
        if world_size() > 1:
            raise ValueError(
                f"evaluation={self.name} runs in one process, but there are {world_size()}: set trainer.devices=1"
            )
        return self.score(module, data)

    @abstractmethod
    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """As ``score_module``, in the only process."""


def clean(module: SSLModule | Bare, images: Tensor) -> Tensor:
    """Uint8 images [B, C, H, W] as evaluators show them to the module's encoders: [B, C', h, w] float32."""
    return module.views.clean(images)


def frozen_copy(module: SSLModule | Bare) -> Encoder:
    """The student in eval mode and without gradients; changing it does not change the module."""
    return copy.deepcopy(module.student).eval().requires_grad_(False)
