"""What probes share: what counts as right, moments of features, checks of settings."""

import warnings

import torch
from torch import Tensor

from ssl_framework.evaluation.features import Accuracy, Frozen


def right(answer: Tensor, y: Tensor) -> Accuracy:
    """Top-1 of answers [M] to samples of the classes [M]."""
    return Accuracy(int((answer == y).sum()), len(y))


def are_classes(y: Tensor, name: str) -> bool:
    """Whether labels [N] are classes; where they are numbers, warns in one line that the probe ``name`` is skipped."""
    if y.is_floating_point():
        warnings.warn(f"{name} skipped: it needs classes, but the labels are numbers: choose evaluation=regression")
    return not y.is_floating_point()


def are_finite(name: str, *parts: Frozen) -> bool:
    """Whether all features of the splits are finite; where not, warns in one line that the probe ``name`` is skipped.

    A row of NaN would count as an answer like any other, and the score look like chance.
    """
    finite = all(bool(part.x.isfinite().all()) for part in parts)
    if not finite:
        warnings.warn(f"{name} skipped: some features are not finite")
    return finite


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and standard deviation [D] of features [N, D], float32; 1 for a feature that does not vary."""
    mean, std = x.float().mean(dim=0), x.float().std(dim=0)  # [D] each
    return mean, torch.where(std > 1e-6 * std.max().clamp(min=1e-12), std, torch.ones_like(std))


def accuracies(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Share of right answers of L classifiers: [L, classes, D], [L, classes], [M, D], [M] -> [L]."""
    predicted = torch.einsum("md,lcd->mlc", x, weight).add_(bias).argmax(dim=2)  # [M, L]
    return (predicted == y[:, None]).float().mean(dim=0)
