"""A linear classifier that is trained along with the encoder, on the features that its steps compute anyway."""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ssl_framework.arguments import BelowOne, NonNegative, Positive, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.distributed import gather
from ssl_framework.evaluation.features import Accuracy, Frozen
from ssl_framework.module import SSLModule
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Outputs


@guarded
class OnlineLinear(L.Callback):
    """Softmax regression by SGD on the pooled features of each step's first clean view, which get no gradient from it.

    As the online classifiers of SimCLR's authors' code and of solo-learn. It sees augmented views, in train mode, of an
    encoder that moves: cheap and early, and no measure to compare encoders by; the probes are that. Weights start at
    zero, nothing is drawn at random, and all ranks make the step of the global batch. Cost: one product of
    [B, D] x [D, classes] and its gradient a step; memory the weights twice.

    Args:
        lr: learning rate, the same at every step, whatever the batch size.
        momentum, weight_decay: of SGD, on weights and biases.

    As a probe it scores the test features of an evaluation, extracted from clean images in eval mode.
    """

    def __init__(self, lr: Positive, momentum: BelowOne, weight_decay: NonNegative) -> None:
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.weight = torch.zeros(0, 1)  # [classes, D + 1], the bias last; known at ``setup``
        self.speed = torch.zeros(0, 1)  # [classes, D + 1]
        self._hook: RemovableHandle | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "speed": self.speed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight, self.speed = state["weight"], state["speed"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, SSLModule)
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        check_clean_view(pl_module)
        self.weight = torch.zeros(count_classes(data), pl_module.student.dims["pooled"] + 1)  # [classes, D + 1]
        self.speed = torch.zeros_like(self.weight)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weight, self.speed = self.weight.to(pl_module.device), self.speed.to(pl_module.device)
        assert isinstance(pl_module, SSLModule)
        # Of the objective, not of the backbone: there the outputs have views and samples again, also of a batch that
        # was encoded in parts, and what mixers and evaluators ask the encoder does not come by.
        self._hook = pl_module.objective.register_forward_hook(self._learn_from)

    def _learn_from(self, objective: Objective, inputs: Any, losses: Any) -> None:
        student, _, batch, _ = inputs
        assert batch.label is not None
        label = gather(batch.label)  # [W * B]
        self.learn(gather(first_clean(student, batch))[label >= 0], label[label >= 0])  # -1: not told (labels=partial)

    @torch.no_grad()
    def learn(self, x: Tensor, y: Tensor) -> None:
        """One step of SGD: features [W * B, D] and classes [W * B]. Changes weights and speed."""
        rows = F.pad(x.float(), (0, 1), value=1.0)  # [W * B, D + 1]: the bias is the weight of a constant
        right = y[:, None] == torch.arange(len(self.weight), device=y.device)  # [W * B, classes]
        error = (rows @ self.weight.T).softmax(dim=1) - right.float()  # [W * B, classes]: of the mean cross-entropy
        gradient = (
            (error.T @ rows).div_(max(1, len(rows))).add_(self.weight, alpha=self.weight_decay)
        )  # [classes, D + 1]
        self.speed.mul_(self.momentum).add_(gradient)
        self.weight.sub_(self.speed, alpha=self.lr)

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy on test in percent, named ``online_linear[lr=0.1]/top1``; nothing is fitted on ``train``."""
        weight = self.weight.cpu()
        predicted = F.linear(test.x.float(), weight[:, :-1], weight[:, -1]).argmax(dim=1)  # [M]
        return {f"online_linear[lr={self.lr:g}]/top1": Accuracy(int((predicted == test.y).sum()), len(test.y))}

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None


def first_clean(student: list[Outputs | None], batch: Batch) -> Tensor:
    """Pooled features of the first view that the student has seen whole, as it was: [B, D], without gradient."""
    mixes = batch.mix or [None] * len(student)
    seen = zip(student, mixes, strict=True)
    return next(
        view["pooled"].detach() for view, mix in seen if view is not None and mix is None and "mask" not in view
    )


def check_clean_view(module: SSLModule) -> None:
    """Raises ValueError if the student sees mixtures alone, or evaluators read other features than the classifier."""
    encoded = range(module.views.num_views) if module.student_views is None else module.student_views
    mixer = module.mixer
    if mixer is not None and not mixer.add and set(encoded) <= set(mixer.views):
        raise ValueError(
            f"evaluation.online_linear learns from a clean view, but {type(mixer.rule).__name__} mixes every view that "
            f"the student encodes ({list(encoded)}): set evaluation=frozen, mixer=none or other mixer.views"
        )
    if module.masker is not None and set(encoded) <= set(module.masker.grids):
        raise ValueError(
            f"evaluation.online_linear learns from a whole view, but {type(module.masker).__name__} hides patches of "
            f"every view that the student encodes ({list(encoded)}): set evaluation=frozen"
        )
    if module.student.scored != ("pooled",) or module.student.earlier:
        raise ValueError(
            "evaluation.online_linear reads pooled features, but evaluators read those of student.scored and "
            "student.earlier: set evaluation=frozen"
        )


def count_classes(data: DataModule) -> int:
    """One more than the highest label of all splits.

    Raises:
        ValueError: a split has no labels, or they are numbers.
    """
    splits = {"pretraining": data.pretrain, "train": data.train, "test": data.test}
    if missing := [name for name, split in splits.items() if not split.labelled]:
        raise ValueError(
            f"evaluation.online_linear needs labels, but the {' and the '.join(missing)} split has none: set "
            "evaluation=frozen or choose another data set"
        )
    labels = [split.label for split in splits.values() if isinstance(split, Split) and split.label is not None]
    if any(label.is_floating_point() for label in labels):
        raise ValueError(
            "evaluation.online_linear needs classes, but the labels are numbers: set evaluation=regression"
        )
    return 1 + max(int(label.max()) for label in labels)
