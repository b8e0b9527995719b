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

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
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


def to_eight_bit(image: Image.Image) -> Image.Image:
    """A one-channel image of 16 bits as 8 bits, 65535 becoming 255; anything else as it is.

    Raises:
        ValueError: more than 16 bits or floating point, whose range the file does not say.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)  # [H, W]
    if image.mode.startswith("F") or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"mode {image.mode} has no known value range, save it with 8 or 16 bits a channel")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def read_image(path: Path | BinaryIO, size: int, channels: int) -> Tensor:
    """Decodes one file (of an animation the first frame) to a square.

    The EXIF orientation is applied, transparency is laid over white, the short side is resized to ``size`` with
    antialiasing and the middle square is kept.

    Args:
        path: of the image.
        size: S, pixels.
        channels: 1 for grey, 3 for RGB, whatever the file has.

    Returns:
        [C, S, S] uint8.

    Raises:
        Exception: whatever the decoder raises; ValueError for a bit depth or a size that is not supported.
    """
    with opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # lets a large JPEG decode at a fraction of its size, never below this
        picture = ImageOps.fit(upright(image, channels), (size, size), Image.Resampling.BICUBIC)
        return to_tensor(picture)


def check_pixels(image: Image.Image) -> None:
    """Raises ValueError for an image, opened but not decoded, that has more than ``MOST_PIXELS``."""
    if image.width * image.height > MOST_PIXELS:  # Pillow itself refuses above twice this, and only warns between
        raise ValueError(
            f"{image.width} x {image.height} pixels is more than the limit of {MOST_PIXELS}: make it smaller, or set "
            "the variable SSL_FRAMEWORK_MAX_PIXELS of the environment"
        )


def upright(image: Image.Image, channels: int) -> Image.Image:
    """Decodes: EXIF orientation applied, transparency laid over white, one (grey) or three (RGB) channels of 8 bits."""
    picture = to_eight_bit(ImageOps.exif_transpose(image))
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


def decode_in_order(paths: Iterable[Path], size: int, channels: int, num_threads: int) -> Iterator[Tensor | str]:
    """What ``read_image`` makes of each file, or why it could not, in the order of ``paths``; a few files ahead."""

    def read(path: Path) -> Tensor | str:
        try:
            return read_image(path, size, channels)
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
    """An image file that has been read but not decoded."""

    image: Image.Image
    height: int  # pixels, once it stands upright
    width: int


def open_image(path: Path) -> Opened:
    """Reads a file and interprets its header.

    Raises:
        Exception: whatever the decoder raises; ValueError for a size that is not supported.
    """
    image = opened(BytesIO(path.read_bytes()))
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)  # by a quarter, either way
    height, width = (image.width, image.height) if turned else (image.height, image.width)
    return Opened(image, height, width)


def read_crops(opened: Opened, boxes: Sequence[Sequence[int]], sizes: Sequence[int], channels: int) -> list[Tensor]:
    """Decodes one image and cuts boxes out of it, resized bilinearly with antialias.

    A JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size that enlarges none of the boxes.

    Args:
        opened: the image; this closes it.
        boxes: V times top, left, height, width in pixels of the upright image.
        sizes: V sides of the results, pixels.
        channels: 1 or 3.

    Returns:
        V x [C, size, size] uint8.

    Raises:
        Exception: whatever the decoder raises.
    """
    image = opened.image
    divisor = 1
    if image.format in ("JPEG", "MPO"):
        spare = min(min(box[2:]) / size for box, size in zip(boxes, sizes, strict=True))
        divisor = max(d for d in (1, 2, 4, 8) if d <= max(spare, 1))
        image.draft(None, (image.width // divisor, image.height // divisor))
    picture = upright(image, channels)
    image.close()
    if divisor == 1:
        pixels = to_tensor(picture)[None]  # [1, C, H, W]
        whole = [pixels[..., top : top + tall, left : left + wide] for top, left, tall, wide in boxes]
        # torch resizes in half of Pillow's time, but whole pixels only
        return [interpolate(x, (s, s), mode="bilinear", antialias=True)[0] for x, s in zip(whole, sizes, strict=True)]
    crops = []
    for (top, left, tall, wide), size in zip(boxes, sizes, strict=True):
        right, bottom = min((left + wide) / divisor, picture.width), min((top + tall) / divisor, picture.height)
        box = (left / divisor, top / divisor, right, bottom)
        crops.append(to_tensor(picture.resize((size, size), Image.Resampling.BILINEAR, box=box)))
    return crops
