"""Where in its source image a position of a view lies. Points are (x, y); a view's and an image's sides are 1 long."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.types import Geometry


def cells(height: int, width: int, like: Tensor) -> Tensor:
    """Centres of the cells of a grid over a view, row after row: [h * w, 2], as ``like`` in dtype and device."""
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height  # [h]
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width  # [w]
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)  # [h * w, 2]


def centres(geometry: Geometry, height: int, width: int) -> Tensor:
    """Centres of the positions of a view's map [B, D, h, w] in the source image: [B, h * w, 2] in [0, 1]."""
    return in_source(cells(height, width, geometry.box), geometry)


def cell_sides(geometry: Geometry, height: int, width: int) -> Tensor:
    """Width and height of a position of such a map in the source image: [B, 2]."""
    return (geometry.box[:, 2:] - geometry.box[:, :2]) / geometry.box.new_tensor([width, height])


def shared(first: Geometry, second: Geometry) -> Geometry:
    """What two views of each image both show, as a view that is not mirrored; its box is empty, or its sides negative,
    where they have nothing in common."""
    low = torch.maximum(first.box[:, :2], second.box[:, :2])  # [B, 2]
    high = torch.minimum(first.box[:, 2:], second.box[:, 2:])  # [B, 2]
    return Geometry(torch.cat([low, high], dim=1), torch.zeros_like(first.flip))  # [B, 4], [B]


def read_at(place: Geometry, maps: Tensor, geometry: Geometry) -> Tensor:
    """A view's maps, read bilinearly on a grid over another part of the image.

    Args:
        place: where the grid lies, of as many cells as the maps have; beyond the view its outermost positions go on.
        maps: [B, D, h, w].
        geometry: where the view was cut.

    Returns:
        [B, h * w, D]
    """
    where = 2 * in_view(centres(place, *maps.shape[2:]), geometry) - 1  # [B, h * w, 2]
    read = F.grid_sample(maps, where.to(maps)[:, None], padding_mode="border", align_corners=False)
    return read[:, :, 0].transpose(1, 2)  # [B, h * w, D]


def in_source(point: Tensor, geometry: Geometry) -> Tensor:
    """Points of a view [P, 2] as fractions of the image it was cut from: [B, P, 2]."""
    low, high = geometry.box[:, None, :2].to(point), geometry.box[:, None, 2:].to(point)  # [B, 1, 2]
    return low + (high - low) * mirrored(point.expand(len(low), -1, -1), geometry.flip)  # [B, P, 2]


def in_view(point: Tensor, geometry: Geometry) -> Tensor:
    """Points of an image [B, P, 2] as fractions of a view that was cut from it, outside [0, 1] where it shows them
    not: [B, P, 2]."""
    low, high = geometry.box[:, None, :2].to(point), geometry.box[:, None, 2:].to(point)  # [B, 1, 2]
    return mirrored((point - low) / (high - low), geometry.flip)


def boxes_in_view(boxes: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Boxes in an image as a view shows them.

    Args:
        boxes: [B, K, 4] x0, y0, x1, y1, fractions of the image; 0 where there is none.
        geometry: where the view was cut.

    Returns:
        [B, K, 4] fractions of the view, cut off at its edges; and [B, K] the share of each area that it shows, 0 where
        there is none.
    """
    corners = in_view(boxes.unflatten(2, (2, 2)).flatten(1, 2), geometry).unflatten(1, (-1, 2))  # [B, K, 2, 2]
    whole = torch.stack([corners.amin(dim=2), corners.amax(dim=2)], dim=2)  # [B, K, 2, 2]: a mirror exchanges sides
    seen = whole.clamp(0, 1)  # [B, K, 2, 2]
    area, all_of_it = ((x[:, :, 1] - x[:, :, 0]).prod(dim=2) for x in (seen, whole))  # [B, K] each
    there = (boxes[..., 2:] > boxes[..., :2]).all(dim=2)  # [B, K]
    return seen.flatten(2), torch.where(there, area / all_of_it.clamp(min=1e-12), 0)


def mirrored(point: Tensor, flip: Tensor) -> Tensor:
    """Points [B, P, 2] left-right mirrored in those of B views that are."""
    x, y = point.unbind(dim=2)  # 2 x [B, P]
    return torch.stack([torch.where(flip[:, None].to(x.device), 1 - x, x), y], dim=2)  # [B, P, 2]
