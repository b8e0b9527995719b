"""Feature transformation: Zhu et al., Improving Contrastive Learning by Visualizing Feature Transformation, ICCV 2021
(arXiv:2108.02982), section 4.

Positives are extrapolated away from each other, which makes them harder; negatives are interpolated with each other,
which makes them more diverse. Neither is brought back to length one unless asked for.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Fraction, Positive, guarded
from ssl_framework.feature_mixers.base import FeatureMixer, MixedFeatures
from ssl_framework.functional import unit
from ssl_framework.types import Clock


@guarded
class FeatureTransform(FeatureMixer):
    """Changes the positive pair and the negatives; the queue keeps the unchanged keys.

    Args:
        alpha_positive: the pair becomes ``l q + (1 - l) k`` and ``l k + (1 - l) q`` with l = 1 + Beta(alpha, alpha), in
            (1, 2); ``None`` leaves it.
        alpha_negative: the negatives become ``l n + (1 - l) n'``, n' one permutation of them, l ~ Beta(alpha, alpha);
            ``None`` leaves them.
        extrapolate: ``False`` takes l = Beta(alpha, alpha) for the pair, which makes it easier (the paper's control).
        per_dimension: a share for every number ("dimension-level mixing") instead of one for the whole batch.
        renormalise: bring the transformed pair back to length one.
        original_against_negatives: the negatives meet the unchanged query; ``False``, the authors' code: the
            transformed one.
        start: share of the run's steps before it begins, in [0, 1].

    Raises:
        ValueError: nothing to transform, or a value out of its range.
    """

    # Negatives are mixed with each other, so that one left out for a query would come back through another.
    needs = frozenset({"positive pairs", "negatives shared by all queries"})

    def __init__(
        self,
        alpha_positive: Positive | None,
        alpha_negative: Positive | None,
        extrapolate: bool,
        per_dimension: bool,
        renormalise: bool,
        original_against_negatives: bool,
        start: Fraction,
    ) -> None:
        super().__init__()
        if alpha_positive is None and alpha_negative is None:
            raise ValueError(
                "feature_mixer has no alpha_positive and no alpha_negative: set one, or feature_mixer=none"
            )
        self.alpha_positive = alpha_positive
        self.alpha_negative = alpha_negative
        self.extrapolate = extrapolate
        self.per_dimension = per_dimension
        self.renormalise = renormalise
        self.original_against_negatives = original_against_negatives
        self.start = start
        if alpha_negative is None:
            self.needs = frozenset({"positive pairs"})

    def forward(self, features: MixedFeatures, clock: Clock) -> MixedFeatures:
        if clock.progress < self.start:
            return features
        q, k, negatives = features.q, features.k, features.negatives
        generator = clock.generator(q.device)  # alike on all ranks, so that they transform the same memory alike
        if self.alpha_positive is not None:
            share = self.draw(self.alpha_positive, q, generator) + (1.0 if self.extrapolate else 0.0)
            q, k = self.transform_pair(q, k, share)
        if self.alpha_negative is not None:
            share = self.draw(self.alpha_negative, negatives, generator)
            order = torch.randperm(len(negatives), generator=generator, device=negatives.device)  # [K]
            negatives = share * negatives + (1 - share) * negatives[order]  # [K, D]
        against = features.q if self.original_against_negatives else None
        return features._replace(q=q, k=k, negatives=negatives, against=against)

    def transform_pair(self, q: Tensor, k: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Both of the pair, [B, D] each, with gradient through q in both."""
        pair = share * q + (1 - share) * k, share * k + (1 - share) * q
        return (unit(pair[0]), unit(pair[1])) if self.renormalise else pair

    def draw(self, alpha: float, like: Tensor, generator: torch.Generator) -> Tensor:
        """Beta(alpha, alpha): one for all [1, 1], or with ``per_dimension`` one for each dimension [1, D].

        Every rank draws the same, and it does not depend on how the batch is spread over ranks.
        """
        shape = (2, 1, like.shape[1] if self.per_dimension else 1)
        first, second = torch._standard_gamma(
            torch.full(shape, alpha, device=like.device, dtype=like.dtype), generator=generator
        )  # 2 x [1, 1] or 2 x [1, D]
        return first / (first + second)
