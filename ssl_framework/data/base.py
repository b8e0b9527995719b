"""What every data set is made of: splits of samples, and the source that loads them."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

SPLITS = ("pretrain", "train", "test")


class Pixels(Protocol):
    """N images of one size that need not lie in memory: a tensor, a memory-mapped file, files decoded when asked for.

    Evaluators index it in order, chunk by chunk; a training loader indexes it in the order of its epoch.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W."""
        ...

    @property
    def device(self) -> torch.device:
        """Where ``__getitem__`` wants its index and leaves its result."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """Images at positions [B] int64, repeats allowed: [B, C, H, W] uint8, in memory."""
        ...


class Images(NamedTuple):
    """One split of a data set."""

    pixels: Pixels  # [N, C, H, W] uint8, all of one size
    label: Tensor | None = None  # [N] int64 in 0..num_classes-1; or float32 numbers; None: the split has no labels
    classes: tuple[str, ...] = ()  # names of the classes in label order; may be empty
    real: int | None = None  # the first so many are real and the others generated; None: nothing is generated
    masks: Callable[[], Tensor] | None = None  # makes [N, H, W] uint8: the class of each pixel, 0 the background

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W."""
        return tuple(self.pixels.shape)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return self.label is not None


def chosen(pixels: Pixels, index: Tensor) -> Tensor:
    """Images at positions [B], which lie on the device of the pixels: [B, C, H, W] uint8.

    On the CPU numpy copies image by image, where torch's ``pixels[index]`` takes five times as long; and it takes one
    thread, so that what is made in the background does not get in the way of what is computed meanwhile.
    """
    if not isinstance(pixels, Tensor):
        return pixels[index]
    if pixels.device.type == "cpu":
        return torch.from_numpy(pixels.numpy().take(index.numpy(), axis=0))
    return pixels.index_select(0, index)


class Source(Protocol):
    """Anything that loads the three splits."""

    def load(self, split: str) -> Images:
        """The images of ``split``, one of ``SPLITS``; the same object when called again."""
        ...


def check_split(split: str) -> None:
    """Raises ValueError when ``split`` is not one of ``SPLITS``."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")


def holdout(label: Tensor | None, num: int, fraction: float, seed: int) -> Tensor:
    """Which of ``num`` images are held out: a seeded draw of about ``fraction`` of them, of every class where known.

    Args:
        label: [num] int64 class of each image, or None for one draw over all.
        num: number of images.
        fraction: share to hold out, in [0, 1). Above 0, a class of two or more images gives at least one and keeps at
            least one; a class of a single image keeps it.
        seed: of the draw, which is a function of the arguments alone.

    Returns:
        [num] bool, True where held out.
    """
    generator = torch.Generator().manual_seed(seed)
    group = torch.zeros(num, dtype=torch.int64) if label is None else label  # [num]
    held_out = torch.zeros(num, dtype=torch.bool)  # [num]
    for value in group.unique():
        members = (group == value).nonzero().flatten()
        count = min(max(round(fraction * len(members)), int(fraction > 0)), len(members) - 1)
        held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return held_out


def subset(images: Images, num: int | None, seed: int, key: str) -> Images:
    """``num`` of the images in their order, by a seeded draw that takes every class equally often as far as it can.

    Args:
        images: of one split, in memory.
        num: how many; None for all.
        seed: of the draw, which is a function of the arguments alone.
        key: what an error calls ``num``.

    Raises:
        ValueError: ``num`` is below 1 or more than there are.
    """
    count = len(images.pixels)
    if num is None:
        return images
    if not 0 < num <= count:
        raise ValueError(f"{key} is {num}, but there are {count} images: set it between 1 and {count}, or to null.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))  # [N]
    if images.label is not None:
        shuffled = images.label[order]  # [N]
        by_class = shuffled.argsort(stable=True)  # [N]
        size = shuffled.bincount()  # [classes]
        turn = torch.empty_like(order)  # [N]: how many of its class come before it
        turn[by_class] = torch.arange(count) - (size.cumsum(0) - size)[shuffled[by_class]]
        order = order[turn.argsort(stable=True)]
    index = order[:num].sort().values  # [num]
    return Images(images.pixels[index], None if images.label is None else images.label[index], images.classes)
