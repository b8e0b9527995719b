"""What features are worth when few labels are known: a linear probe on a share of the labels, or on some of each class.

N samples of the train split, M of the test split, D features, C classes; an episode has W ways, K shots, Q queries.
"""

import statistics
import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, PositiveFraction, Repeats, Seed, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite
from ssl_framework.evaluation.probes.linear import LinearProbe


@guarded
class FewLabels:
    """The linear probe fitted on a share of the train labels, the same share of every class.

    The protocol of 1 % and 10 % of the labels of Chen et al., SimCLR, ICML 2020 (arXiv:2002.05709), but with a linear
    probe on frozen features where they fine-tune the network. A smaller share is a part of the larger ones. Cost: that
    of the linear probe on so many rows, for each share.

    Args:
        shares: of the labels, each in (0, 1].
        linear: the linear probe.
        seed: of which labels are kept.
    """

    def __init__(self, shares: Annotated[Sequence[PositiveFraction], Len(1)], linear: LinearProbe, seed: Seed) -> None:
        self.shares = list(shares)
        self.linear = linear
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent for each share, named ``linear[labels=1%,l2=0.0001]/top1``."""
        if not (
            are_classes(train.y, "the linear probe on few labels")
            and are_finite("the linear probe on few labels", train, test)
        ):
            return {}
        classes = drawn_by_class(train.y, self.seed)
        if len(classes) < 2:
            warnings.warn("the linear probe on few labels skipped: the train split has only one class")
            return {}
        found = {}
        for share in self.shares:
            kept = torch.cat([rows[: max(1, round(share * len(rows)))] for rows in classes])  # [n]
            (top1,) = self.linear(Frozen(train.x[kept], train.y[kept]), test).values()
            found[f"linear[labels={100 * share:g}%,l2={self.linear.weight_decay:g}]/top1"] = top1
        return found


@guarded
class LabelDraws:
    """The linear probe fitted on a few labels of every class, several times on other ones.

    The protocol of node classification, 20 labels a class and the mean over draws (Shchur et al., Pitfalls of Graph
    Neural Network Evaluation, 2018, arXiv:1811.05868, section 3), but every draw is scored on the whole test split.
    Cost: that of the linear probe on so few rows, for each draw.

    Args:
        labels: of each class; one of fewer gives all it has.
        draws: of them.
        linear: the linear probe.
        seed: of the first draw; the next ones have the next seeds.
    """

    def __init__(self, labels: Count, draws: Repeats, linear: LinearProbe, seed: Seed) -> None:
        self.labels = labels
        self.draws = draws
        self.linear = linear
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Percent: the mean, ``linear[labels=20,draws=20,l2=0.01]/top1``, and ``/spread``, the standard deviation."""
        what = "the linear probe on draws of labels"
        if not (are_classes(train.y, what) and are_finite(what, train, test)):
            return {}
        if len(train.y.unique()) < 2:
            warnings.warn(f"{what} skipped: the train split has only one class")
            return {}
        found = []
        for draw in range(self.draws):
            kept = torch.cat([rows[: self.labels] for rows in drawn_by_class(train.y, self.seed + draw)])  # [n]
            (top1,) = self.linear(Frozen(train.x[kept], train.y[kept]), test).values()
            found.append(float(top1))
        name = f"linear[labels={self.labels},draws={self.draws},l2={self.linear.weight_decay:g}]"
        spread = statistics.stdev(found) if self.draws > 1 else 0.0
        return {f"{name}/top1": statistics.mean(found), f"{name}/spread": spread}


def rows_by_class(y: Tensor) -> list[Tensor]:
    """The rows of each class that occurs in labels [N], in the order of the classes: int64 tensors."""
    return list(y.argsort(stable=True).split(y.unique(return_counts=True)[1].tolist()))


def drawn_by_class(y: Tensor, seed: int) -> list[Tensor]:
    """As ``rows_by_class``, each class in an order drawn with ``seed``: its first n rows are a sample of n."""
    generator = torch.Generator().manual_seed(seed)
    return [rows[torch.randperm(len(rows), generator=generator)] for rows in rows_by_class(y)]
