"""A projection head."""

from collections.abc import Mapping

from torch import Tensor, nn

from ssl_framework.models.heads import Head, width_of


class LinearNorm(Head):
    """One linear layer and a layer normalisation: [B, in] -> [B, out].

    Args:
        dims: widths of the features known so far, filled in by the encoder.
        source: which of them it reads.
        out: width of the output.
    """

    def __init__(self, dims: Mapping[str, int], source: str, out: int) -> None:
        super().__init__()
        self.source = source
        self.out = out
        self.layers = nn.Sequential(nn.Linear(width_of(dims, source), out), nn.LayerNorm(out))

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, out]"""
        return self.layers(outputs[self.source])
