"""timm models at the size of the images at hand: what each has to be told of it, and which sizes it can take.

Convolutional nets take nearly any size; transformers build position embeddings and windows for one, which timm calls
``img_size``. Here a model is made as it is, or else with its size told, so that nobody has to know which it needs.

C channels, S pixels a side, D features.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
"""Pixels a side that a refusal tries, the nearest first."""

NAMED = 3
"""So many that fit are named."""

REFUSALS = (
    RuntimeError,
    TypeError,
    AssertionError,
    ValueError,
    AttributeError,
    IndexError,
    KeyError,
    ZeroDivisionError,
)
"""What timm's models raise for images that they were not made for."""


class Sized(NamedTuple):
    """A model that takes the images at hand."""

    net: Any
    dim: int  # D, of the pooled features
    shape: tuple[int, ...]  # of the features of one image before pooling; () where they are no one tensor
    told: dict[str, Any]  # options of ``timm.create_model`` that it had to be given beside the user's


def sized(name: str, channels: int, size: int, options: Mapping[str, Any]) -> Sized:
    """A model for images [B, C, S, S], without its classifier.

    Which way it is told its size changes no random number that it begins with: every attempt starts at the same one.

    Args:
        name: timm's name of the model.
        channels: C.
        size: S, pixels.
        options: of ``timm.create_model`` as the user has them; ``img_size`` among them is left as it is.

    Raises:
        ValueError: the model cannot take such images; the sentence says which sizes it can.
    """
    state = torch.get_rng_state()
    ways = tellings(size, options)
    errors = []
    for told in ways:
        torch.set_rng_state(state)
        try:
            net = timm.create_model(name, num_classes=0, in_chans=channels, **{**options, **told})
            return Sized(net, *widths(net, torch.zeros(1, channels, size, size)), told)
        except REFUSALS as error:
            errors.append(error)
    reason = reason_of(errors[-1] if len(errors) > 1 and not is_unknown_option(errors[-1]) else errors[0])
    raise ValueError(
        f"backbone.name={name} cannot take {channels} x {size} x {size} images with backbone.options={dict(options)}: "
        f"{reason}{sizes_that_fit(name, channels, size, options)}"
    ) from errors[0]


def tellings(size: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Options to try one after another: none, and the size, unless the user has named it."""
    return [{}] if "img_size" in options else [{}, {"img_size": size}]


def is_unknown_option(error: Exception) -> bool:
    """Whether a model's constructor does not know an option that it was given."""
    return isinstance(error, TypeError) and "unexpected keyword argument" in str(error)


def reason_of(error: Exception) -> str:
    """The first line of what a model says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@torch.no_grad()
def widths(net: Any, x: Tensor) -> tuple[int, tuple[int, ...]]:
    """D of the pooled features of images [B, C, S, S], and the shape of one image's features before pooling, () where
    they are no one tensor; the model is in training mode afterwards.

    Raises:
        ValueError: it has no pooled features [B, D].
    """
    net.eval()
    features = net.forward_features(x)
    pooled = net.forward_head(features, pre_logits=True)
    if not isinstance(pooled, Tensor) or pooled.ndim != 2 or len(pooled) != len(x):
        shape = list(pooled.shape) if isinstance(pooled, Tensor) else type(pooled).__name__
        raise ValueError(f"it gives {shape} in place of one vector an image")
    net.train()
    return pooled.shape[1], tuple(features.shape[1:]) if isinstance(features, Tensor) else ()


def sizes_that_fit(name: str, channels: int, size: int, options: Mapping[str, Any]) -> str:
    """The end of a sentence that refuses a size: those of ``SIZES`` that the model takes, tried without memory."""
    fixed = options.get("img_size")
    near = [] if fixed else sorted(set(SIZES) - {size}, key=lambda other: abs(other - size))
    fitting = islice((other for other in near if fits(name, channels, other, options)), NAMED)
    if named := sorted(fitting):
        return f"; set data.image_size to a size that it can take, such as {', '.join(map(str, named))}"
    if fixed:
        return f"; leave backbone.options.img_size={fixed} out, or set it to {size}"
    return "; choose another backbone"


def fits(name: str, channels: int, size: int, options: Mapping[str, Any]) -> bool:
    """Whether a model takes images [B, C, S, S], found without computing one."""
    for told in tellings(size, options):
        try:
            with torch.device("meta"):
                net = timm.create_model(name, num_classes=0, in_chans=channels, **{**options, **told})
                widths(net, torch.zeros(1, channels, size, size))
            return True
        except (*REFUSALS, NotImplementedError):
            continue
    return False


def for_further_sizes(
    net: nn.Module, name: str, channels: int, sizes: Sequence[int], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What a model has to be told beside ``options`` to take images of further sizes, too: nothing, or timm's
    ``dynamic_img_size``, which resizes the position embeddings with each batch.

    Args:
        net: the model, as ``options`` have made it.
        name, channels, options: as of ``sized``.
        sizes: S of the images.

    Raises:
        ValueError: it takes one size only.
    """
    if refused(net, channels, sizes) is None:
        return {}
    told = {"dynamic_img_size": True}
    try:
        with torch.random.fork_rng(devices=[]):
            other = timm.create_model(name, num_classes=0, in_chans=channels, **{**options, **told})
        wrong = refused(other, channels, sizes)
    except REFUSALS:
        wrong = refused(net, channels, sizes)
    if wrong is None:
        return told
    raise ValueError(
        f"views.groups make views of {wrong} px, which backbone.name={name} cannot take beside others: give all groups "
        "one size (views.groups.<number>.size), or choose another backbone, such as resnet18 or vit_tiny"
    )


def refused(net: nn.Module, channels: int, sizes: Sequence[int]) -> int | None:
    """The first of some sizes that a model does not take; ``None`` if it takes them all."""
    device = next(net.parameters()).device
    for size in sizes:
        try:
            widths(net, torch.zeros(1, channels, size, size, device=device))
        except REFUSALS:
            net.train()
            return size
    return None
