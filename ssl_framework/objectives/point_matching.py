"""Which points of two contours lie on each other, learnt by a focal loss: the first network of Zhou et al., PairingNet,
2023 (arXiv:2312.08704), with the numbers of the authors' code.

Points that lie on each other get a high entry in the similarity matrix of both contours, all others a low one.

B pairs of contours, N and M points of them, D features.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Fraction, NonNegative, Positive, guarded
from ssl_framework.functional import full_precision


@guarded
class PointMatching:
    """The focal loss of all pairs of points of two contours, see ``correspondence`` and ``matching``.

    Args:
        temperature: of the products of features, which are not normalised; the authors': the root of D.
        alpha, gamma, factor: of ``matching``.
        features: name of the student's output that is compared, [B, T, D], a vector a point.
    """

    def __init__(
        self,
        temperature: Positive,
        alpha: Fraction,
        gamma: NonNegative,
        factor: Positive,
        features: str,
    ) -> None:
        self.temperature, self.alpha, self.gamma, self.factor = temperature, alpha, gamma, factor
        self.features = features

    def __call__(self, a: Tensor, b: Tensor, partner: Tensor) -> Tensor:
        """Features [B, N, D] and [B, M, D], and the point of b on each point of a, [B, N] int64, -1: none -> scalar."""
        match = partner[..., None] == torch.arange(b.shape[1], device=b.device)  # [B, N, M]
        found = correspondence(full_precision(a), full_precision(b), self.temperature)  # [B, N, M]
        return matching(found, match, self.alpha, self.gamma, self.factor)


def correspondence(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Which points of two contours lie on each other: the product of the softmax over rows and over columns.

    Args:
        a, b: features of the points, [B, N, D] and [B, M, D].
        temperature: tau.

    Returns:
        [B, N, M], each entry in (0, 1).
    """
    logits = torch.einsum("bnd,bmd->bnm", a, b) / temperature  # [B, N, M]
    return logits.softmax(dim=1) * logits.softmax(dim=2)


def matching(
    probability: Tensor, match: Tensor, alpha: float, gamma: float, factor: float, valid: Tensor | None = None
) -> Tensor:
    """The focal loss ``-alpha (1 - p)^gamma log p`` of matches and ``-(1 - alpha) p^gamma log(1 - p)`` of all other
    pairs of points, the mean over both, times a factor.

    Args:
        probability: p, [B, N, M] in [0, 1].
        match: bool, likewise: which pairs lie on each other.
        alpha, gamma, factor: the authors' code: 0.55, 8 and 400.
        valid: bool, likewise: which pairs are of points that are there; ``None``: all.
    """
    there = torch.ones_like(match) if valid is None else valid | match  # [B, N, M]
    hit = alpha * (1 - probability) ** gamma * probability.clamp(min=1e-9).log()  # [B, N, M]
    miss = (1 - alpha) * probability**gamma * (1 - probability).clamp(min=1e-9).log()  # [B, N, M]
    return -factor * (torch.where(match, hit, miss) * there).sum() / there.sum()
