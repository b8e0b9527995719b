"""Mixing of maps inside the student: the images stay as they are, and behind one block of the backbone the rows of a
mixed view become mixtures of their own and their partners' maps.

    Manifold Mixup  Verma et al., ICML 2019 (arXiv:1806.05236): a weighted mean behind a block drawn at every step
    AlignMix        Venkataramanan et al., CVPR 2022 (arXiv:2103.15375): the same after one map is moved onto the other

B samples, C channels, h x w positions of a map, N of them together.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.functional import balanced, full_precision
from ssl_framework.mixers.base import Context, HiddenRule
from ssl_framework.mixers.rules import Share, owned, partners
from ssl_framework.types import Mix


@guarded
class ManifoldMixup(HiddenRule):
    """``l F + (1 - l) F_other`` behind one of several blocks, l ~ Beta(alpha, alpha).

    Args:
        alpha: of the Beta distribution.
        per_sample: a share for every sample instead of one for the batch.
        layers: blocks to choose from, each step anew; 0 is the images, -1 the last block.
    """

    def __init__(self, alpha: Positive, per_sample: bool, layers: Annotated[Sequence[int], Len(1)]) -> None:
        self.share = Share(alpha, per_sample, dominant=False)
        self.layers = list(layers)

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """See ``HiddenRule``."""
        return x, owned(self.share(x, context)[:, None, None, None])  # [B, 2, 1, 1]

    def mix(self, maps: Tensor, mix: Mix, draw: int) -> Tensor:
        """[B, C, h, w] maps, [B, N, C] tokens, ... -> the same shape."""
        return mean(maps, partners(maps, mix.source), mix)


@guarded
class AlignMix(HiddenRule):
    """``l F + (1 - l) P F_other`` or ``l P' F + (1 - l) F_other``, with the positions of one map moved to those of the
    other by optimal transport P (section 3.2). Which of the two is drawn at every step.

    The cost is the squared distance of two positions' features; all positions weigh the same; the plan has no gradient.

    Args:
        alpha, per_sample, layers: as for ``ManifoldMixup``.
        epsilon: of the entropy of the plan, above 0.
        iterations: of Sinkhorn's algorithm, at least 1.
    """

    def __init__(
        self,
        alpha: Positive,
        per_sample: bool,
        layers: Annotated[Sequence[int], Len(1)],
        epsilon: Positive,
        iterations: Count,
    ) -> None:
        self.share = Share(alpha, per_sample, dominant=False)
        self.layers = list(layers)
        self.epsilon = epsilon
        self.iterations = iterations

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """See ``HiddenRule``."""
        return x, owned(self.share(x, context)[:, None, None, None])  # [B, 2, 1, 1]

    def mix(self, maps: Tensor, mix: Mix, draw: int) -> Tensor:
        """[B, C, h, w] maps or [B, N, C] tokens -> the same shape."""
        own = maps.flatten(2).transpose(1, 2) if maps.ndim == 4 else maps  # [B, N, C]
        other = partners(own, mix.source)  # [B, N, C]
        plan = transport(own, other, self.epsilon, self.iterations).to(own.dtype)  # [B, N, N]
        pair = (plan.transpose(1, 2) @ own, other) if draw % 2 else (own, plan @ other)  # [B, N, C] each
        # Who is mixed with nobody is not moved either.
        mixed = torch.where(mix.share[:, :1, None] < 1, mean(*pair, mix), own)  # [B, N, C]
        return mixed.transpose(1, 2).reshape(maps.shape) if maps.ndim == 4 else mixed


def mean(own: Tensor, other: Tensor, mix: Mix) -> Tensor:
    """``l own + (1 - l) other`` with the shares of the record; [B, ...] each."""
    share = mix.share[:, 0].reshape(-1, *[1] * (own.ndim - 1))  # [B, 1, ...]
    return torch.lerp(other, own, share.to(own.dtype))


@torch.no_grad()
def transport(a: Tensor, b: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Sinkhorn's plan between two sets of N features of equal weights, in logarithms: distances may be large.

    Args:
        a, b: [B, N, C].
        epsilon: of the entropy.
        iterations: each balances the rows and then the columns.

    Returns:
        [B, N, N] float32 (float64 if the features are): N times the plan, so that its columns sum to one exactly and
        its rows the better the more iterations.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = full_precision(a), full_precision(b)
        lengths = b.square().sum(dim=2)[:, None]  # [B, 1, N]; those of a cancel in the first step
        plan = (2 * (a @ b.transpose(1, 2)) - lengths) / epsilon  # [B, N, N] logarithms
        return balanced(plan, iterations).exp()
