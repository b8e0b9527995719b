"""What is random about the views of a group: uniform numbers first, in one order, and what they mean second.

The numbers are drawn one tensor after another, the same on every device that a generator is of. What follows from them
is arithmetic of each sample alone, which a compiler can take together with the pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.types import Geometry
from ssl_framework.views.crops import CROP_DRAWS, central_box, place_crops, uniform
from ssl_framework.views.reading import Group


class Draws(NamedTuple):
    """Uniform numbers in [0, 1) for R views, in the order in which they are drawn; None: nothing hangs on them."""

    crop: Tensor | None  # [R, 22], as ``crops.place_crops`` reads them
    flip: Tensor | None  # [R]
    jitter: Tensor | None  # [R]: whether
    factors: Tensor | None  # [R, 8]: four factors, and four numbers whose order is that of the operations
    bands: Tensor | None  # [R, C]
    gray: Tensor | None  # [R]
    blur: Tensor | None  # [R]: whether
    sigma: Tensor | None  # [R]
    solarize: Tensor | None  # [R]

    def rows(self, first: int, last: int) -> "Draws":
        """Those of views first..last - 1."""
        return Draws(*(None if numbers is None else numbers[first:last] for numbers in self))


class Parameters(NamedTuple):
    """What was drawn for R views; None: the operation is off."""

    box: Tensor  # [R, 4] int64: top, left, height, width in pixels of the source image
    flip: Tensor | None  # [R] bool
    factors: Tensor | None  # [R, 4] brightness, contrast, saturation factors, hue shift in turns
    order: Tensor | None  # [R, 4] int64, a permutation of the columns of factors
    jitter: Tensor | None  # [R] bool
    bands: Tensor | None  # [R, C, 1, 1] factors
    gray: Tensor | None  # [R] bool
    blur: Tensor | None  # [R] bool
    sigma: Tensor | None  # [R] pixels
    solarize: Tensor | None  # [R] bool

    def rows(self, first: int, last: int) -> "Parameters":
        """The parameters of views first..last - 1."""
        return Parameters(*(None if tensor is None else tensor[first:last] for tensor in self))  # type: ignore[arg-type]


def draw(
    group: Group, rows: int, channels: int, device: torch.device, generator: torch.Generator | None = None
) -> Draws:
    """Everything random of ``rows`` views of a group.

    Args:
        group: how they are made.
        rows: R.
        channels: C of the images.
        device: of the numbers.
        generator: they are drawn on its device; ``None``: torch's own of ``device``.
    """

    def numbers(wanted: bool, *columns: int) -> Tensor | None:
        return uniform((rows, *columns), device, generator) if wanted else None  # [R, ...]

    jitters = group.jitter_p > 0 and any(group.jitter)
    return Draws(  # arguments are evaluated from the first to the last
        crop=numbers(group.scale is not None, CROP_DRAWS),
        flip=numbers(group.flip > 0),
        jitter=numbers(jitters),
        factors=numbers(jitters, 8),
        bands=numbers(group.band_jitter > 0, channels),
        gray=numbers(group.gray > 0),
        blur=numbers(group.blur > 0),
        sigma=numbers(group.blur > 0),
        solarize=numbers(group.solarize > 0),
    )


def parameters(draws: Draws, group: Group, rows: int, height: int, width: int, device: torch.device) -> Parameters:
    """What the numbers mean for images of one size.

    Args:
        draws: of R views.
        group: the one they were drawn for.
        rows: R.
        height, width: of the images in pixels.
        device: of the result.
    """

    def happens(numbers: Tensor | None, probability: float) -> Tensor | None:
        return None if numbers is None else numbers < probability  # [R] bool

    central = central_box(height, width, group.ratio if group.scale else (1.0, 1.0))
    if draws.crop is None or group.scale is None:
        columns = [torch.full((rows,), value, dtype=torch.int64, device=device) for value in central]  # 4 x [R]
        box = torch.stack(columns, 1)  # [R, 4]
    else:
        box = place_crops(draws.crop, height, width, central, group.scale, group.ratio)  # [R, 4]
    factors, order = (None, None) if draws.factors is None else jitter_of(draws.factors, group.jitter)
    bands = None
    if draws.bands is not None:
        bands = (1 + group.band_jitter * (2 * draws.bands - 1))[:, :, None, None]  # [R, C, 1, 1]
    return Parameters(
        box=box,
        flip=happens(draws.flip, group.flip),
        factors=factors,
        order=order,
        jitter=happens(draws.jitter, group.jitter_p),
        bands=bands,
        gray=happens(draws.gray, group.gray),
        blur=happens(draws.blur, group.blur),
        sigma=None if draws.sigma is None else sigma_of(draws.sigma, group.blur_sigma),
        solarize=happens(draws.solarize, group.solarize),
    )


def jitter_of(numbers: Tensor, strengths: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """Factors [R, 4] and order [R, 4] of torchvision's ColorJitter, of uniform numbers [R, 8].

    Brightness, contrast and saturation uniform in [max(0, 1 - strength), 1 + strength], hue in [-strength, strength]
    turns, all orders alike.
    """
    ranges = [(max(0.0, 1.0 - strength), 1.0 + strength) for strength in strengths[:3]] + [
        (-strengths[3], strengths[3])
    ]
    columns = [low + (high - low) * numbers[:, i] for i, (low, high) in enumerate(ranges)]  # 4 x [R]
    return torch.stack(columns, 1), numbers[:, 4:].argsort(1)  # [R, 4], [R, 4]


def sigma_of(numbers: Tensor, limits: tuple[float, float]) -> Tensor:
    """Standard deviations of the blur in pixels, uniform between limits: [R] of [R]."""
    return limits[0] + (limits[1] - limits[0]) * numbers


def as_geometry(box: Tensor, flip: Tensor | None, height: int, width: int) -> Geometry:
    """Where views were cut from, as fractions of the source image of so many pixels.

    Args:
        box: [R, 4] top, left, height, width in pixels.
        flip: [R] bool, or None where nothing is mirrored.
        height, width: of the source.
    """
    top, left, box_height, box_width = box.float().unbind(1)  # 4 x [R]
    corners = torch.stack(
        (left / width, top / height, (left + box_width) / width, (top + box_height) / height), 1
    )  # [R, 4]
    return Geometry(corners, torch.zeros_like(top, dtype=torch.bool) if flip is None else flip)
