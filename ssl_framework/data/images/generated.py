"""Generated images beside the real ones, as further images to pretrain on (AdaInf, arXiv:2403.12448).

Any source may give the generated images; only what the method trains on changes, evaluators see the real images alone.
How often each kind is drawn is the sampler's business (``samplers.Inflated``).

Channels are red, green, blue throughout. (The authors' code reads generated files with OpenCV, blue first, beside real
images with red first.)
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from ssl_framework.arguments import Channels, Fraction, guarded
from ssl_framework.data.base import Rows, Source, Split, check_split, chosen
from ssl_framework.data.images.arrays import SUFFIXES, check_size, read_prepared
from ssl_framework.data.loader import Undecoded


@guarded
class Arrays:
    """Images of one prepared file, all of them for pretraining.

    Args:
        path: ``.npz`` or ``.safetensors`` with ``images`` uint8 [N, H, W, C], red first.
        channels: C the config asks for.
        resident_share: of the free memory, that the file may take.
    """

    def __init__(self, path: str, channels: Channels, resident_share: Fraction) -> None:
        self.path = Path(path).expanduser()
        self.channels = channels
        self.resident_share = resident_share

    def load(self, split: str) -> Split:
        """[N, C, H, W] uint8 without labels, the same for every split.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is too large for the memory, or what ``arrays.read_prepared`` refuses.
        """
        check_split(split)
        if self.path.suffix not in SUFFIXES or not self.path.is_file():
            raise FileNotFoundError(
                f"generated.path={self.path} is no {' or '.join(SUFFIXES)} file: save the images in one as 'images', "
                "uint8 [N, H, W, C], or keep them in a folder and choose generated=folder"
            )
        check_size(self.path, self.resident_share)
        return read_prepared(self.path, self.channels, (), labelled=False)


class Joined:
    """Two sets of images as one, without copying them: ``base.Rows``, ``first`` and then ``second``.

    Args:
        first, second: [N, C, H, W] and [M, C, H, W] uint8, at least one of them not in memory.
    """

    def __init__(self, first: Rows, second: Rows) -> None:
        self.first = first
        self.second = second

    @property
    def shape(self) -> tuple[int, ...]:
        """N + M, C, H, W."""
        return len(self), *self.first.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """Pixels are uint8."""
        return torch.uint8

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """[B] int64 -> [B, C, H, W] uint8, a copy in memory."""
        images = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)  # [B, C, H, W]
        in_first = index < len(self.first)  # [B]
        for pixels, rows, start in ((self.first, in_first, 0), (self.second, ~in_first, len(self.first))):
            if rows.any():
                images[rows] = chosen(pixels, index[rows] - start)
        return images


class WithGenerated:
    """A source whose pretraining images are followed by generated ones, without labels.

    Args:
        real: the data set.
        generated: another source, of which the pretraining images are taken.
    """

    def __init__(self, real: Source, generated: Source) -> None:
        self.real = real
        self.generated = generated
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """As ``real``, but for "pretrain".

        Raises:
            ValueError: images that cannot lie side by side; and what the two sources raise.
        """
        check_split(split)
        if not self.loaded:
            real, train = self.real.load("pretrain"), self.real.load("train")
            try:
                joined = join(real, self.generated.load("pretrain"))
            except (ValueError, FileNotFoundError) as error:  # a source speaks of data.root, whichever set it is of
                said = re.sub(r"\bdata\.(?=root\b)", "generated.", str(error))
                raise type(error)(f"generated images: {said}") from error
            if train is real and isinstance(joined.rows, Tensor):
                train = train._replace(rows=joined.rows[: joined.real])  # a view: real images exist once in memory
            self.loaded = {"pretrain": joined, "train": train}
        return self.loaded[split] if split in self.loaded else self.real.load(split)


def join(real: Split, generated: Split) -> Split:
    """[N, ...] and [M, ...] -> [N + M, C, H, W], without labels.

    Raises:
        ValueError: images decoded by workers or read in a stream, or of different sizes.
    """
    for images in (real, generated):
        if not isinstance(images, Split) or isinstance(images.rows, Undecoded):
            raise ValueError(
                "they join only images of one size that are decoded already, but some here are decoded while they are "
                "read: choose data=folder or data=store, or generated=none"
            )
    if real.shape[1:] != generated.shape[1:]:
        raise ValueError(
            f"the real images are {list(real.shape[1:])} [C, H, W] and the generated ones {list(generated.shape[1:])}: "
            "store both at one size"
        )
    count = len(real.rows)
    if isinstance(real.rows, Tensor) and isinstance(generated.rows, Tensor):
        return Split(torch.cat([real.rows, generated.rows]), None, real.classes, count)
    return Split(Joined(real.rows, generated.rows), None, real.classes, count)
