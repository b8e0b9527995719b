"""InfoNCE, the logarithm that SimCLR, MoCo and their decoupled forms share (van den Oord et al., arXiv:1807.03748).

Each query is told from its negatives; where these come from, and what a feature mixer does to them, is settled before.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.functional import log_sum_exp


class Contrast(NamedTuple):
    """The loss of each query, and without gradient what is logged about it."""

    loss: Tensor  # [N]
    multiplier: Tensor  # [N] one minus the positive's softmax probability: scales every InfoNCE gradient; DCL: one
    first: Tensor  # [N] 1 where the positive ranks before every negative


def contrast(
    features: MixedFeatures, temperature: float, positive_in_denominator: bool, weight: Tensor | float = 1.0
) -> Contrast:
    """``-w q.k / tau + log(sum over negatives, and over the positive if asked, of exp(q.n / tau))``.

    Args:
        features: N queries and their candidates.
        temperature: tau.
        positive_in_denominator: ``False`` is DCL (arXiv:2110.06848, eq. 6).
        weight: of the positive, [N] or 1 (DCLW, eq. 7).
    """
    q, extra = features.q, features.extra
    positive = (q * features.k).sum(dim=1) / temperature  # [N]
    against = q if features.against is None else features.against  # [N, D]
    negatives, hardest = log_sum_exp(against, features.negatives, temperature, features.left_out)  # [N] each
    if extra is not None:
        own = torch.einsum("nd,nsd->ns", against, extra) / temperature  # [N, S]
        negatives = torch.logaddexp(negatives, own.logsumexp(dim=1))  # [N]
        hardest = torch.maximum(hardest, own.detach().amax(dim=1))  # [N]
    denominator = torch.logaddexp(positive, negatives) if positive_in_denominator else negatives  # [N]
    return Contrast(
        denominator - weight * positive,
        torch.sigmoid((negatives - positive).detach()),
        (positive.detach() > hardest).float(),
    )


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


def nt_xent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Mean NT-Xent (SimCLR, eq. 1) over this rank's 2B anchors; rows [B, D] of both views -> scalar."""
    return contrast(in_batch(z0, z1), temperature, positive_in_denominator=True).loss.mean()
