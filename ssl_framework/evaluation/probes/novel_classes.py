"""Whether classes that were never named can be told apart, beside classes of which some samples have a label.

M samples of the test split, L labelled ones of the train split, D features, K classes.
"""

import warnings

import torch
from torch import Tensor

from ssl_framework.arguments import Count, PositiveFraction, Repeats, Seed, guarded
from ssl_framework.data.labels import num_known, of_each_class
from ssl_framework.evaluation.features import Accuracy, Frozen, Readout
from ssl_framework.evaluation.probes.base import are_classes
from ssl_framework.objectives.grouping import semi_supervised_kmeans


@guarded
class NovelClasses:
    """Semi-supervised k-means of labelled train samples of the known classes and of the whole test split, into as many
    clusters as there are classes; the accuracy of its clusters of test samples.

    The protocol of Vaze et al., Generalized Category Discovery, CVPR 2022 (arXiv:2201.02609), section 3.1: one
    one-to-one map of clusters to classes for all samples (the Hungarian method), then the accuracy over all, over those
    of the known (old) and over those of the new classes. There the unlabelled samples are the rest of the training set;
    here they are the test split, which no training has seen. Cost: seeds x at most ``iterations`` x (L + M) K D.

    Args:
        known: share of the classes that have labels, the first ones, rounded up: as ``labels.known``.
        share: of the train samples of a known class that have a label: as ``labels.share``.
        seeds: k-means runs, with seeds 0, 1, ..., of which the mean is taken.
        iterations: of each, at most.
        seed: of which samples have a label.
    """

    def __init__(
        self, known: PositiveFraction, share: PositiveFraction, seeds: Repeats, iterations: Count, seed: Seed
    ) -> None:
        self.known, self.share, self.seeds, self.iterations, self.seed = known, share, seeds, iterations, seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Means over seeds in percent: ``novel[known=0.5,seeds=5,classes=all]/top1``, and of ``old`` and ``new``."""
        if not are_classes(test.y, "novel classes"):
            return {}
        count = int(torch.cat([train.y, test.y]).max()) + 1  # K
        old = test.y < num_known(count, self.known)  # [M]
        if old.all() or not old.any():
            warnings.warn(
                f"novel classes skipped: with known={self.known:g} the test split has samples of "
                f"{'known' if old.all() else 'new'} classes only"
            )
            return {}
        members = of_each_class(train.y, torch.Generator().manual_seed(self.seed))[: num_known(count, self.known)]
        told = torch.cat([rows[: max(1, round(self.share * len(rows)))] for rows in members])  # [L]
        x = torch.cat([train.x[told], test.x]).float()  # [L + M, D]
        label = torch.cat([train.y[told], torch.full_like(test.y, -1)])  # [L + M]
        found = []
        for seed in range(self.seeds):
            generator = torch.Generator().manual_seed(seed)
            clusters = semi_supervised_kmeans(x, label, count, self.iterations, generator)
            found.append(clusters.assigned[len(told) :])  # [M]
        return self.accuracies(found, test.y, old, count)

    def chance(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """What clusters drawn at random would score; labels [N] and [M] int64 of both splits."""
        count = int(torch.cat([train, test]).max()) + 1  # K
        old = test < num_known(count, self.known)  # [M]
        draws = [torch.Generator().manual_seed(seed) for seed in range(self.seeds)]
        found = [torch.randint(count, test.shape, generator=generator) for generator in draws]
        return {} if old.all() or not old.any() else self.accuracies(found, test, old, count)

    def accuracies(self, found: list[Tensor], y: Tensor, old: Tensor, count: int) -> dict[str, float]:
        """The metrics of clusters [M] of several seeds, for samples of the classes [M], known where ``old`` [M]."""
        right = torch.stack([matched(cluster, y, count) == y for cluster in found]).double()  # [seeds, M]
        name = f"novel[known={self.known:g},seeds={self.seeds}"
        parts = {"all": torch.ones_like(old), "old": old, "new": ~old}
        return {f"{name},classes={part}]/top1": 100 * right[:, rows].mean().item() for part, rows in parts.items()}


def matched(cluster: Tensor, y: Tensor, count: int) -> Tensor:
    """Clusters [M] int64 as the classes that they are matched to, one to one, so that most samples [M] are right."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and few runs need it

    table = torch.bincount(cluster * count + y, minlength=count * count).view(count, count)  # [K, K]
    clusters, classes = (torch.from_numpy(x) for x in linear_sum_assignment(table.numpy(), maximize=True))
    of = torch.empty(count, dtype=torch.int64)  # [K]
    of[clusters] = classes
    return of[cluster]


@guarded
class TargetClasses:
    """A classifier of the student on test samples of the classes that it was to learn, the others left out: what
    semi-supervised learning among samples of other classes is about (WAD, arXiv:2308.11874).

    Args:
        known: share of the classes that have labels, the first ones, rounded up: as ``labels.known``.
    """

    def __init__(self, known: PositiveFraction) -> None:
        self.known = known

    def __call__(self, train: Frozen, test: Frozen, readout: Readout) -> dict[str, float]:
        """Top-1 in percent, ``target[known=0.2]/top1``; nothing without such samples."""
        count = num_known(int(torch.cat([train.y, test.y]).max()) + 1, self.known)
        rows = test.y < count  # [M]
        right = readout.logits(test.x[rows]).argmax(dim=1) == test.y[rows]
        return {f"target[known={self.known:g}]/top1": Accuracy(int(right.sum()), len(right))} if len(right) else {}
