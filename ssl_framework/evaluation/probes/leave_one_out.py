"""k-NN whose k is chosen on the train split, where every sample is classified by the others.

N samples of the train split, M of the test split, D features.
"""

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite
from ssl_framework.evaluation.probes.knn import KNN, neighbours


@guarded
class LeaveOneOut:
    """The weighted vote of ``KNN`` (Wu et al., arXiv:1805.01978), with the k of the best accuracy on the train split.

    There a sample votes on all others but not on itself. The test split is scored once, with that k. Of equally good k
    the smallest is taken. Cost: N^2 D for the choice, N M D for the score.

    Args:
        k: to choose from.
        temperature: T.
        chunk: rows compared with the bank at once; memory is chunk x N floats, about twice.
    """

    def __init__(self, k: Annotated[Sequence[Count], Len(1)], temperature: Positive, chunk: Count = 1024) -> None:
        self.ks = sorted(k)
        self.temperature = temperature
        self.chunk = chunk

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent, named ``knn[k=loo,T=0.1]/top1``, and the k that was chosen, ``.../k``.

        A k that is not below N is left out, with one warning that says so.
        """
        if not are_finite("k-NN with k by leave-one-out", train, test):
            return {}
        chosen, _ = self.choose(train)
        if chosen is None:
            return {}
        (top1,) = KNN(chosen, self.temperature, self.chunk)(train, test).values()
        return {f"{self.name}/top1": top1, f"{self.name}/k": float(chosen)}

    @property
    def name(self) -> str:
        """What metrics begin with."""
        return f"knn[k=loo,T={self.temperature:g}]"

    def choose(self, train: Frozen) -> tuple[int | None, float]:
        """The k of the best accuracy on the train split, and that accuracy in percent; ``None`` where there is none."""
        if not are_classes(train.y, "k-NN with k by leave-one-out"):
            return None, 0.0
        count = len(train.x)
        if left_out := [k for k in self.ks if k >= count]:
            warnings.warn(f"k-NN with k={left_out} skipped: a sample of the train split has only {count - 1} others")
        ks = [k for k in self.ks if k < count]
        if not ks:
            return None, 0.0
        right = self.right(ks, train)
        chosen = max(right, key=lambda k: (right[k], -k))
        return chosen, 100 * right[chosen] / count

    def right(self, ks: Sequence[int], train: Frozen) -> dict[int, int]:
        """For each k, below N: how many samples of the train split the others classify right."""
        hits = dict.fromkeys(ks, 0)
        classes, start = int(train.y.max()) + 1, 0
        for similarity, row in neighbours(train.x, train.x, max(ks) + 1, self.chunk):
            y = train.y[start : start + len(row)]  # [m]
            own = torch.arange(start, start + len(row))[:, None]  # [m, 1]
            start += len(row)
            # The sample itself goes last and is cut off; among many equal rows it may be absent, and another goes.
            order = (row == own).int().argsort(dim=1, stable=True)[:, :-1]  # [m, k]
            similarity, row = similarity.gather(1, order), row.gather(1, order)  # [m, k] each
            weight = ((similarity - similarity[:, :1]) / self.temperature).exp()  # [m, k]
            for k in ks:
                votes = torch.zeros(len(y), classes)  # [m, classes]
                votes.scatter_add_(1, train.y[row[:, :k]], weight[:, :k])
                hits[k] += int((votes.argmax(dim=1) == y).sum())
        return hits


@guarded
class TrainLeaveOneOut:
    """The choice of ``LeaveOneOut`` alone: a measure of the train split, for who chooses settings and leaves the test
    split alone. Being the best of several k, it is no estimate of the accuracy on new images.

    Args:
        k: to choose from.
        temperature: T.
        chunk: rows compared with the bank at once.
    """

    def __init__(self, k: Annotated[Sequence[Count], Len(1)], temperature: Positive, chunk: Count = 1024) -> None:
        self.probe = LeaveOneOut(k, temperature, chunk)

    def __call__(self, train: Frozen) -> dict[str, float]:
        """Top-1 accuracy on the train split in percent, named ``knn[k=loo,T=0.1]/train_top1``; needs labels."""
        if train.y is None:
            warnings.warn("k-NN by leave-one-out skipped: the train split has no labels")
            return {}
        chosen, top1 = self.probe.choose(train)
        return {} if chosen is None else {f"{self.probe.name}/train_top1": top1}
