"""What a backbone of any modality offers an encoder, and what some offer beside it."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ssl_framework.types import Inputs, Outputs


class BackboneProtocol(Protocol):
    """A module that turns views into features.

    Attributes:
        dim: D, of the pooled features.
        name: what messages call it.
        weights: run folder or .safetensors file that a new run begins with (see ``weights``); ``None``: random ones.
        net: the network itself; its names are those that exported weights have.
    """

    dim: int
    name: str
    weights: str | None
    net: nn.Module

    def __call__(self, x: Inputs) -> Outputs:
        """Views [B, ...] -> "pooled" [B, D] and "map" [B, C, h, w] or "tokens" [B, N, D']."""
        ...

    def about(self) -> dict[str, str]:
        """What a file of its weights says of it."""
        ...

    def load_line(self, path: Path) -> str:
        """Python that makes the network with the weights of such a file, outside a run."""
        ...


@runtime_checkable
class Shaped(Protocol):
    """A backbone that says of how many dimensions a sample is.

    Attributes:
        sample_dims: 3 for pictures [C, H, W], 2 for series [C, T], 1 for texts and sequences [L].
    """

    sample_dims: int


class Block(NamedTuple):
    """A stage of a convolutional net, or a block of a transformer."""

    module: nn.Module
    channels: int  # of the map behind it


@runtime_checkable
class Layered(Protocol):
    """A backbone whose blocks can be named and looked into: what mixing inside a network needs.

    Attributes:
        channels: C of the views.
    """

    channels: int

    def block(self, layer: int, key: str) -> Block | None:
        """The block that the config names at ``key`` by its position; see ``Backbone.block``."""
        ...

    def changed_at(
        self, block: Block | None, change: Callable[[Tensor], Tensor | None]
    ) -> contextlib.AbstractContextManager[None]:
        """Meanwhile every pass goes on with what ``change`` makes of the map behind a block."""
        ...


@runtime_checkable
class Spatial(Protocol):
    """A backbone that keeps places apart: what dense evaluations need."""

    def spatial(self, x: Inputs) -> Tensor:
        """[B, C, H, W] -> [B, D', h, w]."""
        ...


@runtime_checkable
class Dense(Protocol):
    """A backbone that says which of its outputs keep places apart: what dense heads and objectives need.

    Attributes:
        dense_dims: D' of "tokens" [B, N, D'], "map" [B, D', h, w], "patches" [B, n, D'] and "layers", of those it has,
            and of "middle" [B, D'], one vector behind a block between, and "routes" [B, E], how likely a sample was to
            go to each expert. A map may be made of tokens, by ``map_of``; one of a single position is none.
    """

    dense_dims: dict[str, int]


@runtime_checkable
class Deep(Protocol):
    """A backbone that says how deep its parameters lie: what learning rates by layer need."""

    def depths(self) -> tuple[dict[str, int], int]:
        """Name of every parameter -> its depth, and the number of layers; see ``Backbone.depths``."""
        ...


@runtime_checkable
class Resizable(Protocol):
    """A backbone of pictures that can be told of several sizes."""

    def take_sizes(self, sizes: Sequence[int]) -> None:
        """Makes sure that pictures of some sides in pixels can come; see ``Backbone.take_sizes``."""
        ...


@runtime_checkable
class Patched(Protocol):
    """A backbone that may have patches, some of which can be hidden: what masked modelling needs.

    Attributes:
        patch_dim: D' of the patches; ``None`` if it has none.
        patch_pixels: numbers of one patch in pixels and channels.
        masked_tokens: what becomes of hidden patches, "drop", "replace" or "mark"; ``None``: none can be hidden.
    """

    patch_dim: int | None
    patch_pixels: int
    masked_tokens: str | None

    def __call__(self, x: Inputs, mask: Tensor | None = None) -> Outputs:
        """Views [B, ...], without the patches that ``mask`` [B, N] hides."""
        ...

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of patches of pictures of so many pixels; see ``Backbone.grid``."""
        ...


@runtime_checkable
class Public(Protocol):
    """A backbone for whose name there may be public weights.

    Attributes:
        pretrained: whether a new run begins with them.
    """

    pretrained: bool

    def public(self) -> tuple[dict[str, Tensor], str]:
        """These weights, and what messages call them; see ``Backbone.public``."""
        ...


@runtime_checkable
class Stacked(Protocol):
    """A backbone that says what it is stacked of: what dividing its weights part by part needs."""

    def stack(self) -> list[nn.Module]:
        """Parts that a pass goes through one after another, each by a call of its own; none if that is not known."""
        ...


def layered(backbone: Any, key: str) -> Layered:
    """The backbone, as one whose blocks can be named; ``key`` of the config asks for that.

    Raises:
        ValueError: the backbone cannot.
    """
    if not isinstance(backbone, Layered):
        raise lacking(backbone, key, "blocks that can be named")
    return backbone


def spatial(backbone: Any, key: str) -> Spatial:
    """The backbone, as one that keeps places apart; ``key`` of the config asks for that.

    Raises:
        ValueError: the backbone cannot.
    """
    if not isinstance(backbone, Spatial):
        raise lacking(backbone, key, "a map of the picture")
    return backbone


def deep(backbone: Any, key: str) -> Deep:
    """The backbone, as one that says how deep its parameters lie; ``key`` of the config asks for that.

    Raises:
        ValueError: the backbone cannot.
    """
    if not isinstance(backbone, Deep):
        raise lacking(backbone, key, "the depth of every parameter")
    return backbone


def patched(backbone: Any, key: str) -> Patched:
    """The backbone, as one with patches; ``key`` of the config asks for that.

    Raises:
        ValueError: the backbone has none.
    """
    if not isinstance(backbone, Patched) or backbone.patch_dim is None:
        raise lacking(backbone, key, "patches, as those of backbone=vit_tiny,")
    return backbone


def lacking(backbone: BackboneProtocol, key: str, what: str) -> ValueError:
    """What to say when a backbone lacks a capability."""
    return ValueError(f"{key} needs {what}, which {backbone.name} has not: choose another backbone, or do without")
