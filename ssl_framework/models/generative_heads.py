"""Heads of auto-encoders: a draw of a Gaussian that an earlier head describes, and pixels from it.

B samples of a view, D latent dimensions, C channels, S pixels a side.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Channels, Count, Pixels, guarded
from ssl_framework.functional import bounded
from ssl_framework.models.heads import Head, linear_by_linear


@guarded
class GaussianSample(Head):
    """``mean + exp(log variance / 2) noise`` in training, the mean in eval mode: [B, 2 D] -> [B, D].

    Args:
        source: an earlier head that gives means and, after them, logarithms of variances, which count as ``bounded``.
    """

    def build(self, width: int) -> None:
        """Raises ValueError: the source is of odd width."""
        if width % 2:
            raise ValueError(
                f"a head of samples reads {self.source}, which has {width} numbers: means and log variances are "
                f"equally many, so set student.heads.{self.source}.out to an even number"
            )
        self.out = width // 2

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, 2 D] -> [B, D]"""
        mean, log_variance = outputs[self.source].chunk(2, dim=1)  # [B, D] each
        if not self.training:
            return mean
        return mean + (bounded(log_variance) / 2).exp() * torch.randn_like(mean)


@guarded
class PixelDecoder(Head):
    """Linear layers with ReLU between them, whose output is the pixels of a view: [B, D] -> [B, C * S * S].

    Args:
        source: which features it reads.
        hidden: widths of the hidden layers.
        channels: C.
        image_size: S.
    """

    def __init__(self, source: str, hidden: Sequence[Count], channels: Channels, image_size: Pixels) -> None:
        super().__init__(source)
        self.hidden = hidden
        self.out = channels * image_size**2

    def build(self, width: int) -> None:
        layers: list[nn.Module] = []
        for hidden in self.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(inplace=True)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, self.out))

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, D] -> [B, C * S * S], normalised pixels, the columns innermost"""
        return self.layers(outputs[self.source])

    def each_layer(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """After each linear layer with its ReLU: [B, hidden] ..., [B, C * S * S]"""
        return linear_by_linear(self.layers, outputs[self.source])
