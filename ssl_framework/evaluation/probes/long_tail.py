"""What features are worth when the labels are few for some classes and many for others.

L samples of the train split's largest class, n of its long-tailed part, M of the test split, D features, C classes.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ssl_framework.arguments import AtLeastOne, Count, Seed, guarded
from ssl_framework.data.labels import long_tail_sizes
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite, right
from ssl_framework.evaluation.probes.few_labels import drawn_by_class


class Answering(Protocol):
    """A probe whose answers can be had one by one: ``KNN`` or ``LinearProbe``."""

    def answers(self, train: Frozen, x: Tensor) -> dict[str, Tensor]: ...


@guarded
class LongTail:
    """Probes fitted on a long-tailed part of the train split, scored apart for classes with many and with few samples.

    The groups of Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019 (arXiv:1904.05160): many
    shots, medium and few, by the number of training samples of the class. The part has the exponential profile of Cui
    et al., Class-Balanced Loss, CVPR 2019 (arXiv:1901.05555): of C classes in the order of the labels, class c from 0
    keeps ``floor(L imbalance^(-c / (C - 1)))`` samples, or all it has if these are fewer. Which they are is drawn once:
    a larger imbalance keeps a part of what a smaller one does. Only the labels of the probes are long-tailed:
    pretraining has seen all images, and the test split stays whole.

    A group's accuracy is over its test samples; it is the mean over classes of Liu et al. where the test split is
    balanced. Cost: that of the probes on n rows.

    Args:
        imbalance: samples of the largest class over those of the smallest, at least 1; None: the train split as it is.
        many: a class with more training samples than this is of the group many.
        few: one with fewer than this is of the group few.
        probes: name -> probe.
        seed: of which samples are kept.
    """

    def __init__(
        self, imbalance: AtLeastOne | None, many: Count, few: Count, probes: Mapping[str, Answering | None], seed: Seed
    ) -> None:
        if not 1 <= few <= many:
            raise ValueError(
                f"evaluation.probes.long_tail has few={few}, many={many}: few must be at least 1 and at most many"
            )
        self.imbalance = imbalance
        self.many = many
        self.few = few
        self.probes = {name: probe for name, probe in probes.items() if probe is not None}
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent over all test samples, ``linear[l2=0.0001,imbalance=100]/top1``, and over those of
        a group, ``linear[l2=0.0001,imbalance=100,many=101+]/top1``, ``medium=20-100`` and ``few=0-19``.

        Groups without test samples are left out, with one warning that names them.
        """
        if not (are_classes(train.y, "the long tail") and are_finite("the long tail", train, test)):
            return {}
        classes = drawn_by_class(train.y, self.seed)
        largest = max(len(rows) for rows in classes)
        if len(classes) < 2:
            warnings.warn("the long tail skipped: the train split has only one class")
            return {}
        if self.imbalance is not None and self.imbalance > largest:
            warnings.warn(
                f"the long tail skipped: the largest class has {largest} samples, too few for imbalance="
                f"{self.imbalance:g}: set evaluation.probes.long_tail.imbalance to at most {largest}"
            )
            return {}
        kept = torch.cat([rows[:size] for rows, size in zip(classes, self.sizes(classes), strict=True)])  # [n]
        part = Frozen(train.x[kept], train.y[kept])
        own = "own" if self.imbalance is None else f"{self.imbalance:g}"
        groups = {"": torch.ones_like(test.y, dtype=torch.bool)} | self.groups(part.y, test.y)  # [M] bool each
        if empty := [name.split("=")[0] for name, rows in groups.items() if not rows.any()]:
            warnings.warn(f"the long tail: no test sample is of a class of the group {' or '.join(empty)}")
        found: dict[str, float] = {}
        for probe in self.probes.values():
            for name, answer in probe.answers(part, test.x).items():
                for group, rows in groups.items():
                    if rows.any():
                        in_brackets = f"{name.removesuffix(']')},imbalance={own}{group and ','}{group}]"
                        found[f"{in_brackets}/top1"] = right(answer[rows], test.y[rows])
        return found

    def sizes(self, classes: Sequence[Tensor]) -> list[int]:
        """How many samples each class keeps, at least one."""
        sizes = [len(rows) for rows in classes]
        return sizes if self.imbalance is None else long_tail_sizes(sizes, self.imbalance)

    def groups(self, train_y: Tensor, test_y: Tensor) -> dict[str, Tensor]:
        """Which test samples [M] are of each group, by the number of samples of their class among [n] labels."""
        classes = int(torch.cat([train_y, test_y]).max()) + 1
        count = torch.bincount(train_y, minlength=classes)[test_y]  # [M]
        return {
            f"many={self.many + 1}+": count > self.many,
            f"medium={self.few}-{self.many}": (count >= self.few) & (count <= self.many),
            f"few=0-{self.few - 1}": count < self.few,
        }
