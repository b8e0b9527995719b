"""MoCHi: Kalantidis et al., Hard Negative Mixing for Contrastive Learning, NeurIPS 2020 (arXiv:2010.01028), section 4.

From each query's hardest negatives two kinds of harder ones are made: mixtures of two of them, and mixtures of one with
the query itself in which the negative dominates.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Fraction, Natural, Several, guarded
from ssl_framework.feature_mixers.base import FeatureMixer, MixedFeatures
from ssl_framework.feature_mixers.hard_negatives import (
    HardNegatives,
    another_of,
    hard_negatives,
    one_of,
    refuse_too_large,
    refuse_too_many,
    uniform,
)
from ssl_framework.functional import unit
from ssl_framework.types import Clock


@guarded
class MoCHi(FeatureMixer):
    """Adds num_pair + num_query synthetic negatives to each query, as constants.

    Args:
        num_hard: N, how many of the hardest negatives synthesis draws from.
        num_pair: s, mixtures ``a n_i + (1 - a) n_j``, a ~ U(0, 1), i != j; 0 leaves them out.
        num_query: s', mixtures ``b q + (1 - b) n_j``, b ~ U(0, 0.5); 0 leaves them out.
        warmup: share of the run's steps before synthesis starts, in [0, 1].
    """

    needs = frozenset({"negatives"})

    def __init__(self, num_hard: Several, num_pair: Natural, num_query: Natural, warmup: Fraction) -> None:
        super().__init__()
        self.num_hard = num_hard
        self.num_pair = num_pair
        self.num_query = num_query
        self.warmup = warmup
        self.keys = f"feature_mixer.num_pair={num_pair} and feature_mixer.num_query={num_query}"
        self.fits = 0  # queries whose synthetic negatives are known to fit into memory

    @torch.no_grad()
    def forward(self, features: MixedFeatures, clock: Clock) -> MixedFeatures:
        refuse_too_many(features, self.num_hard)
        if len(features.q) != self.fits:  # asked once, and before the warm-up has passed
            refuse_too_large(features, self.num_pair + self.num_query, self.keys)
            self.fits = len(features.q)
        if clock.progress < self.warmup or self.num_pair + self.num_query == 0:
            return features
        hard = hard_negatives(features, self.num_hard)
        ranks, share = self.draw(hard.available, clock, features.q)
        return features._replace(extra=self.synthesize(features.q, features.negatives, hard, ranks, share))

    def draw(self, available: Tensor, clock: Clock, like: Tensor) -> tuple[Tensor, Tensor]:
        """What is mixed, and how.

        Returns:
            [N, 2s + s'] int64 ranks in the hard list: first partners, second partners, partners of the query;
            [N, s + s'] shares of the first partner, of the query.
        """
        generator, rows = clock.generator(like.device), len(available)
        s, s_query = self.num_pair, self.num_query
        first = one_of(uniform(rows, s, generator, like), available)  # [N, s]
        second = another_of(uniform(rows, s, generator, like), first, available)  # [N, s]
        of_query = one_of(uniform(rows, s_query, generator, like), available)  # [N, s']
        share = uniform(rows, s + s_query, generator, like)  # [N, s + s']
        share[:, s:] *= 0.5  # the negative dominates the query
        return torch.cat([first, second, of_query], dim=1), share  # [N, 2s + s'], [N, s + s']

    def synthesize(self, q: Tensor, negatives: Tensor, hard: HardNegatives, ranks: Tensor, share: Tensor) -> Tensor:
        """Unit-norm synthetic negatives: pair mixtures, then query mixtures.

        Args:
            q: [N, D]; negatives: [K, D]; unit rows.
            hard: each query's hard negatives.
            ranks, share: as ``draw`` returns them.

        Returns:
            [N, s + s', D]
        """
        s = self.num_pair
        rows = hard.rows.gather(1, ranks)  # [N, 2s + s']
        first = torch.cat([negatives[rows[:, :s]], q[:, None].expand(-1, self.num_query, -1)], dim=1)  # [N, s + s', D]
        second = negatives[rows[:, s:]]  # [N, s + s', D]
        return unit(torch.lerp(second, first, share[..., None]))  # without normalisation they would be easier
