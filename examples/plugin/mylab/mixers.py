"""A rule of mixing two images."""

import torch
from torch import Tensor

from ssl_framework.mixers.base import Context, uniform
from ssl_framework.mixers.rules import owned, partners


class Rows:
    """Every row of pixels is of the own image with a probability, else the partner's.

    Args:
        share: the probability, in [0, 1].
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"mixer.rule.share is {share}: it must be in [0, 1]")
        self.share = share

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and how much of each pixel is of whom [B, 2, h, w]."""
        own = uniform((len(x), 1, x.shape[2], 1), x, context.draws(True)) < self.share  # [B, 1, h, 1]
        mixed = torch.where(own, x, partners(x, source))  # [B, C, h, w]
        return mixed, owned(own.to(x.dtype).expand(-1, 1, *x.shape[2:]))
