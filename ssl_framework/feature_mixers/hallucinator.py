"""Hallucinator: Wu, Hobbs & Hovakimyan, Hallucination Improves the Performance of Unsupervised Visual Representation
Learning, ICCV 2023 (arXiv:2307.12168), section 3.

From each positive pair a small network makes one more query: it sees the query and a copy pushed a little away from the
key, and what it returns must find the same key. It is trained with the encoder.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, guarded
from ssl_framework.feature_mixers.base import FeatureMixer, MixedFeatures
from ssl_framework.functional import SameClass, unit
from ssl_framework.types import Clock


@guarded
class Hallucinator(FeatureMixer):
    """Doubles the queries: to each its hallucinated one, with the same positive and the same negatives.

    Args:
        dim: width D of the embeddings.
        hidden: widths of the network's hidden layers.
        max_push: the copy is ``(1 + l) q - l k``, l ~ U(0, max_push), one l for the whole batch.
    """

    needs = frozenset({"positive pairs"})

    def __init__(self, dim: Count, hidden: Sequence[Count], max_push: NonNegative) -> None:
        super().__init__()
        self.max_push = max_push
        widths = [2 * dim, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        self.generator = nn.Sequential(*layers, nn.Linear(widths[-1], dim))

    def forward(self, features: MixedFeatures, clock: Clock) -> MixedFeatures:
        q, k = features.q, features.k
        generator = clock.generator(q.device)
        push = self.max_push * torch.rand((), generator=generator, device=q.device, dtype=q.dtype)
        pushed = (1 + push) * q - push * k  # [N, D]
        hallucinated = unit(self.generator(torch.cat([q, pushed], dim=1)))  # [N, D]
        return MixedFeatures(
            torch.cat([q, hallucinated]),  # [2N, D]
            torch.cat([k, k]),  # [2N, D]
            features.negatives,
            tuple(twice(left_out) for left_out in features.left_out),
        )


def twice(left_out: Tensor | SameClass) -> Tensor | SameClass:
    """What is left out for N anchors, for the same anchors one after the other, 2N."""
    if isinstance(left_out, SameClass):
        return left_out._replace(anchor=torch.cat([left_out.anchor, left_out.anchor]))
    return torch.cat([left_out, left_out])
