"""Pictures of data sets of other libraries, which are indexed: decoded anew every epoch, as files are.

N images, C channels, S pixels a side.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from ssl_framework.data.images.decoding import (
    Opened,
    check_pixels,
    reason_of,
    to_tensor,
    upright,
    upright_size,
)


class Indexed:
    """N pictures of a data set; as ``files.Pictures``.

    Args:
        name: of the set, for messages.
        positions: N numbers of its samples.
        picture: number of a sample -> its picture, as Pillow has it.
    """

    def __init__(self, name: str, positions: Sequence[int], picture: Callable[[int], Any]) -> None:
        self.name = name
        self.positions = positions
        self.picture = picture

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> str:
        return f"sample {self.positions[index]} of {self.name}"

    def image(self, index: int) -> Image.Image:
        """One picture, decoded.

        Raises:
            ValueError: the sample has none, or it has too many pixels.
            Exception: whatever its library raises.
        """
        found = self.picture(int(self.positions[index]))
        if not isinstance(found, Image.Image):
            raise ValueError(f"it holds {type(found).__name__} in place of a picture")
        check_pixels(found)
        return found.copy()  # decoded, and of no file's format: no smaller one can be asked of it

    def open(self, index: int, channels: int, bits: int | None) -> Opened:
        """One picture; see ``decoding.open_image``."""
        return upright_size(self.image(index))

    def squares(
        self, index: Sequence[int], size: int, channels: int, bits: int | None, num_threads: int
    ) -> Iterator[Tensor | str]:
        """The middle squares of some [C, S, S], or why one cannot be read, one after another: not every library can be
        asked by several threads."""
        for position in index:
            try:
                picture = upright(self.image(position), channels, bits)
                yield to_tensor(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))
            except Exception as error:  # whatever a broken file makes a library raise
                yield reason_of(error)
