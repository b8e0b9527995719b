"""Mixing of embeddings: what stands between an objective's candidates and its logits."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import SameClass
from ssl_framework.types import Clock


class Mixture(NamedTuple):
    """The keys that a mixed query has instead of one positive."""

    keys: Tensor  # [N, P, D]
    absent: Tensor  # [N, P] bool: no key; for a query that is mixed with itself, the second


class MixedFeatures(NamedTuple):
    """What an objective computes its logits from; N queries, as many as there were or more."""

    q: Tensor  # [N, D] queries
    k: Tensor  # [N, D] their positives
    negatives: Tensor  # [K, D] negatives, the same rows for every query
    left_out: tuple[Tensor | SameClass, ...] = ()  # rows that are none for a query, as ``log_sum_exp`` takes them
    extra: Tensor | None = None  # [N, S, D] negatives of each query's own
    against: Tensor | None = None  # [N, D] what meets the negatives, where that is not q
    mixture: Mixture | None = None  # of whose keys k is the weighted mean, where it is not one key


class FeatureMixer(nn.Module):
    """Base of all feature mixers.

    ``needs`` says what an objective must accept: of "positive pairs", "negatives", "negatives shared by all queries"
    (none of them left out for a query) and "queries of both views" (those of the two views take turns, and are the
    negatives).
    """

    needs: frozenset[str]

    def forward(self, features: MixedFeatures, clock: Clock) -> MixedFeatures:
        """Returns possibly changed or further queries, positives and negatives.

        Args:
            features: as the objective gathered them, unit rows; the negatives are alike on every rank, in an order that
                does not depend on the number of ranks.
            clock: for schedules and for randomness that does not depend on the number of ranks.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")


def in_batch(z0: Tensor, z1: Tensor) -> MixedFeatures:
    """Every view of the global batch as a query; its negatives are both views of all other samples.

    Args:
        z0, z1: [B, D] unit rows of this rank.

    Returns:
        2B queries, sample by sample, so that their order does not depend on the number of ranks.
    """
    q = torch.stack([z0, z1], dim=1).flatten(0, 1)  # [2B, D]
    k = torch.stack([z1, z0], dim=1).flatten(0, 1)  # [2B, D]
    first = rank() * len(q) + 2 * torch.arange(len(z0), device=q.device).repeat_interleave(2)  # [2B] own sample's
    return MixedFeatures(q, k, gather_with_grad(q), (torch.stack([first, first + 1], dim=1),))  # left out: [2B, 2]
