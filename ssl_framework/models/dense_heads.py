"""Heads that keep places apart: they read a map, one vector a position, and give one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, Positive, Several, guarded
from ssl_framework.functional import positions, unit
from ssl_framework.models.heads import Head


@guarded
class DenseHead(Head):
    """``MLPHead`` at every position, as 1 x 1 convolutions: [B, in, h, w] -> [B, out, h, w].

    Args:
        source: which map it reads ("map", or an earlier head's name).
        hidden: widths of the hidden layers; an empty list gives one linear layer.
        out: width of the output.
        norm: batch normalisation after each hidden layer, over samples and positions.
        gelu: GELU in the place of ReLU.
    """

    def __init__(self, source: str, hidden: Sequence[Count], out: Count, norm: bool = True, gelu: bool = False) -> None:
        super().__init__(source)
        self.hidden = hidden
        self.out = out
        self.norm = norm
        self.gelu = gelu

    def build(self, width: int) -> None:
        layers: list[nn.Module] = []
        for hidden in self.hidden:
            layers += [nn.Conv2d(width, hidden, 1, bias=not self.norm)]
            layers += [nn.BatchNorm2d(hidden)] if self.norm else []
            layers += [nn.GELU() if self.gelu else nn.ReLU(inplace=True)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, self.out, 1))

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in, h, w] -> [B, out, h, w]"""
        return self.layers(outputs[self.source])


@guarded
class PixelPropagation(Head):
    """Each position takes up what similar ones hold (PixPro, arXiv:2011.10043, eq. 3): [B, in, h, w] -> [B, in, h, w].

    ``y_i = sum_j max(cos(x_i, x_j), 0)^gamma g(x_j)``, with g one 1 x 1 convolution, its outputs of unit length as in
    the authors' code.

    Args:
        source: which map it reads, mostly the projector's.
        gamma: sharpness, above 0; the paper: 2.
    """

    def __init__(self, source: str, gamma: Positive) -> None:
        super().__init__(source)
        self.gamma = gamma

    def build(self, width: int) -> None:
        self.out = width
        self.transform = nn.Conv2d(width, width, 1)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in, h, w] -> [B, in, h, w], not of unit length"""
        source = outputs[self.source]
        x, value = (unit(positions(part)) for part in (source, self.transform(source)))  # [B, h * w, in] each
        alike = (x @ x.transpose(1, 2)).clamp(min=0)  # [B, h * w, h * w]
        # The authors add 1e-6 below 1, where the slope at 0 is infinite.
        alike = (alike + 1e-6 if self.gamma < 1 else alike) ** self.gamma  # [B, h * w, h * w]
        return (alike @ value).transpose(1, 2).unflatten(2, source.shape[2:])  # [B, in, h, w]


@guarded
class Prototypes(Head):
    """Cosines of every position with learned prototypes: [B, in, h, w] -> [B, number, h, w].

    Args:
        source: which map it reads.
        number: K, of the prototypes.
    """

    def __init__(self, source: str, number: Several) -> None:
        super().__init__(source)
        self.out = number

    def build(self, width: int) -> None:
        self.rows = nn.Parameter(torch.randn(self.out, width))  # [K, in]

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in, h, w] -> [B, number, h, w] in [-1, 1]"""
        x = outputs[self.source]
        cosine = unit(positions(x)) @ unit(self.rows).T  # [B, h * w, K]
        return cosine.transpose(1, 2).unflatten(2, x.shape[2:])  # [B, K, h, w]
