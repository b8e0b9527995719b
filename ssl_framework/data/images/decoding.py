"""From an image file to uint8 pixels, whatever its format, depth, orientation or transparency.

C channels, S pixels a side.
"""

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from ssl_framework.data.images.bands import holds_bands, read_bands, square, to_eight_bits
from ssl_framework.data.images.dicom import is_dicom, read_dicom
from ssl_framework.data.residence import note

Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
    if name in Image.OPEN  # AVIF came with Pillow 11.3
)
"""Pillow's names of the formats that are read, whatever a file is called: those of ``layout.SUFFIXES``. Others, such as
EPS, start programs."""

MOST_PIXELS = int(os.environ.get("SSL_FRAMEWORK_MAX_PIXELS", Image.MAX_IMAGE_PIXELS or 2**27))
"""Of an image; Pillow's own bound of 89 million unless the environment says otherwise."""

Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such an image is refused


def opened(file: Path | BinaryIO) -> Image.Image:
    """An image of a format that is read, its header interpreted and nothing decoded.

    Raises:
        ValueError: another format, or more pixels than ``MOST_PIXELS``.
    """
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(f"it is no image of a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    check_pixels(image)
    return image


def to_eight_bit(image: Image.Image, bits: int | None = None) -> Image.Image:
    """A one-channel image of 16 bits as 8 bits, 2^bits - 1 becoming 255; anything else as it is.

    Args:
        image: decoded.
        bits: that the values use; ``None``: all 16, which is said to be odd of values that need 12 only.

    Raises:
        ValueError: more than 16 bits or floating point, whose range the file does not say; a value above ``bits``.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)  # [H, W]
    if image.mode.startswith("F") or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"mode {image.mode} has no known value range, save it with 8 or 16 bits a channel")
    if bits is None and values.max() < 4096:
        note(
            "an image of 16 bits has no value above 4095, and becomes dark: if the files use 12 bits (or 10, 14), set "
            "data.bits=12 (or 10, 14); data.bits=16 if they are as they should be"
        )
    return Image.fromarray(to_eight_bits(values, bits))


def read_image(path: Path | BinaryIO, size: int, channels: int, bits: int | None = None) -> Tensor:
    """Decodes one file (of an animation the first frame) to a square.

    The EXIF orientation is applied, transparency is laid over white, the short side is resized to ``size`` with
    antialiasing and the middle square is kept.

    Args:
        path: of the image.
        size: S, pixels.
        channels: 1 for grey, 3 for RGB, whatever the file has; others are as many as the file has (see ``bands``).
        bits: that values of 16 bits use; ``None``: all.

    Returns:
        [C, S, S] uint8.

    Raises:
        Exception: whatever the decoder raises; ValueError for a bit depth or a size that is not supported.
    """
    if isinstance(path, Path) and holds_bands(path, channels):
        return square(read_bands(path, channels, bits, MOST_PIXELS), size)
    with read_dicom(path, bits, MOST_PIXELS) if is_dicom(path) else opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # lets a large JPEG decode at a fraction of its size, never below this
        picture = ImageOps.fit(upright(image, channels, bits), (size, size), Image.Resampling.BICUBIC)
        return to_tensor(picture)


def check_pixels(image: Image.Image) -> None:
    """Raises ValueError for an image, opened but not decoded, that has more than ``MOST_PIXELS``."""
    if image.width * image.height > MOST_PIXELS:  # Pillow itself refuses above twice this, and only warns between
        raise ValueError(
            f"{image.width} x {image.height} pixels is more than the limit of {MOST_PIXELS}: make it smaller, or set "
            "the variable SSL_FRAMEWORK_MAX_PIXELS of the environment"
        )


def upright(image: Image.Image, channels: int, bits: int | None = None) -> Image.Image:
    """Decodes: EXIF orientation applied, transparency laid over white, one (grey) or three (RGB) channels of 8 bits."""
    picture = to_eight_bit(ImageOps.exif_transpose(image), bits)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if channels == 1 else "RGB")


def to_tensor(picture: Image.Image) -> Tensor:
    """A grey or RGB picture as [C, H, W] uint8, its channels innermost in memory."""
    pixels = torch.from_numpy(np.array(picture))  # [H, W] or [H, W, 3]
    return pixels.reshape(picture.height, picture.width, -1).permute(2, 0, 1)  # [C, H, W]


def reason_of(error: Exception) -> str:
    """The first line of what a decoder says."""
    return (str(error) or type(error).__name__).splitlines()[0]


def decode_in_order(
    paths: Iterable[Path | BinaryIO], size: int, channels: int, num_threads: int, bits: int | None = None
) -> Iterator[Tensor | str]:
    """What ``read_image`` makes of each file, or why it could not, in the order of ``paths``; a few files ahead."""

    def read(path: Path | BinaryIO) -> Tensor | str:
        try:
            return read_image(path, size, channels, bits)
        except Exception as error:  # a broken file makes decoders raise almost anything; all of it is reported
            return reason_of(error)

    waiting: deque[Future[Tensor | str]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for path in paths:
                waiting.append(pool.submit(read, path))
                if len(waiting) > 4 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class Opened(NamedTuple):
    """An image file that has been read but not decoded, unless it holds bands."""

    image: Image.Image | Tensor  # or [C, H, W] uint8
    height: int  # pixels, once it stands upright
    width: int


def open_image(path: Path, channels: int = 3, bits: int | None = None) -> Opened:
    """Reads a file and interprets its header; arguments as of ``read_image``.

    Raises:
        Exception: whatever the decoder raises; ValueError for a size that is not supported.
    """
    if holds_bands(path, channels):
        bands = read_bands(path, channels, bits, MOST_PIXELS)
        return Opened(bands, *bands.shape[1:])
    return upright_size(read_dicom(path, bits, MOST_PIXELS) if is_dicom(path) else opened(BytesIO(path.read_bytes())))


def upright_size(image: Image.Image) -> Opened:
    """An image with its height and width once it stands upright."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)  # by a quarter, either way
    height, width = (image.width, image.height) if turned else (image.height, image.width)
    return Opened(image, height, width)


def read_crops(
    opened: Opened, boxes: Sequence[Sequence[int]], sizes: Sequence[int], channels: int, bits: int | None = None
) -> list[Tensor]:
    """Decodes one image and cuts boxes out of it, resized bilinearly with antialias.

    A JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size that enlarges none of the boxes.

    Args:
        opened: the image; this closes it.
        boxes: V times top, left, height, width in pixels of the upright image.
        sizes: V sides of the results, pixels.
        channels: 1 or 3; of bands as many as there are.
        bits: that values of 16 bits use; ``None``: all.

    Returns:
        V x [C, size, size] uint8.

    Raises:
        Exception: whatever the decoder raises.
    """
    image = opened.image
    if isinstance(image, Tensor):
        return cut(image, boxes, sizes)
    divisor = 1
    if image.format in ("JPEG", "MPO"):
        spare = min(min(box[2:]) / size for box, size in zip(boxes, sizes, strict=True))
        divisor = max(d for d in (1, 2, 4, 8) if d <= max(spare, 1))
        image.draft(None, (image.width // divisor, image.height // divisor))
    picture = upright(image, channels, bits)
    image.close()
    if divisor == 1:
        return cut(to_tensor(picture), boxes, sizes)
    crops = []
    for (top, left, tall, wide), size in zip(boxes, sizes, strict=True):
        right, bottom = min((left + wide) / divisor, picture.width), min((top + tall) / divisor, picture.height)
        box = (left / divisor, top / divisor, right, bottom)
        crops.append(to_tensor(picture.resize((size, size), Image.Resampling.BILINEAR, box=box)))
    return crops


def cut(pixels: Tensor, boxes: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[Tensor]:
    """Boxes (top, left, height, width) of an image [C, H, W] uint8, resized: V x [C, size, size] uint8.

    torch does it in half of Pillow's time, but with whole pixels only.
    """
    whole = [pixels[None, :, top : top + tall, left : left + wide] for top, left, tall, wide in boxes]
    return [interpolate(x, (s, s), mode="bilinear", antialias=True)[0] for x, s in zip(whole, sizes, strict=True)]
