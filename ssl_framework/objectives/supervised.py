"""Cross-entropy of a classifier, the supervised reference; with a mixer that of mixtures: Zhang et al., mixup: Beyond
Empirical Risk Minimization, ICLR 2018 (arXiv:1710.09412), section 2.

The target of a clean view is its class; that of a mixture holds the share of every class that is in it.

B samples of this rank, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import BelowOne, Classes, guarded
from ssl_framework.mixers.targets import class_targets
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Clock, Mix, Outputs


@guarded
class Supervised(Objective):
    """Mean cross-entropy over the views and mixtures that the student has encoded.

    Args:
        num_classes: C, of the training set.
        label_smoothing: share of every target that is spread over all classes, in [0, 1).
        head: name of the student's classifier.
    """

    requires = frozenset({"label"})
    accepts = frozenset({"mixer", "added mixtures"})
    num_views = (1, None)

    def __init__(self, num_classes: Classes, label_smoothing: BelowOne, head: str = "classifier") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        clean, mixed = clean_and_mixed(student, batch, self.head)
        assert batch.label is not None and self.num_classes is not None
        losses = []
        for logits, mix in [*((logits, None) for logits in clean), *mixed]:
            targets = class_targets(mix, batch.label, self.num_classes)  # [B, C]
            losses.append(cross_entropy(logits, targets, self.label_smoothing).mean())
        return {"loss": torch.stack(losses).mean(), **accuracy(clean, batch.label)}


def clean_and_mixed(
    student: list[Outputs | None], batch: Batch, head: str
) -> tuple[list[Tensor], list[tuple[Tensor, Mix]]]:
    """Class scores [B, C] of every clean view, and those of every mixture, be it in a view's place or beside it."""
    mixes = batch.mix or [None] * len(student)
    seen = [(view[head], mix) for view, mix in zip(student, mixes, strict=True) if view is not None]
    return [z for z, mix in seen if mix is None], [(z, mix) for z, mix in seen if mix is not None]


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``-sum_c t_c log p_c``, with ``t = (1 - s) targets + s / C``.

    Args:
        logits: [B, C] class scores.
        targets: [B, C], rows sum to one.
        label_smoothing: s.

    Returns:
        [B].
    """
    return F.cross_entropy(logits, targets.to(logits.dtype), reduction="none", label_smoothing=label_smoothing)


def accuracy(clean: list[Tensor], label: Tensor) -> dict[str, Tensor]:
    """``accuracy``, the share of right answers on clean views, V x [B, C]; nothing where every view is mixed."""
    if not clean:
        return {}
    return {"accuracy": (torch.stack(clean).argmax(dim=2) == label).float().mean()}
