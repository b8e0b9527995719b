"""Patches of a timm transformer: their grid, hiding some of them, and what its last blocks make of them.

Hidden by forward hooks, so that every ``VisionTransformer`` of timm's can be used as it is and exports as it was. B
samples, N patches of a view, P further tokens in front (the class token), D features, L blocks.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def refuse_without_patches(name: str, key: str) -> None:
    """Raises ValueError unless timm's model of this name is a ``VisionTransformer``; ``key`` of the config asks."""
    if not has_patches(name):
        raise ValueError(
            f"{key} is about the patches of a transformer, but {name} has none that could be hidden: choose another "
            "backbone, such as vit_tiny, or a method without masks"
        )


@functools.cache
def has_patches(name: str) -> bool:
    """Whether timm's model of this name is a ``VisionTransformer``, found without its weights."""
    with torch.device("meta"):
        return isinstance(timm.create_model(name, num_classes=0), VisionTransformer)


def grid_of(net: VisionTransformer, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches of an image of so many pixels."""
    down, across = net.patch_embed.patch_size
    return height // down, width // across


def visible(mask: Tensor) -> Tensor:
    """Positions of the patches that are not hidden, in their order: [B, N] bool, alike many a row -> [B, n] int64."""
    count = int((~mask[0]).sum())
    return mask.byte().argsort(dim=1, stable=True)[:, :count]  # [B, n]


def rows_at(x: Tensor, where: Tensor) -> Tensor:
    """Tokens at some positions of each sample: [B, N, D] and [B, n] int64 -> [B, n, D]."""
    return x.gather(1, where[..., None].expand(-1, -1, x.shape[2]))  # [B, n, D]


def spread(x: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """Visible tokens at their places, and one token at the hidden ones: [B, n, D], [B, N] bool and [D] -> [B, N, D]."""
    where = visible(mask)[..., None].expand(-1, -1, x.shape[2])  # [B, n, D]
    return token.to(x.dtype).expand(*mask.shape, -1).scatter(1, where, x)  # [B, N, D]


@contextlib.contextmanager
def hiding(net: VisionTransformer, mask: Tensor | None, token: Tensor | None, mark: bool = False) -> Iterator[None]:
    """Meanwhile a pass does not see the hidden patches.

    Args:
        net: sees a batch of B images.
        mask: [B, N] bool, True where hidden; ``None``: it sees all.
        token: [D] that takes their place before positions are added; ``None``: they are left out behind that, which
            needs as many hidden ones in every sample.
        mark: the token is added to them instead.
    """
    if mask is None:
        yield
        return

    def replace(module: nn.Module, inputs: Any, x: Tensor) -> Tensor:
        assert token is not None  # [B, N, D], or [B, h, w, D] where sizes vary
        return torch.where(mask.view(*x.shape[:-1], 1), token.to(x.dtype) + x * mark, x)

    def drop(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs  # [B, P + N, D]
        front = x.shape[1] - mask.shape[1]
        return (torch.cat([x[:, :front], rows_at(x[:, front:], visible(mask))], dim=1),)  # [B, P + n, D]

    if token is None:
        handle = net.norm_pre.register_forward_pre_hook(drop)
    else:
        handle = net.patch_embed.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def noting(net: VisionTransformer, count: int) -> Iterator[list[Tensor]]:
    """Meanwhile what each of the last blocks gives is kept: L x [B, P + N, D], the last block's last."""
    kept: list[Tensor] = []
    blocks = list(net.blocks)[-count:] if count else []
    handles = [block.register_forward_hook(lambda module, inputs, x: kept.append(x)) for block in blocks]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
