"""Random boxes: where a view is cut from its image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop


CROP_DRAWS = 2 * CROP_ATTEMPTS + 2  # random numbers that one box takes


# Drawing. Every function takes the device of the result; numbers are drawn on the generator's device.


def uniform(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return torch.rand(shape, generator=generator, device=generator.device if generator else device).to(device)


def draw_crops(
    batch: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    device: torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    """Boxes for images of one size, [B, 4] int64, as ``place_crops`` makes them of numbers that are drawn here."""
    draws = uniform((batch, CROP_DRAWS), device, generator)  # [B, 22]
    return place_crops(draws, height, width, central_box(height, width, ratio), scale, ratio)


def place_crops(
    draws: Tensor,
    height: int | Tensor,
    width: int | Tensor,
    fallback: Sequence[int | Tensor],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Boxes of torchvision's RandomResizedCrop: [B, 4] int64 top, left, height, width in pixels.

    Area uniform in ``scale``, logarithm of width / height uniform; the first of ten attempts that fits in the image,
    else the largest central box whose ratio is allowed.

    Args:
        draws: [B, 22] uniform in [0, 1): ten areas, ten ratios, and the corner.
        height, width: of the images in pixels, one for all or [B, 1] int64.
        fallback: top, left, height, width of the central box, likewise.
        scale, ratio: limits of the area as a share of the image's, and of width / height.
    """
    area = (scale[0] + (scale[1] - scale[0]) * draws[:, :CROP_ATTEMPTS]) * (height * width)  # [B, 10]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS])  # [B, 10]
    box_width, box_height = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()  # [B, 10]
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)  # [B, 10]
    first = fits.int().argmax(1, keepdim=True)  # [B, 1]
    fits = fits.any(1, keepdim=True)  # [B, 1]
    box_height = torch.where(fits, box_height.gather(1, first), fallback[2])  # [B, 1]
    box_width = torch.where(fits, box_width.gather(1, first), fallback[3])  # [B, 1]
    free = torch.cat((height - box_height, width - box_width), 1)  # [B, 2]
    corner = torch.minimum((draws[:, -2:] * (free + 1)).long(), free)  # [B, 2]; minimum: the product may round up
    top = torch.where(fits, corner[:, :1], fallback[0])  # [B, 1]
    left = torch.where(fits, corner[:, 1:], fallback[1])  # [B, 1]
    return torch.cat((top, left, box_height, box_width), 1)  # [B, 4]


def central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Top, left, height, width of the largest central box whose width / height is in ``ratio``."""
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        box_width = max(1, round(height * ratio[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
