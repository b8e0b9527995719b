"""Heads: what sits on the backbone during pretraining and is thrown away afterwards."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ssl_framework.arguments import AtLeastOne, Classes, Count, Fraction, Positive, guarded
from ssl_framework.functional import full_precision, unit
from ssl_framework.models.base import BackboneProtocol
from ssl_framework.types import Clock

H = TypeVar("H", bound="Head")


class Head(nn.Module, ABC):
    """Base of all heads: reads the features of a view under the name ``source``, returns [B, ``out``], or a map [B,
    ``out``, h, w] (see ``dense_heads``).

    A config says what a head is; how wide the features are that it reads, the encoder knows, which calls ``build``.

    Args:
        source: which features it reads ("pooled", or an earlier head's name).
    """

    out: int

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    @property
    def sources(self) -> tuple[str, ...]:
        """All that it reads; more than ``source`` where a head says so."""
        return (self.source,)

    def meet(self, backbone: BackboneProtocol) -> None:
        """Is told of the backbone before ``build``, for what depends on its patches; by default nothing does.

        Raises:
            ValueError: the head does not go with it.
        """

    @abstractmethod
    def build(self, width: int) -> None:
        """Makes the layers for features [B, width]. Changes the head, which has its ``out`` from here on."""

    def begin(self) -> str:
        """Gives a new run's head the weights that its config names; the line that says which, "" for none.

        Raises:
            FileNotFoundError, ValueError: there are no such weights, or they do not fit.
        """
        return ""

    def each_layer(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """What every layer gives, first to last; the last is the head's output. One layer unless a head says more."""
        return [self(outputs)]

    def after_backward(self, clock: Clock) -> None:
        """Called between backward and the optimizer step; by default it does nothing."""


@guarded
class MLPHead(Head):
    """Linear layers with optional batch normalisation and ReLU between them: [B, in] -> [B, out].

    Args:
        source: which features it reads ("pooled", or an earlier head's name).
        hidden: widths of the hidden layers; an empty list gives one linear layer.
        out: width of the output; "source": as wide as what it reads.
        norm: batch normalisation after each hidden layer.
        last_norm: batch normalisation after the last layer, which then has no bias. ``True``: without scale and shift;
            "scale": with a learned scale; "scale_and_shift": with both; ``False``: none.
    """

    def __init__(
        self,
        source: str,
        hidden: Sequence[Count],
        out: Count | Literal["source"],
        norm: bool = True,
        last_norm: bool | Literal["scale", "scale_and_shift"] = False,
    ) -> None:
        super().__init__(source)
        self.hidden = hidden
        self.wanted = out
        self.norm = norm
        self.last_norm = last_norm

    def build(self, width: int) -> None:
        self.out = width if self.wanted == "source" else self.wanted
        layers: list[nn.Module] = []
        for hidden in self.hidden:
            layers += [nn.Linear(width, hidden, bias=not self.norm)]
            layers += [nn.BatchNorm1d(hidden)] if self.norm else []
            layers += [nn.ReLU(inplace=True)]
            width = hidden
        layers += [nn.Linear(width, self.out, bias=not self.last_norm)]
        if self.last_norm:
            last = nn.BatchNorm1d(self.out, affine=self.last_norm is not True)
            if self.last_norm == "scale":
                last.register_parameter("bias", None)
            layers += [last]
        self.layers = nn.Sequential(*layers)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, out]"""
        return self.layers(outputs[self.source])

    def each_layer(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """After each linear layer with its normalisation and ReLU: [B, hidden] ..., [B, out]"""
        return linear_by_linear(self.layers, outputs[self.source])


@guarded
class DINOHead(Head):
    """Cosines to K learned directions: linear layers with GELU, a bottleneck, L2 normalisation, and a last layer
    without bias whose rows count with length one: [..., in] -> [..., K] in [-1, 1].

    Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (arXiv:2104.14294), appendix C
    and the authors' code (weight normalisation, its scale fixed to 1). Without ``norm`` it takes tokens [B, N, in].

    Args:
        source: which features it reads.
        hidden: widths of the hidden layers.
        bottleneck: width of the layer that is normalised.
        out: K, outputs.
        norm: batch normalisation after each hidden layer; the authors have none behind ViTs.
        frozen: share of the run in which the last layer stays as it is, in [0, 1].
    """

    def __init__(
        self, source: str, hidden: Sequence[Count], bottleneck: Count, out: Count, norm: bool, frozen: Fraction
    ) -> None:
        super().__init__(source)
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.out = out
        self.norm = norm
        self.frozen = frozen

    def build(self, width: int) -> None:
        layers: list[nn.Module] = []
        for hidden in self.hidden:
            layers += [nn.Linear(width, hidden, bias=not self.norm)]
            layers += [nn.BatchNorm1d(hidden)] if self.norm else []
            layers += [nn.GELU()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, self.bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)  # as the authors' code
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.last = nn.Linear(self.bottleneck, self.out, bias=False).weight  # [K, bottleneck]; as long as the authors'

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [..., in] -> [..., K], in float32 at least"""
        return self.directions(self.layers(outputs[self.source]))

    def directions(self, x: Tensor) -> Tensor:
        """The last layer: [..., bottleneck] -> [..., K]. In half precision its small differences would be lost."""
        with torch.autocast(x.device.type, enabled=False):
            return unit(x) @ unit(self.last).T

    def each_layer(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """After each hidden layer, the bottleneck, and the last layer: [B, hidden] ..., [B, bottleneck], [B, K]"""
        found = linear_by_linear(self.layers, outputs[self.source])
        return [*found, self.directions(found[-1])]

    def after_backward(self, clock: Clock) -> None:
        # Zero instead of the authors' None, with which torch's fused steps fail once others have momentum. What decay
        # and momentum then still do acts along the rows, whose length does not count.
        if clock.progress < self.frozen and self.last.grad is not None:
            self.last.grad.zero_()


@guarded
class Classifier(Head):
    """Class scores, linear in the features: [B, in] -> [B, num_classes].

    Args:
        source: which features it reads.
        num_classes: at least 2.
    """

    def __init__(self, source: str, num_classes: Classes) -> None:
        super().__init__(source)
        self.out = num_classes

    def build(self, width: int) -> None:
        self.linear = nn.Linear(width, self.out)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, num_classes]"""
        return self.linear(outputs[self.source])


@guarded
class Features(Head):
    """No head: the features themselves, [B, in] -> [B, in].

    Args:
        source: which features it hands on.
    """

    def build(self, width: int) -> None:
        self.out = width

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, in]"""
        return outputs[self.source]


@guarded
class TanhHead(Head):
    """A linear layer and the hyperbolic tangent, BERT's pooler: [B, in] -> [B, out].

    Args:
        source: which features it reads.
        out: width of the output; ``None``: as wide as the features.
    """

    def __init__(self, source: str, out: Count | None) -> None:
        super().__init__(source)
        self.wanted = out

    def build(self, width: int) -> None:
        self.out = self.wanted or width
        self.linear = nn.Linear(width, self.out)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, out]"""
        return self.linear(outputs[self.source]).tanh()


@guarded
class LayerNormHead(Head):
    """Layer normalisation with learned scale and shift: [B, in] -> [B, in].

    Args:
        source: which features it normalises.
    """

    def build(self, width: int) -> None:
        self.out = width
        self.norm = nn.LayerNorm(width)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, in]"""
        return self.norm(outputs[self.source])


@guarded
class IterNorm(Head):
    """Whitening of groups of dimensions by the batch's covariance: [B, in] -> [B, in].

    Huang et al., Iterative Normalization: Beyond Standardization towards Efficient Whitening, CVPR 2019
    (arXiv:1904.03441): Newton's iteration in the place of an eigendecomposition, then a learned scale and shift.
    Running means of both take the batch's place in evaluation, as in batch normalisation, and every rank has
    statistics of its own.

    Args:
        source: which features it whitens.
        group: dimensions whitened together; it divides their number.
        iterations: T of Newton's method.
        eps: added to every variance.
        momentum: share of a batch in the running statistics.
    """

    running_mean: Tensor  # [in]
    running_whitening: Tensor  # [in / group, group, group]

    def __init__(self, source: str, group: Count, iterations: Count, eps: Positive, momentum: Fraction) -> None:
        super().__init__(source)
        self.group = group
        self.iterations = iterations
        self.eps = eps
        self.momentum = momentum

    def build(self, width: int) -> None:
        if width % self.group:
            raise ValueError(f"IterNorm's group is {self.group}, which does not divide the {width} numbers it whitens")
        self.out = width
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))  # [in] each
        self.register_buffer("running_mean", torch.zeros(width))  # [in]
        identity = torch.eye(self.group).repeat(width // self.group, 1, 1)  # [in / group, group, group]
        self.register_buffer("running_whitening", identity)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, in] -> [B, in], in float32 at least"""
        x = full_precision(outputs[self.source])  # [B, in]
        with torch.autocast(x.device.type, enabled=False):
            mean, whitening = self.statistics(x) if self.training else (self.running_mean, self.running_whitening)
            centred = (x - mean).unflatten(1, (-1, self.group))  # [B, in / group, group]
            white = torch.einsum("gij,bgj->bgi", whitening, centred).flatten(1)  # [B, in]
            return white * self.weight + self.bias

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [in] and whitening matrices [in / group, group, group] of a batch [B, in]. Changes the running ones."""
        mean = x.mean(dim=0)  # [in]
        centred = (x - mean).unflatten(1, (-1, self.group))  # [B, in / group, group]
        identity = torch.eye(self.group, dtype=x.dtype, device=x.device)  # [group, group]
        covariance = torch.einsum("bgi,bgj->gij", centred, centred) / len(x) + self.eps * identity
        trace = covariance.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]  # [in / group, 1, 1]
        whitening = identity.expand_as(covariance)  # [in / group, group, group]
        for _ in range(self.iterations):
            whitening = 1.5 * whitening - 0.5 * whitening @ whitening @ whitening @ (covariance / trace)
        whitening = whitening / trace.sqrt()
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_whitening.lerp_(whitening.to(self.running_whitening.dtype), self.momentum)
        return mean, whitening


@guarded
class ReweightHead(Head):
    """Divides coordinate j = 0, 1, ... by ``kappa ** j``, and has nothing to train: [B, in] -> [B, in].

    Xue et al., Investigating the Benefits of Projection Head for Representation Learning, ICLR 2024 (arXiv:2403.11391).
    In float32 a coordinate counts until ``kappa ** j`` reaches 1e38, the 1800th at 1.05; those after it may vanish.

    Args:
        source: which features it reweights.
        kappa: at least 1; 1 changes nothing.
    """

    weight: Tensor  # [in] float32

    def __init__(self, source: str, kappa: AtLeastOne) -> None:
        super().__init__(source)
        self.kappa = kappa

    def build(self, width: int) -> None:
        self.out = width
        exponent = torch.arange(width, dtype=torch.float64)  # [in]; kappa ** j would overflow in float32
        self.register_buffer("weight", (self.kappa**-exponent).float(), persistent=False)

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
        source: which features it reads.
    """

    def build(self, width: int) -> None:
        self.out = width
        linears = [nn.Linear(width, width) for _ in range(2)]
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


def built(head: H, dims: Mapping[str, int], backbone: BackboneProtocol | None = None) -> H:
    """A head of its own for an encoder: a copy of what the config says, with layers.

    Args:
        head: without layers.
        dims: widths of the features known so far.
        backbone: that the encoder has, if it is one.

    Raises:
        ValueError: it is no head, or there are no features of the name that it reads.
    """
    if not isinstance(head, Head):
        raise ValueError(
            f"student.heads has {head!r}, which is no Head: give the class a build(width) in the place of the argument "
            "dims, and leave _partial_ out of its config"
        )
    if head.source not in dims:
        raise ValueError(
            f"a head has source={head.source}, but the encoder offers {sorted(dims)} at this point: choose another "
            "head=<name> or backbone=<name>, or set source to one of these"
        )
    own = copy.deepcopy(head)
    if backbone is not None:
        own.meet(backbone)
    own.build(dims[head.source])
    return own
