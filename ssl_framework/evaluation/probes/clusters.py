"""Whether the classes can be found without labels: k-means on the features of the test split.

M samples of the test split, D features, C classes.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Repeats, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes


@guarded
class Clustering:
    """k-means of the test split's features, scaled to length 1, into as many clusters as it has classes.

    Labels only score what was found; the train split is not read. Lloyd's algorithm from one k-means++ start a seed
    (scikit-learn), on one thread, so that sums do not depend on the order of threads. Cost: seeds x at most 300
    iterations x M C D.

    Args:
        seeds: k-means runs, with seeds 0, 1, ..., of which the mean is taken.
    """

    def __init__(self, seeds: Repeats) -> None:
        self.seeds = seeds

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Means over seeds in percent: ``kmeans[seeds=5]/acc``, ``kmeans[seeds=5]/nmi`` and ``kmeans[seeds=5]/ari``."""
        if not are_classes(test.y, "clustering"):
            return {}
        classes, y = test.y.unique(return_inverse=True)  # [C], [M]
        z = F.normalize(test.x.double(), dim=1)  # [M, D]
        if len(classes) < 2:
            warnings.warn("clustering skipped: the test split has only one class")
            return {}
        if not z.isfinite().all():
            warnings.warn("clustering skipped: some features are not finite")
            return {}
        scores = [agreement(kmeans(z, len(classes), seed), y) for seed in range(self.seeds)]
        names = [f"kmeans[seeds={self.seeds}]/{name}" for name in ("acc", "nmi", "ari")]
        return {
            name: 100 * sum(found) / self.seeds for name, found in zip(names, zip(*scores, strict=True), strict=True)
        }


def kmeans(x: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Clusters of finite rows [M, D], at least ``num_clusters`` of them: [M] int64; with equal rows some are empty."""
    from sklearn.cluster import KMeans  # slow to import, and few runs need it
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: scored as they are
        found = KMeans(num_clusters, n_init=1, random_state=seed).fit_predict(x.numpy())
    return torch.from_numpy(found).long()  # [M]


def agreement(found: Tensor, y: Tensor) -> tuple[float, float, float]:
    """How far clusters are the classes; none of the three depends on how either is numbered.

    Args:
        found: [M] int64 clusters, from 0.
        y: [M] int64 classes, from 0.

    Returns:
        The accuracy under the best one-to-one map of clusters to classes (the Hungarian method; Yang et al., Image
        Clustering Using Local Discriminant Models and Global Integration, IEEE TIP 2010), in [0, 1]; the mutual
        information over the mean of both entropies (NMI), in [0, 1]; the Rand index adjusted for chance (ARI; Hubert
        and Arabie, Comparing Partitions, 1985), at most 1 and 0 on average for clusters drawn at random.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    clusters, classes = int(found.max()) + 1, int(y.max()) + 1
    table = torch.bincount(found * classes + y, minlength=clusters * classes).view(clusters, classes)  # [K, C]
    acc = table.numpy()[linear_sum_assignment(table.numpy(), maximize=True)].sum() / len(y)
    pair = y.numpy(), found.numpy()
    return float(acc), float(normalized_mutual_info_score(*pair)), float(adjusted_rand_score(*pair))
