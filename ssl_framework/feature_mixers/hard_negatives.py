"""What the mixers that make harder negatives share: each query's own list of hard ones, and draws from it.

Everything is drawn for the global batch from the generator that all ranks share, then cut: a query's synthetic
negatives do not depend on how many ranks the batch is spread over.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.data.allocations import refuse_more_than_free
from ssl_framework.distributed import own_rows, world_size
from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.functional import hardest, left_out_columns


class HardNegatives(NamedTuple):
    """The most similar negatives of each query."""

    rows: Tensor  # [N, H] int64 positions among the negatives, hardest first
    available: Tensor  # [N, 1] int64: how many of them are negatives at all, the first ones


def refuse_too_many(features: MixedFeatures, count: int) -> None:
    """Raises ValueError if there are fewer than ``count`` negatives."""
    most = len(features.negatives) - left_out_columns(features.left_out)
    if count > most:
        raise ValueError(
            f"feature_mixer.num_hard is {count}, but there are only {most} negatives: lower it, or provide more "
            "(objective.queue.size; without a queue data.batch_size)"
        )


def refuse_too_large(features: MixedFeatures, count: int, keys: str) -> None:
    """Raises ValueError if ``count`` synthetic negatives of each query do not fit into memory; ``keys`` make them.

    At the peak there are the partners of every mixture, two of them, and the mixture.
    """
    size = 3 * features.q.element_size() * features.q.numel() * count
    what = f"{count:,} synthetic negatives for each of {len(features.q):,} queries"
    refuse_more_than_free(size, features.q.device, what, f"lower {keys}, or data.batch_size")


def hard_negatives(features: MixedFeatures, count: int) -> HardNegatives:
    """The ``count`` hardest negatives of each query; those left out for it come last and do not count as available."""
    rows, similarity = hardest(features.q, features.negatives, count, features.left_out)  # [N, H] each
    return HardNegatives(rows, similarity.isfinite().sum(dim=1, keepdim=True))


def uniform(num_queries: int, count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """U(0, 1) for one rank's queries: [N, count], of the dtype of ``like``."""
    shape = (num_queries * world_size(), count)
    return own_rows(torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype))


def one_of(draw: Tensor, available: Tensor) -> Tensor:
    """Ranks in the hard list, uniform over the available ones: [N, S] in (0, 1), [N, 1] -> [N, S] int64."""
    return torch.minimum((draw * available).long(), available - 1).clamp(min=0)  # float32 may round up to the end


def another_of(draw: Tensor, first: Tensor, available: Tensor) -> Tensor:
    """Ranks uniform over the available ones except ``first``: [N, S] in (0, 1), [N, S], [N, 1] -> [N, S] int64."""
    second = one_of(draw, available - 1)  # [N, S]
    return torch.minimum(second + (second >= first), (available - 1).clamp(min=0))  # equal if there is but one
