"""A probe of frozen features."""

import torch

from ssl_framework.evaluation.features import Accuracy, Frozen
from ssl_framework.evaluation.probes.base import right


class NearestMean:
    """Every test sample is of the class whose mean training feature is nearest, in Euclidean distance."""

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, Accuracy]:
        """Top-1, named ``nearest_mean/top1``."""
        classes = train.y.unique()  # [K]
        means = torch.stack([train.x[train.y == c].float().mean(dim=0) for c in classes])  # [K, D]
        return {"nearest_mean/top1": right(classes[torch.cdist(test.x.float(), means).argmin(dim=1)], test.y)}
