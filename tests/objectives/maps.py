"""What the tests of dense objectives share: the fixtures' maps, and where views lie, by loops."""

import torch
from torch import Tensor

from ssl_framework.types import Batch, Geometry


def sin_map(*shape: int) -> Tensor:
    """``sin(1 + 0.7 n)``, n the flat index: float64 of that shape."""
    return torch.sin(1.0 + 0.7 * torch.arange(torch.Size(shape).numel()).double()).view(shape)


def cos_map(*shape: int) -> Tensor:
    """``cos(0.3 + 0.45 n)``, n the flat index: float64 of that shape."""
    return torch.cos(0.3 + 0.45 * torch.arange(torch.Size(shape).numel()).double()).view(shape)


def random_map(seed: int, *shape: int) -> Tensor:
    """Gaussian, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit_channels(x: Tensor) -> Tensor:
    """A map [B, D, h, w] with positions of length one."""
    return x / x.norm(dim=1, keepdim=True)


def cut(*boxes: tuple[float, float, float, float]) -> Geometry:
    """Views x0, y0, x1, y1 of the images of a batch, float64; x0 > x1: mirrored, as PixPro's authors write it."""
    rows = torch.tensor(boxes, dtype=torch.float64)  # [B, 4]
    flip = rows[:, 0] > rows[:, 2]
    return Geometry(torch.where(flip[:, None], rows[:, [2, 1, 0, 3]], rows), flip)


def place(geometry: Geometry, b: int, row: float, column: float, height: int, width: int) -> tuple[float, float]:
    """Centre x, y in the image of a position, which may lie between others, of image b's view."""
    x0, y0, x1, y1 = geometry.box[b].tolist()
    across = (column + 0.5) / width
    across = 1 - across if geometry.flip[b] else across
    return x0 + (x1 - x0) * across, y0 + (y1 - y0) * (row + 0.5) / height


def batch(*geometry: Geometry) -> Batch:
    """A batch of which only the views' places are known."""
    count = len(geometry[0].flip)
    return Batch(views=[], index=torch.arange(count), geometry=list(geometry))
