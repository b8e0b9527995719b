"""Retrieval of texts by texts: the first wording of a sample asks for the second, as a question for its answer or a
docstring for its function (R@k, MRR; nDCG@10 as BEIR, Thakur et al., NeurIPS 2021, arXiv:2104.08663, section 3)."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Several, guarded
from ssl_framework.evaluation.features import Accuracy
from ssl_framework.evaluation.probes.cross_retrieval import ranks_of
from ssl_framework.evaluation.probes.text_similarity import below
from ssl_framework.evaluation.wordings import Wordings

DEPTH = 10
"""Of nDCG."""


@guarded
class TextRetrieval:
    """Each of n samples looks for its group among the second wordings, by cosine; nothing is fitted. Samples of the
    group -1 neither look nor are found.

    All texts of a group are one candidate, as near as the nearest of them. A tie counts against the query, so that a
    collapsed embedding scores no better than chance. The pooled AUC asks more: that one threshold separates right pairs
    from wrong ones of all queries together (Mann-Whitney; arXiv:2510.00137 is about the difference).

    Args:
        k: recall@k is the share of queries whose group is among the k nearest.
        num_samples: n, the first so many of the test split; ``null``: all.
        chunk: queries whose similarities exist at once.
    """

    def __init__(
        self, k: Annotated[Sequence[Count], Len(1)], num_samples: Several | None = None, chunk: Count = 512
    ) -> None:
        self.ks = list(k)
        self.num_samples = num_samples
        self.chunk = chunk

    def __call__(self, test: Wordings) -> dict[str, float]:
        """Percent: ``retrieval[first-to-second,n=500]/recall@1`` ..., ``/mrr``, ``/ndcg@10`` and ``/pooled_auc``."""
        if test.z.shape[1] < 2:
            return {}
        group = self.groups(test)  # [n]
        if not len(group):
            return {}
        queries, candidates = test.z[test.group >= 0][: len(group)].unbind(dim=1)  # [n, D] each
        places, right, wrong = [], [], []
        for part, own in zip(queries.split(self.chunk), group.split(self.chunk), strict=True):
            similarity = part @ candidates.T  # [q, n]
            places.append(ranks_of(similarity, own, group))
            same = own[:, None] == group  # [q, n]
            right.append(similarity[same])
            wrong.append(similarity[~same])
        ranks = torch.cat(places)  # [n]
        return self.named(
            len(ranks),
            {f"recall@{k}": Accuracy(int((ranks <= k).sum()), len(ranks)) for k in self.ks}
            | {"mrr": 100 * (1 / ranks.double()).mean().item(), "ndcg@10": 100 * gain(ranks).mean().item()}
            | {"pooled_auc": 100 * below(torch.cat(wrong), torch.cat(right))},
        )

    def chance(self, test: Wordings) -> dict[str, float]:
        """Of a random order of the groups."""
        if test.z.shape[1] < 2:
            return {}
        group = self.groups(test)  # [n]
        if not len(group):
            return {}
        ranks = torch.arange(1, int(group.max()) + 2)  # [groups]
        scores = {f"recall@{k}": 100 * min(k, len(ranks)) / len(ranks) for k in self.ks}
        scores |= {"mrr": 100 * (1 / ranks.double()).mean().item(), "ndcg@10": 100 * gain(ranks).mean().item()}
        return self.named(len(group), scores | {"pooled_auc": 50.0})

    def named(self, count: int, scores: dict[str, float]) -> dict[str, float]:
        """With the protocol in the names."""
        return {f"retrieval[first-to-second,n={count}]/{name}": value for name, value in scores.items()}

    def groups(self, test: Wordings) -> Tensor:
        """The group of each of the n samples, numbered from 0 without gaps: [n] int64."""
        return test.group[test.group >= 0][: self.num_samples].unique(return_inverse=True)[1]


def gain(ranks: Tensor) -> Tensor:
    """nDCG@10 of queries with one right answer at these places, from 1: [n] int64 -> [n] float64."""
    return torch.where(ranks <= DEPTH, math.log(2) / (ranks.double() + 1).log(), 0.0)
