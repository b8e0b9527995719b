"""Retrieval from one modality to the other, in both directions (Karpathy and Fei-Fei, CVPR 2015, arXiv:1412.2306; CLIP,
arXiv:2103.00020, appendix E)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Several, guarded
from ssl_framework.evaluation.cross_modal import Pairs
from ssl_framework.evaluation.features import Accuracy


@guarded
class CrossRetrieval:
    """Each of n samples looks for its group among those of the other modality, by cosine; nothing is fitted.

    All samples of a group (captions of one meaning, say) are one candidate, as near as the nearest of them, so that no
    right answer counts as a wrong one and equal ones count once. A tie counts against the query: a collapsed embedding
    scores no better than chance.

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

    def __call__(self, test: Pairs) -> dict[str, float]:
        """Percent: ``retrieval[image-to-text,n=500]/recall@1`` ... and ``/mrr``, the mean of 1 / rank; both ways."""
        group = self.groups(test)  # [n]
        scores: dict[str, float] = {}
        for name, queries, candidates in self.directions(test):
            ranks = torch.cat(
                [
                    ranks_of(part @ candidates.T, own, group)
                    for part, own in zip(queries.split(self.chunk), group.split(self.chunk), strict=True)
                ]
            )  # [n]
            scores |= {f"{name}/recall@{k}": Accuracy(int((ranks <= k).sum()), len(ranks)) for k in self.ks}
            scores[f"{name}/mrr"] = 100 * (1 / ranks.double()).mean().item()
        return scores

    def chance(self, test: Pairs) -> dict[str, float]:
        """Of a random order of the groups."""
        count = int(self.groups(test).max()) + 1
        reciprocal = 100 * sum(1 / rank for rank in range(1, count + 1)) / count
        return {
            metric: value
            for name, _, _ in self.directions(test)
            for metric, value in [
                *((f"{name}/recall@{k}", 100 * min(k, count) / count) for k in self.ks),
                (f"{name}/mrr", reciprocal),
            ]
        }

    def groups(self, test: Pairs) -> Tensor:
        """The group of each of the n samples, numbered from 0 without gaps: [n] int64."""
        return test.group[: self.num_samples].unique(return_inverse=True)[1]

    def directions(self, test: Pairs) -> list[tuple[str, Tensor, Tensor]]:
        """Name of each direction, its queries and its candidates, [n, D] each."""
        main, other = test.main[: self.num_samples], test.other[: self.num_samples]
        first, second = test.names
        return [
            (f"retrieval[{first}-to-{second},n={len(main)}]", main, other),
            (f"retrieval[{second}-to-{first},n={len(main)}]", other, main),
        ]


def ranks_of(similarity: Tensor, own: Tensor, group: Tensor) -> Tensor:
    """At which place each query finds its group, from 1.

    Args:
        similarity: [q, n] of queries to candidates.
        own: [q] int64 group of each query.
        group: [n] int64 group of each candidate, numbered from 0.

    Returns:
        [q] int64.
    """
    nearest = similarity.new_full((len(similarity), int(group.max()) + 1), float("-inf"))  # [q, G]
    nearest.scatter_reduce_(1, group.expand(len(similarity), -1), similarity, "amax")
    wanted = nearest.gather(1, own[:, None])  # [q, 1]
    return (nearest >= wanted).sum(dim=1)  # [q], itself among them
