"""Probes for labels that are numbers: ridge regression and k-NN regression on frozen features.

Each probe gives three metrics: ``mae``, the mean absolute error in units of the label; ``r2``, one minus the squared
error over that of the mean of the test split, at most 1; ``spearman``, the rank correlation in [-1, 1], which does not
ask for the right scale.

N samples of the train split, M of the test split, D features, L penalties.
"""

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, OpenFraction, Positive, Seed, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.knn import neighbours, within
from ssl_framework.evaluation.probes.text_similarity import spearman as correlation


@guarded
class Ridge:
    """Ridge regression on standardised features, in closed form and float64.

    The penalty is chosen on a part of the train split that was held out; the regression is then fitted on all of the
    train split, and the test split is scored once.

    Args:
        penalties: to choose from, lambda in ``mean (y - a - x w)^2 + lambda |w|^2``.
        held_out: share of the train split the penalty is chosen on, in (0, 1).
        seed: of the held-out part.
    """

    def __init__(self, penalties: Annotated[Sequence[Positive], Len(1)], held_out: OpenFraction, seed: Seed) -> None:
        self.penalties = [float(penalty) for penalty in penalties]
        self.held_out = held_out
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """The metrics, named ``ridge[penalty=auto]/mae`` and so on, and the penalty that was chosen."""
        if not vary(train, test, "ridge regression"):
            return {}
        order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(self.seed))  # [N]
        cut = min(max(1, round(self.held_out * len(order))), len(order) - 1)
        held, kept = order[:cut], order[cut:]
        tried = ridge(train.x[kept], train.y[kept], self.penalties, train.x[held])  # [L, held]
        chosen = self.penalties[int((tried - train.y[held]).square().mean(dim=1).argmin())]
        (predicted,) = ridge(train.x, train.y, [chosen], test.x)  # [M]
        name = "ridge[penalty=auto]"
        return {**scores(name, predicted, test.y), f"{name}/penalty": chosen}


@guarded
class KNNRegression:
    """The mean number of the nearest neighbours by cosine similarity; the bank is the train split.

    Args:
        k: neighbours, or several numbers of them (each has metrics of its own).
        chunk: test rows compared with the bank at once; memory is chunk x N floats, about twice.
    """

    def __init__(self, k: Count | Annotated[Sequence[Count], Len(1)], chunk: Count = 1024) -> None:
        self.ks = [k] if isinstance(k, int) else list(k)
        self.chunk = chunk

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """The metrics for each k, named ``knn[k=20]/mae`` and so on.

        A k larger than the bank is left out, with one warning that says so.
        """
        ks = within(self.ks, len(train.x))
        if not ks or not vary(train, test, "k-NN regression"):
            return {}
        near = [train.y[row].double() for _, row in neighbours(train.x, test.x, max(ks), self.chunk)]  # [m, k] each
        number = torch.cat(near)  # [M, k]
        found: dict[str, float] = {}
        for k in ks:
            found |= scores(f"knn[k={k}]", number[:, :k].mean(dim=1), test.y)
        return found


def vary(train: Frozen, test: Frozen, name: str) -> bool:
    """Whether the numbers of both splits differ among themselves; else warns in one line that ``name`` is skipped."""
    constant = [split for split, part in (("train", train), ("test", test)) if part.y.min() == part.y.max()]
    if constant:
        warnings.warn(f"{name} skipped: the labels of the {constant[0]} split are all the same number")
    return not constant


def ridge(x: Tensor, y: Tensor, penalties: Sequence[float], at: Tensor) -> Tensor:
    """Ridge regression with intercept on features standardised by ``x``.

    Args:
        x: [N, D] features.
        y: [N] numbers.
        penalties: lambda of ``mean (y - a - x w)^2 + lambda |w|^2``, each above 0.
        at: [M, D] features whose numbers are predicted.

    Returns:
        [L, M] float64.
    """
    mean, std = x.double().mean(dim=0), x.double().std(dim=0, correction=0)  # [D] each
    std = torch.where(std > 1e-6 * std.max().clamp(min=1e-12), std, torch.ones_like(std))  # dead features stay dead
    x, at, level = (x.double() - mean) / std, (at.double() - mean) / std, y.double().mean()
    y = y.double() - level
    wide = x.shape[1] > len(x)  # then the system of the samples is the smaller one, with the same solution
    system = (x @ x.T if wide else x.T @ x) / len(x)  # [E, E], E = min(N, D)
    right = (y if wide else x.T @ y)[:, None] / len(x)  # [E, 1]
    identity = torch.eye(len(system), dtype=torch.float64)  # [E, E]
    predicted = []
    for penalty in penalties:
        solution = torch.cholesky_solve(right, torch.linalg.cholesky(system + penalty * identity))  # [E, 1]
        weight = x.T @ solution if wide else solution  # [D, 1]
        predicted.append((at @ weight)[:, 0] + level)  # [M]
    return torch.stack(predicted)  # [L, M]


def scores(name: str, predicted: Tensor, y: Tensor) -> dict[str, float]:
    """``<name>/mae``, ``<name>/r2`` and ``<name>/spearman`` of predictions [M] for numbers [M], not all equal."""
    error, y = predicted - y.double(), y.double()
    return {
        f"{name}/mae": error.abs().mean().item(),
        f"{name}/r2": 1 - (error.square().sum() / (y - y.mean()).square().sum()).item(),
        f"{name}/spearman": spearman(predicted, y),
    }


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of the ranks of two [M], equal values sharing the mean of theirs; 0 where one of them is constant and
    so ranks nothing."""
    constant = bool((a == a[0]).all() | (b == b[0]).all())
    return 0.0 if constant else correlation(a, b)
