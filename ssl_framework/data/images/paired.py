"""Generated images of every training sample, beside it: what a view may show in the place of a crop of the sample
(GenView, arXiv:2403.12003).

    PairedFiles    images that a generator has made before, as files
    RedrawnShapes  the generator of data=shapes itself, asked for nearly the same picture once more
    LatentViews    an auto-encoder that has learned the samples (see ``latent``)

Only the method sees them, and the page of a run; evaluators see the real images alone. They lie in memory,
``Split.beside["generated"]``.

N samples, K generated images of each.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_framework.arguments import Channels, Count, Fraction, Pixels, Seed, guarded
from ssl_framework.data.base import Source, Split, check_split
from ssl_framework.data.images.arrays import SUFFIXES
from ssl_framework.data.images.decoding import read_image
from ssl_framework.data.images.generated import Arrays
from ssl_framework.data.images.shapes import Shapes
from ssl_framework.data.loader import Undecoded
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.folder import RunFolder
from ssl_framework.types import step_seed

NAME = re.compile(r"(\d+)(?:_\d+)?\.(?:png|jpe?g|webp|bmp)")
"""``17.png`` is of the training sample 17, ``17_0.png`` and ``17_1.png`` are both."""


class Generator(Protocol):
    """Anything that has images of the training samples.

    Attributes:
        slow: whether a run keeps them in its folder, so that it finds them again when it is resumed.
    """

    slow: bool

    def __call__(self, real: Split) -> Tensor:
        """[N, K, C, H, W] uint8 of the N samples of ``real``, in their order."""
        ...


class Made(Mapping[str, Tensor]):
    """The generated images, made when they are first read: who only evaluates a run does not wait for them.

    Args:
        others: what stands beside the samples already.
        make: makes them, [N, K, C, H, W] uint8.
    """

    def __init__(self, others: Mapping[str, Tensor], make: Callable[[], Tensor]) -> None:
        self.others = others
        self.make = functools.cache(make)

    def __getitem__(self, name: str) -> Tensor:
        return self.make() if name == "generated" else self.others[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.others, "generated"))

    def __len__(self) -> int:
        return len(self.others) + 1


class Paired:
    """A source whose pretraining samples have generated images beside them.

    Args:
        real: the data set.
        generator: of the images.
        folder: of the run, if there is one.
        resumed: whether the run goes on from a checkpoint; its folder then has the images of a slow generator.
    """

    def __init__(self, real: Source, generator: Generator, folder: Path | None = None, resumed: bool = False) -> None:
        self.real = real
        self.generator = generator
        self.file = RunFolder(folder).generated_file if folder is not None and generator.slow else None
        self.resumed = resumed
        self.loaded: Split | None = None

    def load(self, split: str) -> Split:
        """As ``real``, but for "pretrain", and for "train" where that is the same set.

        Raises:
            ValueError: images that are decoded by workers or read in a stream; and what the generator raises.
        """
        check_split(split)
        own = self.real.load(split)
        if split != "pretrain":
            first = self.load("pretrain")
            return first if own.rows is first.rows else own
        if self.loaded is None:
            if not isinstance(own, Split) or isinstance(own.rows, Undecoded) or len(own.shape) != 4:
                raise ValueError(
                    "generated images stand beside pictures that are decoded already, but these samples are not: "
                    "choose data=folder or data=store, or generated=none"
                )
            made = Made(own.beside or {}, lambda: self.images(own))
            self.loaded = own._replace(beside=made if self.generator.slow else dict(made))
        return self.loaded

    def images(self, real: Split) -> Tensor:
        """[N, K, C, H, W] uint8, from the run's folder if they are there."""
        if self.file is not None and self.resumed and self.file.is_file():
            images = torch.from_numpy(np.load(self.file, allow_pickle=False))
            if images.shape[:1] + images.shape[2:] != real.shape:
                raise ValueError(
                    f"{self.file} has images {list(images.shape)} [N, K, C, H, W], but the training samples are "
                    f"{list(real.shape)} [N, C, H, W]: it belongs to other data; begin a new run"
                )
            return images
        images = self.generator(real)
        if self.file is not None:
            with replacing(self.file) as partial:  # every process of a run makes the same
                np.save(partial, images.numpy())
        return images


@guarded
class PairedFiles:
    """Files of images, each of one training sample.

    Args:
        path: a folder of pictures named by the position of their sample in the training set, from 0 on: ``17.png``, or
            ``17_0.png``, ``17_1.png`` for K of them. Or one ``.npz`` or ``.safetensors`` file with ``images`` uint8
            [N * K, H, W, C], those of the first sample first.
        channels: C the config asks for.
        stored_size: pixels that the pictures of a folder are decoded to.
        resident_share: of the free memory, that a file may take.
    """

    slow: ClassVar[bool] = False

    def __init__(self, path: str, channels: Channels, stored_size: Pixels, resident_share: Fraction) -> None:
        self.path = Path(path).expanduser()
        self.channels = channels
        self.stored_size = stored_size
        self.resident_share = resident_share

    def __call__(self, real: Split) -> Tensor:
        """[N, K, C, H, W] uint8.

        Raises:
            FileNotFoundError: there is no such folder or file.
            ValueError: a sample has no image, or more or fewer than the others.
        """
        count = real.shape[0]
        if self.path.suffix in SUFFIXES:
            rows = Arrays(str(self.path), self.channels, self.resident_share).load("pretrain").rows
            assert isinstance(rows, Tensor)
            if not len(rows) or len(rows) % count:
                raise ValueError(
                    f"{self.path} has {len(rows)} images for {count} training samples: give every sample as many, "
                    "those of the first sample first"
                )
            return rows.unflatten(0, (count, -1))  # [N, K, C, H, W]
        if not self.path.is_dir():
            raise FileNotFoundError(f"generated.path={self.path} is no folder and no {' or '.join(SUFFIXES)} file")
        found: dict[int, list[Path]] = {}
        for file in sorted(self.path.iterdir()):
            if named := NAME.fullmatch(file.name):
                found.setdefault(int(named[1]), []).append(file)
        number = max(map(len, found.values()), default=1)  # K
        if short := [sample for sample in range(count) if len(found.get(sample, ())) != number]:
            raise ValueError(
                f"{self.path} has {len(found.get(short[0], ()))} images of the training sample {short[0]}, and of "
                f"{len(short) - 1} others of {count} another number than {number}: name them 0.png, 1.png ... by the "
                "position of the sample, or 0_0.png, 0_1.png ... for as many of each"
            )
        pixels = [read_image(file, self.stored_size, self.channels) for n in range(count) for file in found[n]]
        return torch.stack(pixels).unflatten(0, (count, number))  # [N, K, C, H, W]


@guarded
class RedrawnShapes:
    """A generator that knows the numbers behind a picture of data=shapes, and draws it again with others near them.

    Args:
        shapes: the data set, as the run reads it.
        noise: how far every number is moved, of place, size, turn, colours, texture and dots, towards a random one, in
            [0, 1]; the shape stays. It is what GenView calls the noise level.
        variations: K, images of a sample.
        seed: of the drawing.
    """

    slow: ClassVar[bool] = False

    def __init__(self, shapes: Shapes, noise: Fraction, variations: Count, seed: Seed) -> None:
        self.shapes = shapes
        self.noise = noise
        self.variations = variations
        self.seed = seed

    def __call__(self, real: Split) -> Tensor:
        """[N, K, 3, S, S] uint8.

        Raises:
            ValueError: the run's shapes are not the ones that this generator knows.
        """
        drawn = [self.shapes.redrawn(self.noise, step_seed(self.seed, k)) for k in range(self.variations)]
        if len(drawn[0]) != real.shape[0]:
            raise ValueError(
                f"generated.source.shapes has {len(drawn[0])} samples, but the run trains on {real.shape[0]}: leave it "
                "as it is, like data.source"
            )
        return torch.stack(drawn, dim=1)
