"""Groups of training samples that objectives make of their features: by class as far as it is told, or of one size.

N samples, D dimensions, K clusters, C classes.
"""

import torch
from torch import Tensor

from ssl_framework.functional import Clusters, class_sums, nearest_centres, unit


def semi_supervised_kmeans(
    x: Tensor, label: Tensor, num_clusters: int, iterations: int, generator: torch.Generator | None = None
) -> Clusters:
    """Spherical k-means in which a labelled sample stays in the cluster of its class (Vaze et al., Generalized Category
    Discovery, CVPR 2022, arXiv:2201.02609, section 3.2).

    The first clusters are those of the classes with a label, in their order, which begin with the means of these
    samples; the others begin with unlabelled samples drawn by k-means++. A cluster that loses all samples stays where
    it was.

    Args:
        x: [N, D], not all zero; compared by direction.
        label: [N] int64, -1: unlabelled.
        num_clusters: K, at least as many as classes with a label.
        iterations: at most; it ends when nothing changes.
        generator: of the first centres, on the CPU.

    Returns:
        [K, D] unit centres, and the cluster of each sample.

    Raises:
        ValueError: there are more classes with a label than clusters.
    """
    x = unit(x)  # [N, D]
    classes, own = label[label >= 0].unique(return_inverse=True)
    if len(classes) > num_clusters:
        raise ValueError(
            f"{len(classes)} classes have labels, but there are to be {num_clusters} clusters: raise their number, or "
            "set labels.known to a smaller share"
        )
    fixed = torch.full_like(label, -1)  # [N] cluster of the labelled
    fixed[label >= 0] = own
    free = x[label < 0]  # [U, D]
    centres = means(x, fixed, len(classes))  # [classes, D]
    for _ in range(num_clusters - len(classes)):
        away = (1 - free @ centres.T).amin(dim=1).clamp(min=0) if len(centres) else torch.ones(len(free))  # [U]
        chance = away.cpu().double() + 1e-12  # [U]
        drawn = torch.multinomial(chance, 1, generator=generator).to(x.device) if len(free) else None
        first = x[:1] if drawn is None else free[drawn]  # [1, D]
        centres = torch.cat([centres, first])
    cluster = fixed
    for _ in range(iterations):
        before, cluster = cluster, torch.where(fixed < 0, nearest_centres(x, centres), fixed)  # [N]
        if torch.equal(before, cluster):
            break
        found = means(x, cluster, num_clusters)  # [K, D]
        centres = torch.where((found != 0).any(dim=1, keepdim=True), found, centres)
    return Clusters(centres, cluster)


def means(x: Tensor, cluster: Tensor, num_clusters: int) -> Tensor:
    """The unit mean of every cluster's rows, 0 of an empty one: [N, D], [N] (-1: of none) -> [K, D]."""
    return unit(class_sums(x, cluster, torch.arange(num_clusters, device=x.device))[0])  # [K, D]


def equal_clusters(x: Tensor, num_clusters: int, iterations: int) -> Tensor:
    """k-means by direction into clusters of one size, rounded up: [n, D] -> [n] int64 in 0..K-1.

    In rounds every sample that is left asks the nearest cluster with room, and each cluster takes the nearest of those
    who ask. The first centres are samples at equal steps.
    """
    centres, room = x[torch.arange(num_clusters) * len(x) // num_clusters], -(-len(x) // num_clusters)  # [K, D]
    cluster = torch.full((len(x),), -1, device=x.device)  # [n]
    for _ in range(iterations):
        before, similarity = cluster, x @ unit(centres).T  # [n, K]
        cluster = torch.full_like(before, -1)
        while (left := (cluster < 0).nonzero().flatten()).numel():
            taken = torch.bincount(cluster[cluster >= 0], minlength=num_clusters)  # [K]
            value, asked = similarity[left].masked_fill(taken >= room, float("-inf")).max(dim=1)  # [left] each
            order = value.argsort(descending=True, stable=True)
            order = order[asked[order].argsort(stable=True)]  # cluster after cluster, the nearest first
            start = torch.bincount(asked, minlength=num_clusters).cumsum(0).roll(1)  # [K]
            start[0] = 0
            place = torch.arange(len(left), device=x.device) - start[asked[order]]  # [left] in the queue of a cluster
            accepted = order[place < (room - taken)[asked[order]]]
            cluster[left[accepted]] = asked[accepted]
        if torch.equal(before, cluster):
            break
        centres = means(x, cluster, num_clusters)  # [K, D]
    return cluster
