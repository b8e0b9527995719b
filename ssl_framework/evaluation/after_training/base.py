"""Evaluations of a finished run: they train, or take longer than a training should wait for.

``python scripts/evaluate.py run=<folder> evaluation=<name>`` runs them; ``train.py`` refuses them, but for those that
``FrozenEvaluation`` may run at the end of a training.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from hydra.utils import get_class
from torch import Tensor

from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.distributed import world_size
from ssl_framework.evaluation.features import Bare, Splits
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.towers import Towers
from ssl_framework.module import SSLModule
from ssl_framework.runs.groups import files
from ssl_framework.runs.suggestions import choices, nodes_of, one_of, towers_of


class AfterRun(ABC):
    """What ``score_all`` calls instead of a ``FrozenEvaluation``. It leaves the module as it is.

    Args:
        protocol: name and version of its settings as they are shipped, such as "finetune/1".
    """

    images_shown: ClassVar[str]
    """What is trained and scored on, for the record of the protocol."""

    at_the_end: ClassVar[bool] = False
    """Whether a training may wait for it."""

    reads_objective: ClassVar[bool] = False
    """Whether it asks the objective, which an untrained model then has untrained, too."""

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

    def check_split(self, split: Split) -> None:  # noqa: B027
        """Is asked likewise of the test split; by default all is well.

        Raises:
            ValueError: the data lack what it reads.
        """

    def chance(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """What guesses would score, under the same names; by default nothing is known."""
        return {}

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


def two_towers(module: SSLModule | Bare, other: str, heads: Sequence[str], name: str) -> tuple[Encoder, Encoder]:
    """The main tower of a student and the one of another modality, both with these heads.

    Args:
        module: the model.
        other: the modality.
        heads: names.
        name: of the evaluation that needs them.

    Raises:
        ValueError: it lacks one of them.
    """
    student = module.student
    if not isinstance(student, Towers) or other not in student.towers:
        others = choices("method", lambda node: other in towers_of(node))
        raise ValueError(
            f"evaluation={name} compares pictures with {other}, but the student has no tower for {other}: choose "
            f"{others}evaluation=frozen"
        )
    found = student.main_tower, student.tower(other)
    for tower, modality in zip(found, (student.main, other), strict=True):
        if missing := [head for head in heads if head not in tower.heads]:
            raise ValueError(
                f"evaluation={name} reads {missing[0]}, but the tower for {modality} has no such head: choose another "
                "head, or evaluation=cross_modal"
            )
    return found


def main_of(module: SSLModule | Bare) -> str:
    """The main modality of a student of several towers."""
    student: Any = module.student
    return student.main


def asked_of(module: SSLModule | Bare, kind: Any, method: str, what: str) -> Any:
    """The objective of a module, if it can be asked for something.

    Args:
        module: the model.
        kind: a protocol, checkable at run time.
        method: that it names.
        what: is asked, as a sentence begins.

    Raises:
        ValueError: there is no objective, or it cannot.
    """
    objective = getattr(module, "objective", None)
    if not isinstance(objective, kind):
        name = "a backbone without a method" if objective is None else type(objective).__name__
        targets = {choice: node.get("objective", node)["_target_"] for choice, node in nodes_of("objective").items()}
        able = [choice for choice, target in targets.items() if hasattr(get_class(target), method)]
        others = one_of("method", [choice for choice in able if choice in files("method")])
        raise ValueError(f"{what}, which {name} does not: choose {others}evaluation=cross_modal")
    return objective
