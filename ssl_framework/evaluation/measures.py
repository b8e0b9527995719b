"""Measures of frozen features that need no labels: how features spread over the sphere, and how many directions they
use (``spectrum``). They tell collapse apart from a representation, and are no accuracies.

All in float64, of features that are not normalised. N samples, D features.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework import functional
from ssl_framework.arguments import Count, NonNegative, Positive, Seed, Several, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes
from ssl_framework.evaluation.spectrum import (
    alpha_req,
    covariance_eigenvalues,
    effective_rank,
    fitted_ranks,
    participation_ratio,
    rankme,
    singular_values,
)
from ssl_framework.functional import tiles, unit


@guarded
class Measures:
    """All measures of ``num_samples`` train features. Only tolerance reads labels, if there are any.

    The samples are the first ones of an order drawn once from the seed, because folders are sorted by class. Their
    number n stands in the metrics' names, for ranks and uniformity depend on it. Alignment and LiDAR need several views
    of a sample and are not among the metrics: the features are of clean images.

    Cost: two singular value decompositions of [n, D], about ``8 n D min(n, D)`` operations, and ``2 n^2 D`` for
    uniformity; memory three copies of [n, D] in float64 and one tile of similarities.

    Args:
        num_samples: n, at most; all samples if the train split has fewer.
        seed: of the order.
        t: of uniformity.
        epsilon: of RankMe.
        alpha_ranks: first and last rank of the eigenvalues to which alpha-ReQ is fitted, counted from 1.
    """

    def __init__(
        self,
        num_samples: Several,
        seed: Seed,
        t: Positive,
        epsilon: NonNegative,
        alpha_ranks: Annotated[Sequence[Count], Len(2, 2)],
    ) -> None:
        where = "evaluation.measures.features"
        if len(alpha_ranks) != 2 or not 1 <= alpha_ranks[0] <= alpha_ranks[1] - 2:
            raise ValueError(
                f"{where}.alpha_ranks is {list(alpha_ranks)}: give the first rank (at least 1) and the last, which "
                "must be larger by 2 or more"
            )
        self.num_samples = num_samples
        self.seed = seed
        self.t = t
        self.epsilon = epsilon
        self.first, self.last = alpha_ranks

    def __call__(self, train: Frozen) -> dict[str, float]:
        """``measures[n=2000]/rankme`` and so on.

        ``rankme`` is of the features as they are, ``effective_rank`` of the centred ones: a mean that all features
        share counts in the first alone. Nothing, with one warning that says why, of fewer than two samples or of
        features that are not finite; so for single measures that are not defined.
        """
        order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(self.seed))  # [N]
        kept = order[: self.num_samples].sort().values  # [n]
        x = train.x[kept]  # [n, D]
        if len(x) < 2 or not x.isfinite().all():
            why = "features are not finite" if len(x) > 1 else "the train split has fewer than two samples"
            warnings.warn(f"measures skipped: {why}")
            return {}
        eigenvalue = covariance_eigenvalues(x)  # [min(n, D)]
        found = {
            f"uniformity[t={self.t:g}]": uniformity(x, self.t),
            "feature_std": feature_std(x),
            "rankme": rankme(singular_values(x), self.epsilon),
            "effective_rank": effective_rank(eigenvalue.sqrt()),
            "participation_ratio": participation_ratio(eigenvalue),
        }
        first, last = fitted_ranks(eigenvalue, self.first, self.last)
        if math.isnan(alpha := alpha_req(eigenvalue, first, last)):
            warnings.warn(
                f"alpha-ReQ skipped: it is fitted from rank {first} on, but the features' covariance has rank {last}"
            )
        else:
            found[f"alpha_req[ranks={first}-{last}]"] = alpha
        if train.y is not None and are_classes(train.y, "tolerance"):
            y = train.y[kept]  # [n]
            found["tolerance[pairs=all]"] = tolerance(x, y)
            if math.isnan(within := tolerance_within(x, y)):
                warnings.warn(f"tolerance within classes skipped: no two of the {len(x)} samples are of one class")
            else:
                found["tolerance[pairs=same_class]"] = within
        return {f"measures[n={len(x)}]/{name}": value for name, value in found.items()}


def alignment(a: Tensor, b: Tensor) -> float:
    """Mean squared distance of two views' unit features, [N, D] each: in [0, 4], 0 where views agree.

    Wang and Isola, ICML 2020 (arXiv:2005.10242), with alpha = 2.
    """
    return functional.alignment(unit(a.double()), unit(b.double())).item()


def uniformity(x: Tensor, t: float) -> float:
    """Log of the mean of ``exp(-t |x_i - x_j|^2)`` over unordered pairs of unit features: in [-4 t, 0], 0 where all are
    equal. As ``functional.uniformity``, but at most ``functional.TILE`` pairs exist at a time.

    Wang and Isola, ICML 2020 (arXiv:2005.10242). arXiv:2012.09740 reports it with the sign turned.

    Args:
        x: [N, D], two rows or more.
        t: the paper's 2.
    """
    x = unit(x.double())
    square = x.square().sum(dim=1)  # [N]: 1, or 0 for a row of zeros
    sums = []
    for rows in tiles(len(x), len(x)):
        later = slice(rows.start, None)  # pairs with earlier rows were in earlier tiles
        distance = square[rows, None] + square[later] - 2 * x[rows] @ x[later].T  # [R, N - start]
        own_and_earlier = torch.ones_like(distance, dtype=torch.bool).tril()  # [R, N - start]
        sums.append((-t * distance).masked_fill_(own_and_earlier, -math.inf).flatten().logsumexp(dim=0))
    return (torch.stack(sums).logsumexp(dim=0) - math.log(len(x) * (len(x) - 1) / 2)).item()


def tolerance(x: Tensor, y: Tensor) -> float:
    """Mean over all ordered pairs, a sample with itself among them, of the cosine where the classes are equal and of 0
    elsewhere: Wang and Liu, CVPR 2021 (arXiv:2012.09740). With C classes of one size it is at most 1 / C.

    Args:
        x: [N, D].
        y: [N] int64.
    """
    return functional.tolerance(unit(x.double()), y).item()


def tolerance_within(x: Tensor, y: Tensor) -> float:
    """Mean cosine over pairs of different samples of one class: in [-1, 1], whatever the number of classes.

    Args:
        x: [N, D].
        y: [N] int64.

    Returns:
        NaN where no two samples share a class.
    """
    x = unit(x.double())
    total, size = functional.class_sums(x, y, y)  # [N, D], [N]
    pairs = size.sum() - len(x)  # ordered
    return (((x * total).sum() - x.square().sum()) / pairs).item() if pairs > 0 else math.nan


def feature_std(x: Tensor) -> float:
    """Mean over the D features of the standard deviation of unit rows, times sqrt(D): in [0, 1].

    0 where all rows point the same way, near 1 where they point all ways alike. Chen and He, SimSiam, CVPR 2021
    (arXiv:2011.10566), without the factor.

    Args:
        x: [N, D].
    """
    return (unit(x.double()).std(dim=0, correction=0).mean() * math.sqrt(x.shape[1])).item()
