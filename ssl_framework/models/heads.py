"""Heads: what sits on the backbone during pretraining and is thrown away afterwards."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_framework.arguments import AtLeastOne, Classes, Width, guarded


class Head(nn.Module):
    """Base of all heads: reads the features of a view under the name ``source``, returns [B, ``out``]."""

    out: int
    source: str

    def each_layer(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """What every layer gives, first to last; the last is the head's output. One layer unless a head says more."""
        return [self(outputs)]


@guarded
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
        hidden: Sequence[Width],
        out: Width,
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

    def each_layer(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """After each linear layer with its normalisation and ReLU: [B, hidden] ..., [B, out]"""
        return linear_by_linear(self.layers, outputs[self.source])


@guarded
class Classifier(Head):
    """Class scores, linear in the features: [B, in] -> [B, num_classes].

    Args:
        dims: widths of the features known so far, filled in by the encoder.
        source: which of them it reads.
        num_classes: at least 2.
    """

    def __init__(self, dims: Mapping[str, int], source: str, num_classes: Classes) -> None:
        super().__init__()
        self.out = num_classes
        self.source = source
        self.linear = nn.Linear(width_of(dims, source), num_classes)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, num_classes]"""
        return self.linear(outputs[self.source])


@guarded
class Features(Head):
    """No head: the features themselves, [B, in] -> [B, in].

    Args:
        dims: widths of the features known so far, filled in by the encoder.
        source: which of them it hands on.
    """

    def __init__(self, dims: Mapping[str, int], source: str) -> None:
        super().__init__()
        self.out = width_of(dims, source)
        self.source = source

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, in]"""
        return outputs[self.source]


@guarded
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


@guarded
class ReweightHead(Head):
    """Divides coordinate j = 0, 1, ... by ``kappa ** j``, and has nothing to train: [B, in] -> [B, in].

    Xue et al., Investigating the Benefits of Projection Head for Representation Learning, ICLR 2024 (arXiv:2403.11391).
    In float32 a coordinate counts until ``kappa ** j`` reaches 1e38, the 1800th at 1.05; those after it may vanish.

    Args:
        dims: widths of the features known so far, filled in by the encoder.
        source: which of them it reweights.
        kappa: at least 1; 1 changes nothing.
    """

    weight: Tensor  # [in] float32

    def __init__(self, dims: Mapping[str, int], source: str, kappa: AtLeastOne) -> None:
        super().__init__()
        self.out = width_of(dims, source)
        self.source = source
        exponent = torch.arange(self.out, dtype=torch.float64)  # [in]; kappa ** j would overflow in float32
        self.register_buffer("weight", (kappa**-exponent).float(), persistent=False)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, in], in float32 at least"""
        return outputs[self.source] * self.weight


class SymmetricReLU(nn.Module):
    """``relu(x - b) - relu(-x - b)`` with a learned b, 0 at first, where it is the identity (arXiv:2403.11391)."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]"""
        return (x - self.b).relu() - (-x - self.b).relu()


@guarded
class SymmetricReLUHead(Head):
    """Linear, symmetric ReLU, linear, all of one width and the identity at first: [B, in] -> [B, in]
    (arXiv:2403.11391, the co-authors' code).

    Args:
        dims: widths of the features known so far, filled in by the encoder.
        source: which of them it reads.
    """

    def __init__(self, dims: Mapping[str, int], source: str) -> None:
        super().__init__()
        self.out = width_of(dims, source)
        self.source = source
        linears = [nn.Linear(self.out, self.out) for _ in range(2)]
        for linear in linears:
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.layers = nn.Sequential(linears[0], SymmetricReLU(), linears[1])

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, in]"""
        return self.layers(outputs[self.source])

    def each_layer(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """After the symmetric ReLU, and after the second linear layer: [B, in] each"""
        return linear_by_linear(self.layers, outputs[self.source])


def linear_by_linear(layers: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What enters every linear layer but the first, and what the last layer gives: [B, in] -> [B, width] each."""
    found: list[Tensor] = []
    for number, layer in enumerate(layers):
        if number > 0 and isinstance(layer, nn.Linear):
            found.append(x)
        x = layer(x)
    return [*found, x]


def width_of(dims: Mapping[str, int], source: str) -> int:
    """Width of the features a head reads.

    Raises:
        ValueError: there are none of that name.
    """
    if source not in dims:
        raise ValueError(
            f"a head has source={source}, but the encoder offers {sorted(dims)} at this point: choose another "
            "head=<name>, or set source to one of these"
        )
    return dims[source]
