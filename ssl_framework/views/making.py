"""From drawn parameters to pixels: ``make_view``, and a group's views as one compiled graph, all kernels of which a GPU
starts by one call."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssl_framework.views import image_ops
from ssl_framework.views.drawing import Draws, Parameters, parameters
from ssl_framework.views.reading import Group

GRAPHS = 64
"""At most so many sizes and groups of views are compiled by one process; torch would stop at 8."""


class Graph:
    """Makes views by code that torch has compiled for the shapes at hand, the same as without but for rounding.

    A new shape is compiled at its first call, which takes seconds. On a GPU the kernels of a graph are recorded and
    started as one (``mode="reduce-overhead"``); what it returns is copied, as the next call writes to the same place.

    Args:
        backend: of ``torch.compile``.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self.calls: dict[str, Callable[..., Any]] = {}

    def __call__(
        self,
        images: Tensor,
        draws: Draws,
        rows: int,
        parts: Sequence[tuple[int, int]],
        *rest: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """The views as ``made`` makes them, or None, with a warning, where they cannot be compiled here.

        Args:
            images: [B, C, H, W] uint8.
            draws: of R views; row r belongs to image r modulo B.
            rows: R.
            parts: (first, last) of the rows that are made at once.
            rest: as of ``made``.
        """
        device = images.device.type
        try:
            call = self.calls.get(device) or self.calls.setdefault(device, compiled(device, self.backend))
            if len(parts) == 1:
                return copied(call(images, draws, rows, *rest), device)
            found = [
                copied(call(around(images, first, last), draws.rows(first, last), last - first, *rest), device)
                for first, last in parts
            ]
        except Exception as error:  # whatever a compiler, or the lack of one, has come to
            reason = " ".join(str(error).split())[:300]
            warnings.warn(
                f"the views are made without a compiled graph, for compiling them failed: {type(error).__name__}: "
                f"{reason}; trainer.compile_views=false says so from the start",
                stacklevel=2,
            )
            return None
        views, boxes, flips = zip(*found, strict=True)
        return torch.cat(views), torch.cat(boxes), None if flips[0] is None else torch.cat(flips)


def compiled(device: str, backend: str) -> Callable[..., Any]:
    """``made``, to be compiled at its first call."""
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    mode = "reduce-overhead" if device == "cuda" and backend == "inductor" else None
    return torch.compile(made, fullgraph=True, dynamic=False, backend=backend, mode=mode)


def copied(made: tuple[Tensor, Tensor, Tensor | None], device: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same in memory of its own, on a GPU."""
    if device != "cuda":
        return made
    views, box, flip = made
    return views.clone(), box.clone(), None if flip is None else flip.clone()


def made(
    images: Tensor,
    draws: Draws,
    rows: int,
    group: Group,
    taps: Tensor | None,
    whole: bool,
    mean: Tensor,
    std: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Views of one group from random numbers to normalised pixels.

    Args:
        images: [B, C, H, W] uint8, R a multiple of B.
        draws: of R views; row r belongs to image r modulo B.
        rows: R.
        group: how they are made.
        taps: [kernel_size, size * size] from ``reflected_taps``, needed where there is blur.
        whole: as of ``make_view``.
        mean, std: [C, 1, 1].

    Returns:
        [R, C, size, size] float32; boxes [R, 4] int64 and flips [R] bool, as ``Parameters``.
    """
    height, width = images.shape[-2:]
    drawn = parameters(draws, group, rows, height, width, images.device)
    repeated = images if len(images) == rows else images.repeat(rows // len(images), 1, 1, 1)  # [R, C, H, W]
    view = make_view(repeated, drawn, group.size, taps, hue=group.jitter[3] > 0, whole=whole)
    return (view - mean) / std, drawn.box, drawn.flip


def make_view(
    images: Tensor, drawn: Parameters, size: int, taps: Tensor | None, hue: bool = True, whole: bool = False
) -> Tensor:
    """Apply drawn parameters, everything but the normalisation.

    Args:
        images: [B, C, H, W] uint8.
        drawn: parameters of these B samples.
        size: pixels of the view.
        taps: [kernel_size, size * size] from ``reflected_taps``, needed when there is blur.
        hue: False when the hue strength is 0, which saves its pass.
        whole: True when the boxes are the whole images, of the view's size already, which saves the resampling.

    Returns:
        [B, C, size, size] float32 in [0, 1].
    """
    if whole:
        view = images.float().div_(255.0)  # [B, C, size, size]
        view = view if drawn.flip is None else torch.where(drawn.flip[:, None, None, None], view.flip(3), view)
    else:
        view = image_ops.resized_crop(images, drawn.box, size, drawn.flip)  # [B, C, size, size]
    if drawn.factors is not None and drawn.order is not None and drawn.jitter is not None:
        view = image_ops.color_jitter_(view, drawn.factors, drawn.order, drawn.jitter, hue)
    if drawn.bands is not None:
        view = (view * drawn.bands).clamp_(0, 1)  # [B, C, size, size]
    if drawn.gray is not None:
        view = image_ops.on_selected_(view, drawn.gray, image_ops.grayscale)
    if drawn.blur is not None and drawn.sigma is not None and taps is not None:
        view = image_ops.on_selected_(
            view, drawn.blur, lambda x, sigma: image_ops.gaussian_blur(x, sigma, taps), drawn.sigma
        )
    if drawn.solarize is not None:
        view = image_ops.on_selected_(view, drawn.solarize, image_ops.solarize)
    return view


def around(images: Tensor, first: int, last: int) -> Tensor:
    """Rows first..last - 1 of the images repeated without end: [last - first, C, H, W]; a copy only where they wrap."""
    start, count = first % len(images), last - first
    turns = -(-(start + count) // len(images))
    return (images.repeat(turns, 1, 1, 1) if turns > 1 else images)[start : start + count]
