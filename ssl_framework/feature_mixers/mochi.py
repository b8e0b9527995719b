"""MoCHi: Kalantidis et al., Hard Negative Mixing for Contrastive Learning, NeurIPS 2020 (arXiv:2010.01028), section 4.

From each query's hardest negatives two kinds of harder ones are made: mixtures of two of them, and mixtures of one with
the query itself in which the negative dominates.
"""

import torch
from torch import Tensor

from ssl_framework.distributed import own_rows, world_size
from ssl_framework.feature_mixers.base import FeatureMixer, MixedFeatures
from ssl_framework.functional import hardest, unit
from ssl_framework.types import Clock


class MoCHi(FeatureMixer):
    """Adds num_pair + num_query synthetic negatives to each query, as constants.

    Args:
        num_hard: N, how many of the hardest negatives synthesis draws from.
        num_pair: s, mixtures ``a n_i + (1 - a) n_j``, a ~ U(0, 1), i != j.
        num_query: s', mixtures ``b q + (1 - b) n_j``, b ~ U(0, 0.5).
        warmup: share of the run's steps before synthesis starts, in [0, 1].
    """

    needs = "negatives shared by all queries"

    def __init__(self, num_hard: int, num_pair: int, num_query: int, warmup: float) -> None:
        super().__init__()
        if num_hard < 2 or num_pair < 0 or num_query < 0:
            raise ValueError(
                f"feature_mixer has num_hard={num_hard}, num_pair={num_pair}, num_query={num_query}: "
                "num_hard must be at least 2, the others at least 0"
            )
        if not 0 <= warmup <= 1:
            raise ValueError(f"feature_mixer.warmup is {warmup}: it is a share of the run, between 0 and 1")
        self.num_hard = num_hard
        self.num_pair = num_pair
        self.num_query = num_query
        self.warmup = warmup

    def forward(self, q: Tensor, k: Tensor, negatives: Tensor, clock: Clock) -> MixedFeatures:
        if self.num_hard > len(negatives):
            raise ValueError(
                f"feature_mixer.num_hard is {self.num_hard}, but there are only {len(negatives)} negatives: "
                "lower it or raise objective.queue.size"
            )
        if clock.progress < self.warmup or self.num_pair + self.num_query == 0:
            return MixedFeatures(q, k, negatives)
        with torch.no_grad():
            hard = hardest(q, negatives, self.num_hard)  # [B, N]
            extra = self.synthesize(q.detach(), negatives, hard, self.draw(len(q), clock, q))  # [B, s + s', D]
        return MixedFeatures(q, k, negatives, extra)

    def draw(self, rows: int, clock: Clock, like: Tensor) -> tuple[Tensor, Tensor]:
        """Ranks in the hard list, and shares, for one rank's queries.

        Drawn for the global batch from the generator that all ranks share, then cut: a query's synthetic negatives do
        not depend on how many ranks the batch is spread over.

        Returns:
            [B, 2s + s'] int64 in [0, N): first partners, second partners, partners of the query;
            [B, s + s'] shares of the first partner, of the query.
        """
        s, s_query, total = self.num_pair, self.num_query, rows * world_size()
        generator = clock.generator(like.device)
        uniform = torch.rand(total, 2 * s + s_query, generator=generator, device=like.device)  # [W * B, 2s + s']
        ranks = (uniform * self.num_hard).long().clamp(max=self.num_hard - 1)  # float32 may round up to N
        second = (uniform[:, s : 2 * s] * (self.num_hard - 1)).long().clamp(max=self.num_hard - 2)
        ranks[:, s : 2 * s] = second + (second >= ranks[:, :s])  # uniform over the N - 1 others, so that i != j
        share = torch.rand(total, s + s_query, generator=generator, device=like.device, dtype=like.dtype)
        share[:, s:] *= 0.5  # [W * B, s + s']: the negative dominates the query
        return own_rows(ranks), own_rows(share)

    def synthesize(self, q: Tensor, negatives: Tensor, hard: Tensor, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """Unit-norm synthetic negatives.

        Args:
            q: [B, D]; negatives: [K, D]; unit rows.
            hard: [B, N] rows of ``negatives``, hardest first.
            drawn: as ``draw`` returns it.

        Returns:
            [B, s + s', D]: pair mixtures, then query mixtures.
        """
        ranks, share = drawn
        s = self.num_pair
        rows = hard.gather(1, ranks)  # [B, 2s + s']
        first = torch.cat([negatives[rows[:, :s]], q[:, None].expand(-1, self.num_query, -1)], dim=1)  # [B, s + s', D]
        second = negatives[rows[:, s:]]  # [B, s + s', D]
        return unit(torch.lerp(second, first, share[..., None]))  # without normalisation they would be easier
