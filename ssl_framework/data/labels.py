"""Which training samples have a label, and how many of each class there are: what semi-supervised and long-tailed
learning begin with. Evaluators' own splits keep all samples and labels.

A choice of ``labels`` is any callable Split -> Split; it changes the pretraining split before anything else reads it.

N samples, C classes, n_c of class c.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ssl_framework.arguments import AtLeastOne, Count, Fraction, Natural, PositiveFraction, Seed, guarded
from ssl_framework.data.base import Split

UNLABELLED = -1
"""The label of a sample whose class is not told."""


class Labels(Protocol):
    """Anything that says what a method is told of the training set."""

    def __call__(self, split: Split) -> Split:
        """The pretraining split as the method gets it; a function of the split and its own arguments alone.

        Raises:
            ValueError: the split has no classes.
        """
        ...


@guarded
class PartialLabels:
    """Some samples of some classes keep their label, all others have -1: semi-supervised learning (all classes known)
    and the discovery of new classes (Vaze et al., Generalized Category Discovery, CVPR 2022, arXiv:2201.02609).

    Args:
        share: of the samples of each known class, rounded, at least one.
        known: share of the classes, in the order of their numbers, rounded up.
        seed: of which samples; a larger share keeps the samples of a smaller one.
    """

    def __init__(self, share: PositiveFraction, known: PositiveFraction, seed: Seed) -> None:
        self.share = share
        self.known = known
        self.seed = seed

    def __call__(self, split: Split) -> Split:
        """As in ``Labels``."""
        label = classes_of(split, "partial")  # [N]
        generator = torch.Generator().manual_seed(self.seed)
        told = torch.full_like(label, UNLABELLED)  # [N]
        for members in of_each_class(label, generator)[: num_known(int(label.max()) + 1, self.known)]:
            kept = members[: share_of(self.share, len(members))]  # [kept]
            told[kept] = label[kept]
        return split._replace(label=told)


class Picked(ABC):
    """Base of choices that keep some samples of each class, drawn with a seed, with their labels.

    Args:
        seed: of which samples; whoever keeps more of a class keeps those of one that keeps fewer.

    Class attributes:
        name: of the choice in the config.
    """

    name: ClassVar[str]

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @abstractmethod
    def sizes(self, there: Sequence[int]) -> list[int]:
        """How many samples of each class are kept, of so many. Raises ValueError if that would be nothing."""

    def __call__(self, split: Split) -> Split:
        """As in ``Labels``.

        Raises:
            ValueError: the samples are not in memory, some of them are generated, or none of them is kept.
        """
        label = classes_of(split, self.name)  # [N]
        refuse_elsewhere(split, self.name)
        members = of_each_class(label, torch.Generator().manual_seed(self.seed))  # C x [n_c]
        sizes = self.sizes([len(rows) for rows in members])
        kept = torch.cat([rows[:size] for rows, size in zip(members, sizes, strict=True)])  # [kept]
        return split.picked(kept.sort().values)


@guarded
class TaskLabels(Picked):
    """One task of several that are learnt one after another: all samples of some classes, and of those before them a
    few that are rehearsed (continual learning). The classes keep their numbers.

    Args:
        first, end: of the classes of the task: ``first`` to ``end - 1``.
        rehearsed: share of the samples of each class before them, rounded; at least one, or none at 0.
        seed: see ``Picked``.

    Raises:
        ValueError: the task has no class.
    """

    name = "task"

    def __init__(self, first: Natural, end: Count, rehearsed: Fraction, seed: Seed) -> None:
        super().__init__(seed)
        if end <= first:
            raise ValueError(
                f"labels.first is {first} and labels.end {end}: a task has the classes from first to end - 1"
            )
        self.first, self.end, self.rehearsed = first, end, rehearsed

    def sizes(self, there: Sequence[int]) -> list[int]:
        """As in ``Picked``."""
        if not sum(there[self.first : self.end]):
            raise ValueError(
                f"labels=task takes the classes {self.first} to {self.end - 1}, but no training sample is of them: "
                f"there are classes up to {len(there) - 1}"
            )
        few = [share_of(self.rehearsed, size) if self.rehearsed else 0 for size in there[: self.first]]
        return [*few, *there[self.first : self.end], *(0 for _ in there[self.end :])]


@guarded
class FewLabels(Picked):
    """Only some samples of each class, which all have their label: learning where data are scarce.

    Args:
        share: of the samples of each class, rounded, at least one.
        seed: see ``Picked``.
    """

    name = "few"

    def __init__(self, share: PositiveFraction, seed: Seed) -> None:
        super().__init__(seed)
        self.share = share

    def sizes(self, there: Sequence[int]) -> list[int]:
        """As in ``Picked``."""
        return [share_of(self.share, size) for size in there]


@guarded
class KnownClasses(Picked):
    """Only the samples of some classes: what is learnt of them is then asked of the others, too, from base to new
    classes (Zhou et al., CVPR 2022, arXiv:2203.05557, section 4.1).

    Args:
        known: share of the classes, in the order of their numbers, rounded up.
    """

    name = "known"

    def __init__(self, known: PositiveFraction) -> None:
        super().__init__(0)  # nothing is drawn
        self.known = known

    def sizes(self, there: Sequence[int]) -> list[int]:
        """As in ``Picked``."""
        known = num_known(len(there), self.known)
        return [size if c < known else 0 for c, size in enumerate(there)]


@guarded
class LongTailed(Picked):
    """A part of the training set with the exponential profile of Cui et al., Class-Balanced Loss, CVPR 2019
    (arXiv:1901.05555): class c of C keeps ``floor(n_max imbalance^(-c / (C - 1)))`` samples, or all if it has fewer.

    Args:
        imbalance: samples of the largest class over those of the smallest.
        seed: see ``Picked``.
    """

    name = "long_tail"

    def __init__(self, imbalance: AtLeastOne, seed: Seed) -> None:
        super().__init__(seed)
        self.imbalance = imbalance

    def sizes(self, there: Sequence[int]) -> list[int]:
        """As in ``Picked``."""
        return long_tail_sizes(there, self.imbalance)


def classes_of(split: Split, name: str) -> Tensor:
    """Labels [N] int64 of a split, on the CPU.

    Raises:
        ValueError: it has none, or numbers.
    """
    if not isinstance(split, Split) or split.label is None or split.label.is_floating_point():
        found = "numbers for labels" if isinstance(split, Split) and split.label is not None else "no labels in memory"
        raise ValueError(
            f"labels={name} goes by the classes of the training samples, but they have {found}: choose a data set with "
            "classes, or labels=all"
        )
    return split.label.cpu()


def refuse_elsewhere(split: Split, name: str) -> None:
    """Raises ValueError if samples cannot be picked: they are not in memory, or some are generated."""
    if not isinstance(split.rows, Tensor) or split.real is not None:
        raise ValueError(
            f"labels={name} picks samples in memory, which these are not, or are generated: choose a data set in "
            "memory, such as data=cifar10, without generated images, or labels=all"
        )


def of_each_class(label: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The samples of every class in a random order: [N] -> C x [n_c] int64."""
    order = torch.randperm(len(label), generator=generator)  # [N]
    return [order[label[order] == c] for c in range(int(label.max()) + 1)]


def share_of(share: float, size: int) -> int:
    """So much of so many samples, rounded, at least one."""
    return max(1, round(share * size))


def num_known(num_classes: int, share: float) -> int:
    """How many of the classes, counted from 0, are known: rounded up, at least one."""
    return max(1, math.ceil(share * num_classes - 1e-9))  # a whole number may come out a little above itself


def long_tail_sizes(sizes: Sequence[int], imbalance: float) -> list[int]:
    """How many samples of each class are kept, at least one of each that has any."""
    wanted = [max(sizes) * imbalance ** (-c / max(1, len(sizes) - 1)) for c in range(len(sizes))]
    # A whole number may come out a little below itself.
    return [min(size, max(1, math.floor(many + 1e-9))) for size, many in zip(sizes, wanted, strict=True)]


def told_ones(split: Split) -> Tensor | None:
    """Which samples have a label, [N] bool on the CPU; ``None`` where all have, or none is a class."""
    label = split.label
    if label is None or label.is_floating_point() or int(label.min()) > UNLABELLED:
        return None
    return label.cpu() != UNLABELLED


def told(split: Split) -> dict[str, int]:
    """What a method is told of a pretraining split, for a record: samples, labelled samples, classes with a label."""
    label = classes_of(split, "all")  # [N]
    labelled = label[label != UNLABELLED]
    return {"samples": len(label), "labelled": len(labelled), "classes": len(labelled.unique())}
