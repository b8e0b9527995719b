"""Retrieval of test samples among test samples by cosine similarity."""

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len

from ssl_framework.arguments import Count, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite


@guarded
class Retrieval:
    """Every test image asks for the other test images of its class, by the cosine of the features; nothing is fitted.

    Metric learning's protocol. mAP@R is that of Musgrave et al., A Metric Learning Reality Check, ECCV 2020
    (arXiv:2003.08505), section 3.1: with R other images of its class, the mean over the first R ranks of the precision
    at a rank where the image there is of the class, and 0 where it is not. Of equally similar images the one that
    comes first in the split stands first. An image that is alone in its class does not ask.

    Args:
        k: recall@k is the share of queries with an image of their class among the k most similar ones.
        chunk: queries whose similarities exist at once.
    """

    def __init__(self, k: Annotated[Sequence[Count], Len(1)], chunk: Count = 512) -> None:
        self.ks = list(k)
        self.chunk = chunk

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Percent, named ``retrieval[test,cosine]/recall@1`` ... and ``retrieval[test,cosine]/map@r``."""
        if not (are_classes(test.y, "retrieval") and are_finite("retrieval", test)):
            return {}
        count = torch.bincount(test.y)[test.y] - 1  # [M]: R of each
        asks = (count > 0).nonzero()[:, 0]  # [Q]
        if not len(asks):
            warnings.warn("retrieval skipped: no class has two images in the test split")
            return {}
        z = F.normalize(test.x.float(), dim=1)  # [M, D]
        deepest = min(len(z) - 1, max([*self.ks, int(count.max())]))
        rank = torch.arange(1, deepest + 1)  # [deepest]
        hits, precision = dict.fromkeys(self.ks, 0), 0.0
        for query in asks.split(self.chunk):
            similarity = (z[query] @ z.T).scatter_(1, query[:, None], float("-inf"))  # [q, M]
            found = similarity.argsort(dim=1, descending=True, stable=True)[:, :deepest]  # [q, deepest]
            right = test.y[found] == test.y[query, None]  # [q, deepest]
            wanted = count[query, None]  # [q, 1]
            for k in self.ks:
                hits[k] += int(right[:, :k].any(dim=1).sum())
            at_rank = right.cumsum(dim=1) / rank * (right & (rank <= wanted))  # [q, deepest]
            precision += (at_rank.sum(dim=1) / wanted[:, 0]).double().sum().item()
        name = "retrieval[test,cosine]"
        scores = {f"{name}/recall@{k}": 100 * n / len(asks) for k, n in hits.items()}
        return scores | {f"{name}/map@r": 100 * precision / len(asks)}
