"""Heads: what sits on the backbone during pretraining and is thrown away afterwards."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class Head(nn.Module):
    """Base of all heads: reads the features of a view, returns [B, ``out``]."""

    out: int


class MLPHead(Head):
    """Linear layers with optional batch normalisation and ReLU between them: [B, in] -> [B, out].

    Args:
        dims: widths of the features known so far, filled in by the encoder.
        source: which of them this head reads ("pooled", or an earlier head's name).
        hidden: widths of the hidden layers; an empty list gives one linear layer.
        out: width of the output.
        norm: batch normalisation after each hidden layer.
        last_norm: batch normalisation without scale and shift after the last layer.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        source: str,
        hidden: Sequence[int],
        out: int,
        norm: bool = True,
        last_norm: bool = False,
    ) -> None:
        super().__init__()
        before = width_of(dims, source)
        self.source = source
        self.out = out
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(before, width, bias=not norm)]
            layers += [nn.BatchNorm1d(width)] if norm else []
            layers += [nn.ReLU(inplace=True)]
            before = width
        layers += [nn.Linear(before, out, bias=not last_norm)]
        layers += [nn.BatchNorm1d(out, affine=False)] if last_norm else []
        self.layers = nn.Sequential(*layers)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, out]"""
        return self.layers(outputs[self.source])


class LayerNormHead(Head):
    """Layer normalisation with learned scale and shift: [B, in] -> [B, in].

    Args:
        dims: widths of the features known so far, filled in by the encoder.
        source: which of them it normalises.
    """

    def __init__(self, dims: Mapping[str, int], source: str) -> None:
        super().__init__()
        self.out = width_of(dims, source)
        self.source = source
        self.norm = nn.LayerNorm(self.out)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, in]"""
        return self.norm(outputs[self.source])


def width_of(dims: Mapping[str, int], source: str) -> int:
    """Width of the features a head reads.

    Raises:
        ValueError: there are none of that name.
    """
    if source not in dims:
        raise ValueError(f"a head has source={source}, but the encoder offers {sorted(dims)} at this point")
    return dims[source]
