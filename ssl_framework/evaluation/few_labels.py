"""What features are worth when few labels are known: few-shot episodes, and a linear probe on a share of the labels.

N samples of the train split, M of the test split, D features, C classes.
"""

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.evaluation.frozen import Frozen
from ssl_framework.evaluation.probes import LinearProbe, are_classes


class FewShot:
    """Episodes within the test split: a few images of each of a few classes are known, others are asked for.

    An episode draws W ways, and of each K shots and Q queries, all without replacement. Features are scaled to
    length 1, and a query is given to the nearest mean of shots by Euclidean distance: Snell et al., Prototypical
    Networks for Few-shot Learning, NeurIPS 2017 (arXiv:1703.05175), on frozen features of length 1 as Wang et al.,
    SimpleShot (arXiv:1911.04623). The train split is not read. Cost: episodes x W x (K + W Q) x D.

    Args:
        ways: W, classes of an episode.
        shots: K, known images of a class, or several numbers of them (each has metrics of its own).
        queries: Q, images of a class that are asked for.
        episodes: of which the mean is taken.
        seed: of the episodes.
    """

    def __init__(self, ways: int, shots: int | Sequence[int], queries: int, episodes: int, seed: int) -> None:
        self.shots = [shots] if isinstance(shots, int) else list(shots)
        if not self.shots or min(self.shots) < 1:
            raise ValueError(f"evaluation.probes.few_shot.shots is {shots}: give one or more numbers, at least 1")
        if ways < 2 or queries < 1 or episodes < 2:
            raise ValueError(
                f"evaluation.probes.few_shot has ways={ways}, queries={queries}, episodes={episodes}: they must be at "
                "least 2, 1 and 2"
            )
        self.ways = ways
        self.queries = queries
        self.episodes = episodes
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """For each number of shots the mean top-1 in percent and half the width of its 95 % interval, named
        ``few_shot[5-way,1-shot,episodes=600]/top1`` and ``/interval``.

        Classes with fewer than K + Q images are left out, with one warning that says how many; so are numbers of shots
        for which fewer than W classes are left.
        """
        if not are_classes(test.y, "few-shot"):
            return {}
        z = F.normalize(test.x.float(), dim=1)  # [M, D]
        found: dict[str, float] = {}
        for shots in self.shots:
            classes = self.large_enough(test.y, shots)
            if len(classes) < self.ways:
                continue
            generator = torch.Generator().manual_seed(self.seed)  # no number of shots depends on which others are asked
            drawn = (episode(classes, self.ways, shots + self.queries, generator) for _ in range(self.episodes))
            share = torch.stack([nearest_mean(z[rows], shots) for rows in drawn])  # [episodes]
            name = f"few_shot[{self.ways}-way,{shots}-shot,episodes={self.episodes}]"
            found[f"{name}/top1"] = 100 * share.mean().item()
            found[f"{name}/interval"] = 100 * 1.96 * share.std().item() / math.sqrt(self.episodes)
        return found

    def large_enough(self, y: Tensor, shots: int) -> list[Tensor]:
        """The rows of each class that has enough of them; warns in one line of what is left out."""
        size = shots + self.queries
        classes = rows_by_class(y)
        kept = [rows for rows in classes if len(rows) >= size]
        few = len(classes) - len(kept)
        if len(kept) < self.ways:
            warnings.warn(
                f"few-shot with {shots} shots skipped: {len(kept)} classes of the test split have {size} images "
                f"(shots + queries), and an episode takes {self.ways}"
            )
        elif few:
            warnings.warn(
                f"few-shot with {shots} shots: {few} classes of the test split are left out, which have fewer than "
                f"{size} images (shots + queries)"
            )
        return kept


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

    def __init__(self, shares: Sequence[float], linear: LinearProbe, seed: int) -> None:
        if not shares or not all(0 < share <= 1 for share in shares):
            raise ValueError(
                f"evaluation.probes.semi_supervised.shares is {list(shares)}: give one or more, above 0 and at most 1"
            )
        self.shares = list(shares)
        self.linear = linear
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent for each share, named ``linear[labels=1%,l2=0.0001]/top1``."""
        if not are_classes(train.y, "the linear probe on few labels"):
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


def episode(classes: Sequence[Tensor], ways: int, size: int, generator: torch.Generator) -> Tensor:
    """Draws ``size`` rows of each of ``ways`` classes without replacement: [ways, size] int64.

    Args:
        classes: the rows of each class, at least ``size`` of each; at least ``ways`` classes.
        ways: classes to draw.
        size: rows of each to draw.
        generator: of the CPU.
    """
    chosen = torch.randperm(len(classes), generator=generator)[:ways].tolist()
    return torch.stack(
        [classes[c][torch.randperm(len(classes[c]), generator=generator)[:size]] for c in chosen]
    )  # [ways, size]


def nearest_mean(z: Tensor, shots: int) -> Tensor:
    """The share of queries of an episode whose nearest mean of shots is that of their class, a float64 scalar.

    Args:
        z: [ways, shots + queries, D] features, the shots first.
        shots: of each class.
    """
    mean = z[:, :shots].double().mean(dim=1)  # [ways, D]
    query = z[:, shots:].double()  # [ways, queries, D]
    answer = (query @ mean.T - mean.square().sum(dim=1) / 2).argmax(dim=2)  # [ways, queries]
    return (answer == torch.arange(len(z))[:, None]).double().mean()


def rows_by_class(y: Tensor) -> list[Tensor]:
    """The rows of each class that occurs in labels [N], in the order of the classes: int64 tensors."""
    return list(y.argsort(stable=True).split(y.unique(return_counts=True)[1].tolist()))


def drawn_by_class(y: Tensor, seed: int) -> list[Tensor]:
    """As ``rows_by_class``, each class in an order drawn with ``seed``: its first n rows are a sample of n."""
    generator = torch.Generator().manual_seed(seed)
    return [rows[torch.randperm(len(rows), generator=generator)] for rows in rows_by_class(y)]
