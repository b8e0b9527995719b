"""SynCo: Giakoumoglou & Stathaki, Synthetic Hard Negatives for Contrastive Learning, 2024 (arXiv:2410.02401).

From each query's hardest negatives six kinds of harder ones are made, the first and third of which are MoCHi's.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Fraction, Natural, NonNegative, Several, guarded
from ssl_framework.feature_mixers.base import FeatureMixer, MixedFeatures
from ssl_framework.feature_mixers.hard_negatives import (
    another_of,
    hard_negatives,
    one_of,
    refuse_too_large,
    refuse_too_many,
    uniform,
)
from ssl_framework.functional import unit
from ssl_framework.types import Clock

KINDS = ("interpolated", "extrapolated", "mixed", "noisy", "perturbed", "adversarial")


@guarded
class SynCo(FeatureMixer):
    """Adds synthetic negatives of six kinds to each query, as unit-norm constants.

    Args:
        num_hard: N, how many of the hardest negatives synthesis draws from.
        counts: how many of each kind a query gets, in this order; 0 leaves a kind out.
            1. interpolated: ``a q + (1 - a) n``, a ~ U(0, 0.5).
            2. extrapolated: ``q + b (n - q)``, b ~ U(1, 1.5).
            3. mixed: ``c n + (1 - c) n'``, c ~ U(0, 1), n and n' different.
            4. noisy: n plus Gaussian noise.
            5. perturbed: n moved along the gradient of its inner product with the query, which is the query.
            6. adversarial: n moved along the signs of that gradient.
        sigma: standard deviation of the noise, in each dimension.
        delta: length of the move along the gradient, in gradients.
        eta: length of the move along the signs, in each dimension.
        warmup: share of the run's steps before synthesis starts, in [0, 1].
    """

    needs = frozenset({"negatives"})

    def __init__(
        self,
        num_hard: Several,
        counts: Annotated[Sequence[Natural], Len(6, 6)],
        sigma: NonNegative,
        delta: NonNegative,
        eta: NonNegative,
        warmup: Fraction,
    ) -> None:
        super().__init__()
        if max(counts) == 0:
            raise ValueError(
                f"feature_mixer.counts is {list(counts)}: give the numbers, not all 0, of {', '.join(KINDS)} negatives"
            )
        self.num_hard = num_hard
        self.counts = list(counts)
        self.sigma = sigma
        self.delta = delta
        self.eta = eta
        self.warmup = warmup
        self.fits = 0  # queries whose synthetic negatives are known to fit into memory

    @torch.no_grad()
    def forward(self, features: MixedFeatures, clock: Clock) -> MixedFeatures:
        refuse_too_many(features, self.num_hard)
        if len(features.q) != self.fits:  # asked once, and before the warm-up has passed
            refuse_too_large(features, sum(self.counts), f"feature_mixer.counts={self.counts}")
            self.fits = len(features.q)
        if clock.progress < self.warmup:
            return features
        q, negatives, total = features.q[:, None], features.negatives, sum(self.counts)  # q [N, 1, D]
        hard = hard_negatives(features, self.num_hard)
        generator = clock.generator(q.device)
        first = one_of(uniform(len(q), total, generator, negatives), hard.available)  # [N, S]
        pair = first.split(self.counts, dim=1)[2]  # [N, S_3]
        other = another_of(uniform(len(q), self.counts[2], generator, negatives), pair, hard.available)  # [N, S_3]
        share = uniform(len(q), total, generator, negatives)[..., None]  # [N, S, 1]
        one, two, three, four, five, six = negatives[hard.rows.gather(1, first)].split(self.counts, dim=1)
        shares = share.split(self.counts, dim=1)  # 6 x [N, S_kind, 1]
        kinds = [
            torch.lerp(one, q, 0.5 * shares[0]),
            torch.lerp(q, two, 1 + 0.5 * shares[1]),
            torch.lerp(negatives[hard.rows.gather(1, other)], three, shares[2]),
            four + self.sigma * self.gaussian(len(q), generator, negatives),
            five + self.delta * q,
            six + self.eta * q.sign(),
        ]
        return features._replace(extra=unit(torch.cat(kinds, dim=1)))  # [N, S, D]

    def gaussian(self, num_queries: int, generator: torch.Generator, like: Tensor) -> Tensor:
        """Standard normal noise of the noisy kind, from uniform draws (Box-Muller): [N, S_4, D]."""
        shape = (num_queries, self.counts[3], like.shape[1])
        count = shape[1] * shape[2]
        radius = (-2 * torch.log1p(-uniform(num_queries, count, generator, like))).sqrt()  # [N, S_4 * D]
        return (radius * torch.cos(2 * torch.pi * uniform(num_queries, count, generator, like))).view(shape)
