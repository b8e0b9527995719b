"""InfoNCE, the logarithm that SimCLR, MoCo and their decoupled forms share (van den Oord et al., arXiv:1807.03748).

Each query is told from its negatives; where these come from, and what a feature mixer does to them, is settled before.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.feature_mixers.base import MixedFeatures, Mixture, in_batch
from ssl_framework.functional import left_out_columns, log_sum_exp
from ssl_framework.types import Mix


class Contrast(NamedTuple):
    """The loss of each query, and without gradient what is logged about it."""

    loss: Tensor  # [N]
    multiplier: Tensor  # [N] one minus the positive's softmax probability: scales every InfoNCE gradient; DCL: one
    first: Tensor  # [N] 1 where the positive ranks before every negative
    synthetic: Tensor | None  # [N] 1 where the hardest negative is one of the query's own, made by a feature mixer

    def logged(self) -> dict[str, Tensor]:
        """The means over queries of what is no loss."""
        out = {"proxy_accuracy": self.first.mean(), "npc_multiplier": self.multiplier.mean()}
        return out if self.synthetic is None else {**out, "hardest_synthetic": self.synthetic.mean()}


def contrast(
    features: MixedFeatures, temperature: float, positive_in_denominator: bool, weight: Tensor | float = 1.0
) -> Contrast:
    """``-w q.k / tau + log(sum over negatives, and over the positive if asked, of exp(q.n / tau))``.

    Args:
        features: N queries and their candidates.
        temperature: tau.
        positive_in_denominator: ``False`` is DCL (arXiv:2110.06848, eq. 6).
        weight: of the positive, [N] or 1 (DCLW, eq. 7).

    Raises:
        ValueError: nothing would be left in the denominator.
    """
    left = len(features.negatives) - left_out_columns(features.left_out)
    if left < 1 and not positive_in_denominator and features.extra is None:
        raise ValueError("the global batch has no negatives besides the positives: raise data.batch_size")
    q, extra = features.q, features.extra
    positive = (q * features.k).sum(dim=1) / temperature  # [N]
    against = q if features.against is None else features.against  # [N, D]
    negatives, hardest = log_sum_exp(against, features.negatives, temperature, features.left_out)  # [N] each
    synthetic = None
    if extra is not None:
        own = torch.einsum("nd,nsd->ns", against, extra) / temperature  # [N, S]
        negatives = torch.logaddexp(negatives, own.logsumexp(dim=1))  # [N]
        hardest_own = own.detach().amax(dim=1)  # [N]
        synthetic = (hardest_own > hardest).float()  # [N]
        hardest = torch.maximum(hardest, hardest_own)  # [N]
    each = positive[:, None]  # [N, 1]
    if features.mixture is not None:
        each = torch.einsum("nd,npd->np", q, features.mixture.keys) / temperature  # [N, P]
        each = each.masked_fill(features.mixture.absent, float("-inf"))
    positives = each.logsumexp(dim=1)  # [N]
    denominator = torch.logaddexp(positives, negatives) if positive_in_denominator else negatives  # [N]
    return Contrast(
        denominator - weight * positive,
        torch.sigmoid((negatives - positives).detach()),
        (each.detach().amax(dim=1) > hardest).float(),
        synthetic,
    )


def pairs(z0: Tensor, z1: Tensor, mix: list[Mix | None] | None) -> MixedFeatures:
    """``in_batch``, or ``mixed_queries`` where one of the two views [B, D] was mixed."""
    mixed = [v for v, each in enumerate(mix or []) if each is not None]
    if not mixed:
        return in_batch(z0, z1)
    if len(mixed) > 1:
        raise ValueError(f"mixer.views is {mixed}, but one view has to stay clean: name one of them")
    (v,) = mixed
    each = mix[v] if mix is not None else None
    assert each is not None
    return mixed_queries((z0, z1)[v], (z0, z1)[1 - v], each, None)


def mixed_queries(q: Tensor, k: Tensor, mix: Mix, memory: Tensor | None) -> MixedFeatures:
    """Mixed samples as queries (i-Mix, arXiv:2010.08887): each has the keys of its sources, with their shares, and
    has to tell them from all other keys of the global batch, and from a memory.

    Args:
        q: [B, D] unit rows of the mixed view.
        k: [B, D] unit rows of the clean samples.
        mix: what was mixed.
        memory: [K, D] further negatives, if any.

    Returns:
        B queries.
    """
    keys = gather_with_grad(k)  # [W * B, D]
    same = mix.source[:, :, None] == mix.source[:, None]  # [B, P, P]
    absent = same.tril(-1).any(dim=2)  # [B, P]: named before
    return MixedFeatures(
        q,
        mean_of_sources(k, mix),  # [B, D]
        keys if memory is None else torch.cat([keys, memory]),  # [W * B + K, D]
        (rank() * len(k) + mix.source,),  # left out: [B, P]
        mixture=Mixture(k[mix.source], absent),  # [B, P, D]
    )


def mean_of_sources(k: Tensor, mix: Mix) -> Tensor:
    """The keys of a mixture's sources, weighed by their shares (i-Mix): [B, D] -> [B, D]."""
    return (mix.share.to(k.dtype)[..., None] * k[mix.source]).sum(dim=1)


def nt_xent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Mean NT-Xent (SimCLR, eq. 1) over this rank's 2B anchors; rows [B, D] of both views -> scalar."""
    return contrast(in_batch(z0, z1), temperature, positive_in_denominator=True).loss.mean()
