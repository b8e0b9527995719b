"""How deep the parameters of a timm model lie, and stages that stay as they are."""

from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

BEHIND = "a classifier"
"""What no pattern of timm's matches: it lies behind all layers."""


def depths_of(net: Any, coarse: bool) -> tuple[dict[str, int], int]:
    """How deep every parameter and every batch norm's weight lies: its name -> 0 for the first layer, and so on; and
    the number of layers.

    Layers are timm's ``group_matcher``'s: of a ViT the embeddings, then block after block, a norm behind the last
    block counted with it. What timm puts behind all of them, such as a norm after pooling, lies as deep as the
    number of layers, where a classifier would.

    Args:
        net: of timm.
        coarse: whether all blocks of a stage are one layer.

    Raises:
        AttributeError: timm does not say for this model.
    """
    norms = [f"{name}.weight" for name in batch_norms(net)]  # also of those that have none
    names = [(name, None) for name in dict.fromkeys((*(name for name, _ in net.named_parameters()), *norms))]
    found = group_with_matcher(iter([*names, (BEHIND, None)]), net.group_matcher(coarse=coarse), reverse=True)
    return {name: found[name] for name, _ in names}, found[BEHIND]


def freeze(net: Any, count: int, name: str) -> list[nn.Module]:
    """Takes the first stages of a network out of training; returns their batch norms, whose statistics stay as well if
    whoever calls keeps them in eval mode.

    Args:
        net: of timm.
        count: stages, the stem among them.
        name: of the model, for the error.

    Raises:
        ValueError: there are fewer, or timm does not say what they are.
    """
    try:
        depth, number = depths_of(net, coarse=True)
    except AttributeError as error:
        raise ValueError(
            f"backbone.frozen_stages is {count}, and timm does not say what the stages of {name} are: set it to 0, or "
            "choose another backbone"
        ) from error
    if count > number:
        raise ValueError(f"backbone.frozen_stages is {count}, but {name} has {number} stages, its stem among them")
    for parameter, weight in net.named_parameters():
        weight.requires_grad_(weight.requires_grad and depth[parameter] >= count)
    return [norm for name, norm in batch_norms(net).items() if depth[f"{name}.weight"] < count]


def batch_norms(net: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer that keeps statistics of its batches."""
    return {name: part for name, part in net.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
