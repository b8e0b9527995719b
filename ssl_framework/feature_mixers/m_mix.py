"""M-Mix: Zhang et al., M-Mix: Generating Hard Negatives via Multi-sample Mixing for Contrastive Learning, KDD 2022.

Each embedding of the first view becomes a mixture of all those of the batch that are much like it, itself among them,
weighed by a softmax of their similarities: a harder positive for the second view, and a harder negative for the others.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Cosine, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.feature_mixers.base import FeatureMixer, MixedFeatures, in_batch
from ssl_framework.functional import by_tiles, unit
from ssl_framework.types import Clock


@guarded
class MMix(FeatureMixer):
    """Mixes the first view, wherever it appears: as queries, as keys of the second, and as negatives.

    Args:
        threshold: cosine similarity above which a sample of the global batch takes part, in (-1, 1).
    """

    needs = frozenset({"positive pairs", "queries of both views"})

    def __init__(self, threshold: Cosine) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, features: MixedFeatures, clock: Clock) -> MixedFeatures:
        z0, z1 = features.q[0::2], features.q[1::2]  # [B, D] each
        itself = rank() * len(z0) + torch.arange(len(z0), device=z0.device)  # [B]
        (mixed,) = by_tiles(self.mixtures, gather_with_grad(z0), z0.detach(), itself)  # [B, D]
        return in_batch(unit(mixed), z1)

    def mixtures(self, everyone: Tensor, z: Tensor, itself: Tensor) -> tuple[Tensor]:
        """The mean of each row and its neighbours; no gradient reaches the weights.

        Args:
            everyone: [W * B, D] unit rows of the global batch.
            z: [R, D] some of them.
            itself: [R] int64, which ones; they take part whatever their length.

        Returns:
            [R, D], not normalised.
        """
        cosine = z @ everyone.detach().T  # [R, W * B]
        own = itself[:, None] == torch.arange(len(everyone), device=z.device)  # [R, W * B]
        weight = cosine.masked_fill((cosine <= self.threshold) & ~own, float("-inf")).softmax(dim=1)  # [R, W * B]
        return (weight @ everyone,)
