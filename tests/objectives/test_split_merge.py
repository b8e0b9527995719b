"""The number of clusters: the likelihood of a Gaussian against what its factors say, and blobs that are found again."""

import math

import pytest
import torch

from ssl_framework.functional import Clusters
from ssl_framework.objectives.grouping import means
from ssl_framework.objectives.split_merge import SplitMerge

SURE = SplitMerge(1.0, 0.01, 0.1, 0.0)


def test_the_likelihood_is_the_product_of_those_of_each_sample_given_those_before() -> None:
    """In one dimension: Student's t with the posterior of the samples before."""
    x, mean, spread = torch.tensor([[0.3], [-0.2], [0.9], [0.5]], dtype=torch.float64), 0.1, 0.7
    kappa, nu, psi, m, total = 0.01, 3.0, 0.1 * 0.7, mean, 0.0
    for value in x[:, 0].tolist():
        scale = psi * (kappa + 1) / (kappa * nu)
        t = (value - m) ** 2 / (nu * scale)
        total += math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - math.log(nu * math.pi * scale) / 2
        total -= (nu + 1) / 2 * math.log(1 + t)
        psi += kappa / (kappa + 1) * (value - m) ** 2
        m = (kappa * m + value) / (kappa + 1)
        kappa, nu = kappa + 1, nu + 1
    assert SURE.log_likelihood(x, torch.tensor([mean]).double(), spread) == pytest.approx(total, abs=1e-9)


def blobs(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Thirty samples around each of so many axes, and which."""
    y = torch.arange(30 * count) % count
    return torch.eye(6)[y] + 0.05 * torch.randn(len(y), 6, generator=torch.Generator().manual_seed(0)), y


def moved(start: torch.Tensor, x: torch.Tensor, fixed: int, most: int = 10, moves: SplitMerge = SURE) -> Clusters:
    first = Clusters(means(x, start, int(start.max()) + 1), start)
    return moves(x, first, fixed, most, torch.Generator().manual_seed(0))


def test_one_cluster_of_two_blobs_is_split_and_two_of_one_are_merged() -> None:
    x, y = blobs()
    both = moved(y.clamp(max=2), x, 1)  # blobs 2 and 3 are one
    assert len(both.centres) == 4 and torch.equal(both.assigned[y < 2], y[y < 2])
    assert all(both.assigned[y == c].unique().numel() == 1 for c in range(4))
    parted = torch.where((y == 3) & (torch.arange(len(y)) % 8 < 4), 4, y)  # blob 3 is two
    assert torch.equal(moved(parted, x, 1).assigned, y)


def test_labelled_clusters_and_the_largest_number_stay() -> None:
    x, y = blobs()
    assert torch.equal(moved(y.clamp(max=2), x, 3).assigned, y.clamp(max=2))
    assert torch.equal(moved(y.clamp(max=2), x, 1, most=3).assigned, y.clamp(max=2))
    apart = moved(torch.zeros_like(y), x, 0, moves=SplitMerge(1.0, 0.01, 0.1, 1.0))  # whatever it says
    assert len(apart.centres) == 1  # split, and merged again
