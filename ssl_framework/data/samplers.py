"""Which samples meet in a batch: the order of an epoch, a pure function of the set, the batch size and (seed, epoch).

    Uniform   every sample once, in random batches
    Inflated  real and generated images in random batches, the real ones several times (AdaInf)
    Distinct  no two samples of one pseudo-label in a batch (G-SimCLR)
    Same      whole batches of one pseudo-label (MCL)
    Labelled  a share of every batch from the samples with a label (FixMatch)
    ClassBalanced  the same number of samples of each of some pseudo-labels (metric learning)

A batch here is that of all ranks together, so what a sampler promises holds on any number of ranks. The number of
batches is the same in every epoch.

N samples, B samples a rank, W ranks, T batches an epoch, K pseudo-labels.
"""

import re
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ssl_framework.arguments import Count, OpenFraction, Several, guarded
from ssl_framework.types import step_seed


class Population(NamedTuple):
    """What there is to draw from."""

    count: int  # type: ignore[assignment]  # N
    real: int | None = None  # the first so many are real and the others generated; None: nothing is generated
    group: Tensor | None = None  # [N] int64 pseudo-label of each sample
    told: Tensor | None = None  # [N] bool: whether a sample has a label; None: all have, or none


class Sampler(ABC):
    """Base of all samplers.

    Class attributes:
        reads_pseudo_labels: whether ``Population.group`` must be there.
    """

    reads_pseudo_labels: ClassVar[bool] = False

    @abstractmethod
    def batches(self, population: Population, size: int, seed: int, epoch: int) -> Tensor:
        """The batches of one epoch.

        Args:
            population: what is drawn from.
            size: W * B, samples of a global batch.
            seed, epoch: of the order.

        Returns:
            [T, W * B] int64 positions; T is the same for every seed and epoch.

        Raises:
            ValueError: there is not one such batch.
        """

    def count(self, population: Population, size: int, seed: int) -> int:
        """T, batches of an epoch; arguments as of ``batches``, which is called where the number does not follow from
        the sizes alone."""
        return len(self.batches(population, size, seed, 0))


class Draw(NamedTuple):
    """What a loader asks for the order of an epoch: a sampler, what it draws from, and W * B, samples of a batch."""

    sampler: Sampler
    population: Population
    size: int

    def __call__(self, seed: int, epoch: int) -> Tensor:
        """Positions of the samples of every batch of the epoch, [T, W * B] int64 on the CPU."""
        return self.sampler.batches(self.population, self.size, seed, epoch)

    def num_batches(self, seed: int) -> int:
        """T of every epoch."""
        return self.sampler.count(self.population, self.size, seed)


class Uniform(Sampler):
    """Every sample at most once an epoch; the last, incomplete batch is left out."""

    def batches(self, population: Population, size: int, seed: int, epoch: int) -> Tensor:
        """As in ``Sampler``."""
        return cut(torch.randperm(population.count, generator=generator_of(seed, epoch)), size)

    def count(self, population: Population, size: int, seed: int) -> int:
        """As in ``Sampler``, without drawing an order, which takes a second for ten million samples."""
        return population.count // size


@guarded
class Inflated(Sampler):
    """Real images ``replicas`` times beside generated images once, in one random order.

    An epoch has as many batches as one of the real images alone, so runs with and without generated images take
    equally many steps. The epochs walk through rounds; a round is a permutation of all copies, each exactly once.

    Args:
        replicas: of every real image, at least 1; no pixels are copied.

    Raises:
        ValueError: less than one replica.
    """

    def __init__(self, replicas: Count) -> None:
        self.replicas = replicas

    def batches(self, population: Population, size: int, seed: int, epoch: int) -> Tensor:
        """As in ``Sampler``; refuses a set without generated images."""
        if population.real is None:
            raise ValueError(
                "sampler=inflated weighs real against generated images, but there are none: choose generated=folder or "
                "generated=arrays (on data=shapes also generated=shapes), or sampler=uniform"
            )
        copies = self.replicas * population.real
        length = copies + population.count - population.real  # of a round
        wanted = population.real // size * size
        first, taken = epoch * wanted, []
        while wanted:
            number, start = divmod(first, length)
            part = torch.randperm(length, generator=generator_of(seed, number))[start : start + wanted]
            taken.append(part)
            first, wanted = first + len(part), wanted - len(part)
        copy = torch.cat(taken)  # [T * W * B]: copies of real images come first, replica after replica
        position = torch.where(copy < copies, copy % population.real, copy - copies + population.real)
        return position.view(-1, size)  # [T, W * B]


@guarded
class Labelled(Sampler):
    """``share`` of every batch, rounded, from the labelled samples, the rest from the others.

    An epoch takes every unlabelled sample at most once; the labelled ones come again as often as they are needed, each
    once before any of them again.

    Args:
        share: of a batch; at least one sample, and not all of them.
    """

    def __init__(self, share: OpenFraction) -> None:
        self.share = share

    def batches(self, population: Population, size: int, seed: int, epoch: int) -> Tensor:
        """As in ``Sampler``; refuses a set in which not some are labelled and others are not."""
        told = population.told
        if told is None or bool(told.all()) or not bool(told.any()):
            raise ValueError(
                "sampler=labelled takes labelled and unlabelled samples into each batch, but the training set has not "
                "both: choose labels=partial, or sampler=uniform"
            )
        own = min(max(1, round(self.share * size)), size - 1)  # labelled samples of a batch
        if size < 2:
            raise ValueError("sampler=labelled needs a sample of either kind in a batch: raise data.batch_size to 2")
        generator = generator_of(seed, epoch)
        others = cut(shuffled(~told, generator), size - own)  # [T, size - own]
        wanted, rounds = own * len(others), int(told.sum())
        again = [shuffled(told, generator) for _ in range(-(-wanted // rounds))]  # rounds x [labelled]
        both = torch.cat([torch.cat([*again, others.new_empty(0)])[:wanted].view(-1, own), others], dim=1)  # [T, size]
        places = torch.rand(len(both), size, generator=generator).argsort(dim=1)  # or a rank would see one kind
        return both.gather(1, places)


class Distinct(Sampler):
    """No two samples of one pseudo-label in a batch; no sample twice an epoch.

    An epoch has as many batches as there can be: the largest T for which the groups, each giving at most T samples,
    fill T batches. What is over is left out of this epoch, drawn anew in each: samples of groups larger than T, and
    the rest of all groups at random.
    """

    reads_pseudo_labels = True

    def batches(self, population: Population, size: int, seed: int, epoch: int) -> Tensor:
        """As in ``Sampler``; refuses fewer pseudo-labels than a batch has samples."""
        assert population.group is not None
        group, sizes = numbered(population.group)  # [N], [K]
        if len(sizes) < size:
            raise ValueError(
                f"sampler=distinct puts no two samples of one pseudo-label in a batch, but data.batch_size is {size} "
                f"and there are only {len(sizes)} pseudo-labels: lower data.batch_size or make more clusters"
            )
        num = most_distinct(sizes, size)
        generator = generator_of(seed, epoch)
        samples, place = within_groups(group, sizes, generator)  # [N] each
        samples = samples[place < num]
        samples = samples[torch.randperm(len(samples), generator=generator)[: num * size]]  # [T * W * B]
        turn = torch.randperm(len(sizes), generator=generator)  # [K]
        samples = samples[turn[group[samples]].argsort(stable=True)]  # groups one after another
        # The p-th goes to batch p modulo T: the run of a group, at most T long, meets no batch twice.
        whole = samples.view(size, num).T[torch.randperm(num, generator=generator)]  # [T, W * B]
        shuffled = torch.rand(num, size, generator=generator).argsort(dim=1)  # or a rank would see few of the groups
        return whole.gather(1, shuffled)


class Same(Sampler):
    """Every batch within one pseudo-label, the batches of all groups in random order; no sample twice an epoch.

    The last, incomplete batch of each group is left out, other samples in each epoch; a group smaller than a batch is
    never seen.
    """

    reads_pseudo_labels = True

    def batches(self, population: Population, size: int, seed: int, epoch: int) -> Tensor:
        """As in ``Sampler``; refuses groups that are all smaller than a batch."""
        assert population.group is not None
        group, sizes = numbered(population.group)  # [N], [K]
        if sizes.max() < size:
            raise ValueError(
                f"sampler=same takes whole batches from one pseudo-label, but data.batch_size is {size} and the most "
                f"frequent of {len(sizes)} has {int(sizes.max())} samples: lower data.batch_size or make fewer clusters"
            )
        generator = generator_of(seed, epoch)
        samples, place = within_groups(group, sizes, generator)  # [N] each
        whole = samples[place < (sizes // size * size)[group[samples]]].view(-1, size)  # [T, W * B]
        return whole[torch.randperm(len(whole), generator=generator)]


@guarded
class ClassBalanced(Sampler):
    """``per_class`` samples of each of W B / per_class pseudo-labels in a batch; no sample twice an epoch.

    An epoch has as many batches as there can be, as in ``Distinct``, which here deals out whole sets of ``per_class``
    samples. What is over is left out of this epoch, drawn anew in each; a group smaller than a set is never seen.

    Args:
        per_class: samples of one pseudo-label in a batch, at least 2.
    """

    reads_pseudo_labels = True

    def __init__(self, per_class: Several) -> None:
        self.per_class = per_class

    def batches(self, population: Population, size: int, seed: int, epoch: int) -> Tensor:
        """As in ``Sampler``; refuses a batch that is no multiple of ``per_class``, and too few large pseudo-labels."""
        assert population.group is not None
        group, sizes = numbered(population.group)  # [N], [K]
        whole, (count, over) = sizes // self.per_class, divmod(size, self.per_class)  # [K] sets of each
        if over or count == 0:
            raise ValueError(
                f"data.batch_size is {size}, but sampler.per_class is {self.per_class}: make it a multiple of that"
            )
        if int((whole > 0).sum()) < count:
            raise ValueError(
                f"sampler=class_balanced takes {self.per_class} samples of each of {count} pseudo-labels into a batch "
                f"of {size}, but only {int((whole > 0).sum())} have so many: lower data.batch_size or raise "
                "sampler.per_class"
            )
        generator = generator_of(seed, epoch)
        samples, place = within_groups(group, sizes, generator)  # [N] each
        sets = samples[place < (whole * self.per_class)[group[samples]]].view(-1, self.per_class)  # [S, per_class]
        dealt = Distinct().batches(Population(len(sets), None, group[sets[:, 0]]), count, seed, epoch)  # [T, count]
        shuffled = torch.rand(len(dealt), size, generator=generator).argsort(dim=1)  # or a rank would see few groups
        return sets[dealt].flatten(1).gather(1, shuffled)  # [T, W * B]


def choice(sampler: Sampler) -> str:
    """Its name in the config: ClassBalanced is class_balanced."""
    return re.sub("(?<=.)(?=[A-Z])", "_", type(sampler).__name__).lower()


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """Alike on every rank."""
    return torch.Generator().manual_seed(step_seed(seed, epoch, rank=-2))


def shuffled(kept: Tensor, generator: torch.Generator) -> Tensor:
    """Positions where ``kept`` [N] is true, in random order."""
    found = kept.nonzero()[:, 0]  # [kept]
    return found[torch.randperm(len(found), generator=generator)]


def cut(order: Tensor, size: int) -> Tensor:
    """[N] -> [T, size], without the ragged end."""
    return order[: len(order) // size * size].view(-1, size)


def numbered(label: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [N] of any values as 0..K-1, and how many samples each has [K]."""
    _, group, sizes = label.unique(return_inverse=True, return_counts=True)
    return group, sizes


def within_groups(group: Tensor, sizes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples [N] group after group, shuffled within each, and each one's place [N] within its group."""
    shuffled = torch.randperm(len(group), generator=generator)  # [N]
    samples = shuffled[group[shuffled].argsort(stable=True)]  # [N]
    start = sizes.cumsum(0) - sizes  # [K]
    return samples, torch.arange(len(group)) - start[group[samples]]


def most_distinct(sizes: Tensor, size: int) -> int:
    """Most batches of ``size`` samples without two of one group: the largest T with ``sum_k min(n_k, T) >= T size``."""
    low, high = 0, int(sizes.sum()) // size
    while low < high:
        middle = (low + high + 1) // 2
        if int(sizes.clamp(max=middle).sum()) >= middle * size:
            low = middle
        else:
            high = middle - 1
    return low
