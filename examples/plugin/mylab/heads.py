"""A projection head."""

from collections.abc import Mapping

from torch import Tensor, nn

from ssl_framework.models.heads import Head


class LinearNorm(Head):
    """One linear layer and a layer normalisation: [B, in] -> [B, out].

    Args:
        source: which features it reads.
        out: width of the output.
    """

    def __init__(self, source: str, out: int) -> None:
        super().__init__(source)
        self.out = out

    def build(self, width: int) -> None:
        """Makes the layers for features of this width, which the encoder knows."""
        self.layers = nn.Sequential(nn.Linear(width, self.out), nn.LayerNorm(self.out))

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, out]"""
        return self.layers(outputs[self.source])
