"""Splits and merges of clusters by how likely Gaussians make them, so that their number is found: GPC (Zhao et al.,
ICCV 2023, arXiv:2305.06144), after DeepDPM (Ronen et al., CVPR 2022, arXiv:2203.14309).

A cluster is a Gaussian with a normal-inverse-Wishart prior, whose likelihood has a closed form without its mean and
covariance. N samples, D dimensions, K clusters, n samples of one.
"""

import math

import torch
from torch import Tensor

from ssl_framework.arguments import Fraction, Positive, guarded
from ssl_framework.functional import Clusters, kmeans, unit
from ssl_framework.objectives.grouping import means


@guarded
class SplitMerge:
    """Tries to split every cluster in two and to merge every cluster with the nearest, once each; labelled ones stay.

    Args:
        alpha: concentration of the Dirichlet process: the larger, the more clusters.
        kappa: how many samples the prior mean, that of all samples, counts for.
        scale: the prior covariance is this share of the variance of all samples, alike in all directions.
        explore: probability that a move is made although it is unlikely.
    """

    def __init__(self, alpha: Positive, kappa: Positive, scale: Positive, explore: Fraction) -> None:
        self.alpha, self.kappa, self.scale, self.explore = alpha, kappa, scale, explore

    def __call__(self, x: Tensor, found: Clusters, fixed: int, most: int, generator: torch.Generator) -> Clusters:
        """New clusters of the rows.

        Args:
            x: [N, D] unit rows.
            found: their clusters, numbered from 0, the first ``fixed`` of which are of classes with labels.
            fixed: how many.
            most: clusters, at most.
            generator: on the CPU; of the halves that are tried, and of exploration.

        Returns:
            At most ``most`` clusters without gaps, the fixed ones as they were.
        """
        x, assigned = unit(x), found.assigned.clone()  # [N, D], [N]
        count = len(found.centres)
        for k in range(fixed, count):
            rows = (assigned == k).nonzero()[:, 0]  # [n]
            if len(rows) < 2 or int(assigned.max()) + 1 >= most:
                continue
            half = kmeans(x[rows], 2, 10, spherical=True, generator=generator).assigned > 0  # [n]
            if half.any() and not half.all() and self.accepted(self.log_split(x, rows[~half], rows[half]), generator):
                assigned[rows[half]] = max(count, int(assigned.max()) + 1)
        self.merge(x, assigned, fixed, generator)
        kept = torch.cat([torch.arange(fixed, device=x.device), assigned[assigned >= fixed].unique()])  # [K]
        assigned = torch.searchsorted(kept, assigned)  # [N]
        return Clusters(means(x, assigned, len(kept)), assigned)

    def merge(self, x: Tensor, assigned: Tensor, fixed: int, generator: torch.Generator) -> None:
        """Merges clusters with their nearest ones. Changes ``assigned``."""
        count = int(assigned.max()) + 1
        centres, merged = means(x, assigned, count), set(range(fixed))  # [K, D]; those that take no further part
        similarity = (centres @ centres.T).fill_diagonal_(-2.0)  # [K, K]
        similarity[:, :fixed] = -2.0
        for k in range(fixed, count):
            other = int(similarity[k].argmax())
            one, two = (assigned == k).nonzero()[:, 0], (assigned == other).nonzero()[:, 0]  # [n] each
            if {k, other} & merged or not len(one) or not len(two):
                continue
            if self.accepted(-self.log_split(x, one, two), generator):
                assigned[two] = k
                merged |= {k, other}

    def accepted(self, log_ratio: float, generator: torch.Generator) -> bool:
        """Whether a move is made."""
        return log_ratio > 0 or bool(torch.rand((), generator=generator) < self.explore)

    def log_split(self, x: Tensor, one: Tensor, two: Tensor) -> float:
        """Logarithm of the Hastings ratio of two clusters against one of both (DeepDPM, eq. 5):
        ``log alpha + sum over the two of (log Gamma(n) + log p) - log Gamma(n_1 + n_2) - log p of both``.

        Args:
            x: [N, D], of all samples.
            one, two: [n] int64 rows of each.
        """
        x = x.double()
        mean, spread = x.mean(dim=0), x.var(dim=0, correction=0).mean().clamp(min=1e-8)  # [D], []
        both = torch.cat([one, two])
        likely = [self.log_likelihood(x[rows], mean, float(spread)) for rows in (one, two, both)]
        gamma = [math.lgamma(len(rows)) for rows in (one, two, both)]
        return math.log(self.alpha) + likely[0] + likely[1] - likely[2] + gamma[0] + gamma[1] - gamma[2]

    def log_likelihood(self, x: Tensor, mean: Tensor, spread: float) -> float:
        """Of rows [n, D] float64 under one Gaussian, averaged over its prior (Murphy, Conjugate Bayesian analysis of
        the Gaussian distribution, 2007, eq. 266).

        Args:
            x: the rows.
            mean: [D] of the prior.
            spread: variance of a coordinate of all samples.
        """
        count, dim = x.shape
        before, after = dim + 2.0, dim + 2.0 + count  # degrees of freedom: the least with a prior mean covariance
        kappa = self.kappa + count
        prior = self.scale * spread * torch.eye(dim, dtype=x.dtype, device=x.device)  # [D, D]
        away = x - x.mean(dim=0)  # [n, D]
        shift = x.mean(dim=0) - mean  # [D]
        posterior = prior + away.T @ away + self.kappa * count / kappa * torch.outer(shift, shift)  # [D, D]
        gamma = torch.mvlgamma(x.new_tensor([after / 2, before / 2]), dim)
        return float(
            gamma[0]
            - gamma[1]
            + (before * torch.logdet(prior) - after * torch.logdet(posterior)) / 2
            + dim / 2 * (math.log(self.kappa) - math.log(kappa) - count * math.log(math.pi))
        )
