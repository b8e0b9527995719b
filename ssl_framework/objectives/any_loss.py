"""AnyLoss: Han, Moniz and Chawla, AnyLoss: Transforming Classification Metrics into Loss Functions, KDD 2024
(arXiv:2405.14745): one minus a metric of the confusion matrix of one class against the rest, whose counts are made
differentiable by a steep sigmoid of the probabilities. For classes of which one is rare.

B samples of this rank, W ranks.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.arguments import Natural, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

EPSILON = 1e-5
"""In denominators; the authors' code."""


class Confusion(NamedTuple):
    """Soft counts, scalars."""

    true_positive: Tensor
    false_positive: Tensor
    false_negative: Tensor
    true_negative: Tensor


@guarded
class AnyLoss(Objective):
    """The metric is that of the global batch, over all views.

    Args:
        positive: number of the class that is told from the rest.
        metric: "f_beta", "gmean2" (the square of the geometric mean of both recalls) or "balanced_accuracy".
        beta: of ``f_beta``: how many times recall counts as much as precision.
        amplification: L of ``1 / (1 + exp(-L (p - 0.5)))``.
        head: name of the student's classifier of two scores, the rest and the class.

    Raises:
        ValueError: there is no such metric.
    """

    requires = frozenset({"label"})
    num_views = (1, None)

    def __init__(
        self, positive: Natural, metric: str, beta: Positive, amplification: Positive, head: str = "detector"
    ) -> None:
        super().__init__()
        if metric not in METRICS:
            raise ValueError(f"objective.metric is {metric}: choose one of {', '.join(METRICS)}")
        self.positive = positive
        self.metric = METRICS[metric]
        self.beta = beta
        self.amplification = amplification
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        views = outputs_of(student, self.head)  # V x [B, 2]
        assert batch.label is not None
        probability = full_precision(torch.cat(views)).softmax(dim=1)[:, 1]  # [V * B]
        found = amplified(gather_with_grad(probability), self.amplification)  # [W * V * B]
        label = gather((batch.label == self.positive).repeat(len(views)))  # [W * V * B]
        loss = 1 - self.metric(confusion(found, label.to(found.dtype)), self.beta)
        return {"loss": loss, "answered_yes": found.detach().mean()}  # 0: the detector has fallen silent


def amplified(probability: Tensor, amplification: float) -> Tensor:
    """Probabilities [N] nearer to 0 and 1, without reaching them."""
    return (amplification * (probability - 0.5)).sigmoid()


def confusion(probability: Tensor, label: Tensor) -> Confusion:
    """Soft counts of probabilities [N] of the positive class and labels [N] in {0, 1}."""
    positive, negative = label * probability, (1 - label) * probability  # [N] each
    return Confusion(positive.sum(), negative.sum(), (label - positive).sum(), (1 - label - negative).sum())


def f_beta(counts: Confusion, beta: float) -> Tensor:
    """``(1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP)``, in [0, 1]."""
    hits = (1 + beta**2) * counts.true_positive
    return hits / (hits + beta**2 * counts.false_negative + counts.false_positive + EPSILON)


def gmean2(counts: Confusion, beta: float) -> Tensor:
    """The product of the recalls of the class and of the rest, in [0, 1]; 0 where the batch lacks one of them."""
    tp, fp, fn, tn = counts
    return tp * tn / ((tp + fn) * (tn + fp) + EPSILON)


def balanced_accuracy(counts: Confusion, beta: float) -> Tensor:
    """The mean of the recalls of the class and of the rest, in [0, 1]; 0 where the batch lacks one of them."""
    tp, fp, fn, tn = counts
    return (tp * (tn + fp) + tn * (tp + fn)) / (2 * (tp + fn) * (tn + fp) + EPSILON)


METRICS: dict[str, Callable[[Confusion, float], Tensor]] = {
    "f_beta": f_beta,
    "gmean2": gmean2,
    "balanced_accuracy": balanced_accuracy,
}
"""Of soft counts and beta, which only the first reads."""
