"""Retrieval of tuples of modalities by one of them, by the volume they span (GRAM, arXiv:2412.11959, section 4.1)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Several, guarded
from ssl_framework.evaluation.cross_modal import Pairs
from ssl_framework.evaluation.features import Accuracy
from ssl_framework.evaluation.probes.cross_retrieval import ranks_of
from ssl_framework.objectives.gram import volumes


@guarded
class VolumeRetrieval:
    """Each of n texts looks for its group among the tuples of the main and all further modalities: by the volume, and
    by the sum of its cosines with each, with which it has to be compared. Counted as in ``CrossRetrieval``.

    Args:
        k: recall@k is the share of queries whose group is among the k nearest.
        num_samples: n, the first so many of the test split; ``null``: all.
    """

    def __init__(self, k: Annotated[Sequence[Count], Len(1)], num_samples: Several | None = None) -> None:
        self.ks = list(k)
        self.num_samples = num_samples

    def __call__(self, test: Pairs) -> dict[str, float]:
        """Percent: ``retrieval[text-to-image+series,volume,n=500]/recall@1`` ... and with ``cosines``."""
        group, queries, tuples = self.parts(test)
        by_cosines = torch.stack([queries @ z.T for z in tuples]).sum(dim=0)  # [n, n]
        near = {"volume": -volumes(queries, tuples, 1e-12), "cosines": by_cosines}  # [n, n] each
        return {
            f"{self.name(test, how)}/recall@{k}": Accuracy(int((ranks_of(s, group, group) <= k).sum()), len(group))
            for how, s in near.items()
            for k in self.ks
        }

    def chance(self, test: Pairs) -> dict[str, float]:
        """Of a random order of the groups."""
        count = int(self.parts(test)[0].max()) + 1
        hows = ("volume", "cosines")
        return {f"{self.name(test, how)}/recall@{k}": 100 * min(k, count) / count for how in hows for k in self.ks}

    def parts(self, test: Pairs) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Groups [n], texts [n, D], and the other modalities, [n, D] each."""
        first = slice(self.num_samples)
        group = test.group[first].unique(return_inverse=True)[1]  # [n]
        return group, test.other[first], [z[first] for z in (test.main, *test.further.values())]

    def name(self, test: Pairs, how: str) -> str:
        """Of the metrics."""
        main, other = test.names
        return f"retrieval[{other}-to-{'+'.join([main, *test.further])},{how},n={len(test.group[: self.num_samples])}]"
