"""Images of DICOM files, by pydicom, as 8 bits.

H x W pixels.
"""

from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from ssl_framework.data.images.bands import to_eight_bits

ENDINGS = (".dcm", ".dicom")
"""Of the files that are read here, in capitals or not."""


def is_dicom(path: object) -> TypeGuard[Path]:
    """Whether a file is read here."""
    return isinstance(path, Path) and path.suffix.lower() in ENDINGS


def read_dicom(path: Path, bits: int | None, most_pixels: int) -> Image.Image:
    """The first frame of a file, grey or RGB.

    Args:
        path: of the file.
        bits: that grey values use, the highest of which becomes white; ``None``: as many as the file says it stores.
            Signed values begin at the lowest that fits into them. Windows and rescaling to units, which differ from
            file to file, are not applied.
        most_pixels: H x W may not be more.

    Raises:
        ValueError: pydicom is missing, the image is too large, or its values have no known range.
        Exception: whatever pydicom raises.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, pixel_array
    except ModuleNotFoundError as error:
        raise ValueError("DICOM files need pydicom: pip install -e '.[dicom]'") from error
    data = pydicom.dcmread(path)
    if data.Rows * data.Columns > most_pixels:
        raise ValueError(f"{data.Columns} x {data.Rows} pixels is more than the limit of {most_pixels}")
    values = pixel_array(data, index=0)  # [H, W] or, of colours, [H, W, 3], turned into RGB
    if data.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(values, data)  # [H, W, 3] uint8 or uint16
        return Image.fromarray(colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8))
    return Image.fromarray(eight_bits(values, data, bits))


def eight_bits(values: np.ndarray, data: Any, bits: int | None) -> np.ndarray:
    """Values as uint8, white for the highest of ``bits`` bits, or for 0 where the file says so (MONOCHROME1).

    Raises:
        ValueError: more than 16 bits, or a value that does not fit.
    """
    stored = bits or data.BitsStored
    if stored > 16:
        raise ValueError(f"it stores {stored} bits: set data.bits to those that its values use, at most 16")
    lowest = -(2 ** (stored - 1)) if data.PixelRepresentation else 0
    found = to_eight_bits(values.astype(np.int64) - lowest, stored)
    return 255 - found if data.PhotometricInterpretation == "MONOCHROME1" else found
