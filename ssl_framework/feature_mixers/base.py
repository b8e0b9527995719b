"""Mixing of embeddings: what stands between an objective's memory and its logits."""

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from ssl_framework.types import Clock


class MixedFeatures(NamedTuple):
    """What an objective computes its logits from."""

    q: Tensor  # [B, D] queries
    k: Tensor  # [B, D] their positives
    negatives: Tensor  # [K, D] negatives that all queries share
    extra: Tensor | None = None  # [B, S, D] negatives of each query's own


class FeatureMixer(nn.Module):
    """Base of all feature mixers. ``needs`` completes the sentence "X needs ..." in a refusal."""

    needs: ClassVar[str]

    def forward(self, q: Tensor, k: Tensor, negatives: Tensor, clock: Clock) -> MixedFeatures:
        """Returns possibly changed queries, positives and negatives, and negatives to add.

        Args:
            q: [B, D] unit rows, with gradient.
            k: [B, D] unit rows.
            negatives: [K, D] unit rows, alike on every rank.
            clock: for schedules and for randomness that does not depend on the number of ranks.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")
