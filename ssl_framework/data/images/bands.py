"""Images of any number of bands, from .tif files (by tifffile) and .npy arrays, as uint8.

C bands, H x W pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ARRAYS = (".npy", ".tif", ".tiff")
"""Endings of files whose bands are read here."""


def holds_bands(path: Path, channels: int) -> bool:
    """Whether a file is read here: arrays always, others where the images are neither grey nor RGB."""
    return path.suffix.lower() == ".npy" or channels not in (1, 3)


def read_bands(path: Path, channels: int, bits: int | None, most_pixels: int) -> Tensor:
    """All bands of a file.

    Args:
        path: of a file whose ending is one of ``ARRAYS``; [H, W], [H, W, C] or [C, H, W] (of both, the first).
        channels: C.
        bits: of whole numbers of 16 bits the lowest so many are used; ``None``: all.
        most_pixels: H x W may not be more.

    Returns:
        [C, H, W] uint8; see ``to_eight_bits`` for the scale.

    Raises:
        ValueError: another kind of file, shape or number format, or a package that is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in ARRAYS:
        raise ValueError(
            f"{suffix} has at most three colours, but data.channels is {channels}: give .tif or .npy files"
        )
    values = np.load(path, mmap_mode="r", allow_pickle=False) if suffix == ".npy" else read_tif(path, most_pixels)
    values = bands_first(values, channels)
    if values[0].size > most_pixels:
        height, width = values.shape[1:]
        raise ValueError(f"{height} x {width} pixels is more than the limit of {most_pixels}")
    return torch.from_numpy(to_eight_bits(np.ascontiguousarray(values), bits))  # [C, H, W]


def read_tif(path: Path, most_pixels: int) -> np.ndarray:
    """The first image of a file, its shape looked at before it is decoded."""
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise ValueError("images of many bands need tifffile: pip install tifffile") from error
    with tifffile.TiffFile(path) as file:
        shape = file.series[0].shape
        if np.prod(shape, dtype=float) > 64 * most_pixels:
            raise ValueError(f"{' x '.join(map(str, shape))} values are more than the limit of {most_pixels} pixels")
        return file.asarray(series=0)


def bands_first(values: np.ndarray, channels: int) -> np.ndarray:
    """[C, H, W], whichever way a file has it.

    Raises:
        ValueError: no axis is as long as there are bands.
    """
    if values.ndim == 2 and channels == 1:
        return values[None]
    if values.ndim == 3 and values.shape[0] == channels:
        return values
    if values.ndim == 3 and values.shape[-1] == channels:
        return np.moveaxis(values, -1, 0)
    raise ValueError(f"it has the shape {' x '.join(map(str, values.shape))}, but data.channels is {channels}")


def to_eight_bits(values: np.ndarray, bits: int | None) -> np.ndarray:
    """Values of any shape as uint8: those of 16 bits so that the highest of ``bits`` bits becomes 255, rounded.

    Raises:
        ValueError: a value does not fit into ``bits``, or the format has no known range.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    low, high = (int(values.min()), int(values.max())) if values.size and values.dtype.kind in "iu" else (-1, 0)
    white = 2 ** (bits or 16) - 1
    if low < 0 or high > 65535:
        raise ValueError(f"{values.dtype} values have no known range: save them as whole numbers of 8 or 16 bits")
    if high > white:
        raise ValueError(f"it has the value {high}, but data.bits={bits} ends at {white}")
    return np.round(values.astype(np.float64) * (255 / white)).astype(np.uint8)


def square(image: Tensor, size: int) -> Tensor:
    """The middle square [C, S, S] uint8 of [C, H, W], resized bicubically with antialias."""
    _, height, width = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle: Any = image[None, :, top : top + side, left : left + side].float()  # [1, C, s, s]
    resized = torch.nn.functional.interpolate(middle, (size, size), mode="bicubic", antialias=True)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)  # [C, S, S]
