"""What every data set is made of: splits of samples, and the source that loads them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssl_framework.types import step_seed

SPLITS = ("pretrain", "train", "test")


class Rows(Protocol):
    """N samples of one shape that need not lie in memory: a tensor, a memory-mapped file, files decoded when asked for.

    Evaluators index it in order, chunk by chunk; a training loader indexes it in the order of its epoch.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """N and the shape of a sample, of pictures C, H, W."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of ``__getitem__``'s result: of pictures uint8."""
        ...

    @property
    def device(self) -> torch.device:
        """Where ``__getitem__`` wants its index and leaves its result."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """Samples at positions [B] int64, repeats allowed: [B, ...], in memory."""
        ...


class Graded(NamedTuple):
    """Pairs of texts of one split, and how alike they are."""

    pair: Tensor  # [P, 2, 2] int64: two texts, each by its sample and which of its wordings it is
    score: Tensor  # [P] float32, greater where they are more alike


class Regions(NamedTuple):
    """Boxes in the pictures of one split, and what is in them."""

    boxes: Tensor  # [N, K, 4] float32: x0, y0, x1, y1, fractions of the picture; 0 where a picture has fewer
    numbers: Mapping[str, Tensor]  # factor -> [N, K] int64, of what is in the box; -1 where there is none
    prompts: Mapping[str, Tensor]  # factor -> [classes, P, ...]: P ways to name each class


class Split(NamedTuple):
    """One split of a data set."""

    rows: Rows  # [N, ...], of pictures [N, C, H, W] uint8, all of one size
    label: Tensor | None = None  # [N] int64 in 0..num_classes-1; or float32 numbers; None: the split has no labels
    classes: tuple[str, ...] = ()  # names of the classes in label order; may be empty
    real: int | None = None  # the first so many are real and the others generated; None: nothing is generated
    masks: Callable[[], Tensor] | None = None  # makes [N, H, W] uint8: the class of each pixel, 0 the background
    beside: Mapping[str, Tensor] | None = None  # further modalities of the same samples, name -> [N, ...], in memory
    prompts: Mapping[str, Tensor] | None = None  # label or factor -> [classes, P, ...]: P ways to name each class
    numbers: Mapping[str, Tensor] | None = None  # further labels of the same samples, factor -> [N]
    swapped: Mapping[str, Tensor] | None = None  # factor -> [N, ...]: a text that is wrong of that factor alone
    graded: Graded | None = None  # of texts, for scores of similarity
    regions: Regions | None = None  # boxes in pictures
    named: Mapping[str, Tensor] | None = None  # factor -> [classes, slots, synonyms] int64: words of a text that name
    # a class, one synonym of every slot; -1 where there are fewer

    @property
    def shape(self) -> tuple[int, ...]:
        """N and the shape of a sample, of pictures C, H, W."""
        return tuple(self.rows.shape)

    @property
    def values_each(self) -> int:
        """Numbers that a sample consists of, of pictures C * H * W: what sums about memory and chunks need."""
        return math.prod(self.shape[1:])

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        return self.label is not None

    def picked(self, index: Tensor) -> "Split":
        """The samples at positions [n] of a split in memory, with all that belongs to them but ``masks`` and pairs."""

        def of(columns: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
            return columns and {name: column[index] for name, column in columns.items()}

        label = None if self.label is None else self.label[index]  # [n]
        boxed = self.regions
        return self._replace(
            rows=self.rows[index],
            label=label,
            real=None,
            masks=None,
            beside=of(self.beside),
            numbers=of(self.numbers),
            swapped=of(self.swapped),
            graded=None,
            regions=boxed and boxed._replace(boxes=boxed.boxes[index], numbers=of(boxed.numbers) or {}),
        )


def chosen(rows: Rows, index: Tensor) -> Tensor:
    """Samples at positions [B], which lie on the device of the rows: [B, ...].

    On the CPU numpy copies sample by sample, where torch's ``rows[index]`` takes five times as long; and it takes one
    thread, so that what is made in the background does not get in the way of what is computed meanwhile.
    """
    if not isinstance(rows, Tensor):
        return rows[index]
    if rows.device.type == "cpu":
        return torch.from_numpy(rows.numpy().take(index.numpy(), axis=0))
    return rows.index_select(0, index)


class Source(Protocol):
    """Anything that loads the three splits."""

    def load(self, split: str) -> Split:
        """The samples of ``split``, one of ``SPLITS``; the same object when called again."""
        ...


def check_split(split: str) -> None:
    """Raises ValueError when ``split`` is not one of ``SPLITS``."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")


class Drawn(ABC):
    """A source whose splits are functions of a seed, drawn at their first use and kept; "holdout" is "train".

    Args:
        num_train, num_test: samples.
        seed: of the drawing.
    """

    def __init__(self, num_train: int, num_test: int, seed: int) -> None:
        self.count = {"train": num_train, "test": num_test}
        self.seed = seed
        self.drawn: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """As ``draw`` makes it; ValueError for an unknown split."""
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.drawn:
            self.drawn[name] = self.draw(self.count[name], step_seed(self.seed, 0, 1 + (name == "test")))
        return self.drawn[name]

    @abstractmethod
    def draw(self, count: int, seed: int) -> Split:
        """``count`` samples, a function of the seed."""


def holdout(label: Tensor | None, num: int, fraction: float, seed: int) -> Tensor:
    """Which of ``num`` samples are held out: a seeded draw of about ``fraction`` of them, of every class where known.

    Args:
        label: [num] int64 class of each sample, or None for one draw over all.
        num: number of samples.
        fraction: share to hold out, in [0, 1). Above 0, a class of two or more samples gives at least one and keeps at
            least one; a class of a single sample keeps it.
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


def subset(split: Split, num: int | None, seed: int, key: str) -> Split:
    """``num`` of the samples in their order, by a seeded draw that takes every class equally often as far as it can.

    Args:
        split: one, in memory.
        num: how many; None for all.
        seed: of the draw, which is a function of the arguments alone.
        key: what an error calls ``num``.

    Raises:
        ValueError: ``num`` is below 1 or more than there are.
    """
    count = len(split.rows)
    if num is None:
        return split
    if not 0 < num <= count:
        raise ValueError(f"{key} is {num}, but there are {count} samples: set it between 1 and {count}, or to null.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))  # [N]
    if split.label is not None:
        shuffled = split.label[order]  # [N]
        by_class = shuffled.argsort(stable=True)  # [N]
        size = shuffled.bincount()  # [classes]
        turn = torch.empty_like(order)  # [N]: how many of its class come before it
        turn[by_class] = torch.arange(count) - (size.cumsum(0) - size)[shuffled[by_class]]
        order = order[turn.argsort(stable=True)]
    index = order[:num].sort().values  # [num]
    return split.picked(index)
