"""What hides patches of views from the student: the frame that every masker shares, and random draws of places.

A masker asks the student's backbone for its grid of patches, so that no size is written twice. B samples of this rank,
N = h * w patches of a view.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Len
from torch import Tensor, nn

from ssl_framework.arguments import Natural
from ssl_framework.models.base import patched
from ssl_framework.models.encoder import Encoder
from ssl_framework.types import Batch, Clock


class Draws(NamedTuple):
    """Generators of a step."""

    own: torch.Generator | None  # for one draw a sample; None is torch's own, which differs on every rank
    shared: torch.Generator  # for one draw for the whole batch, alike on all ranks

    def uniform(self, *shape: int, device: torch.device) -> Tensor:
        """U(0, 1) float32 of this rank on a device, drawn on that of the generator, if there is one."""
        where = device if self.own is None else self.own.device
        return torch.rand(shape, generator=self.own, device=where).to(device)

    def alike(self, *shape: int) -> Tensor:
        """U(0, 1) float32 that all ranks draw alike, on the CPU."""
        return torch.rand(shape, generator=self.shared)


class Drawn(NamedTuple):
    """What a masker does to a view."""

    hidden: Tensor  # [B, N] bool, True where a patch is hidden from the student
    targets: Tensor | None = None  # [B, T, n] int64, T blocks of patches to be predicted


class Masker(nn.Module, ABC):
    """Base of all maskers. The student sees masks, a teacher never does.

    Args:
        views: positions of the views that are masked; ``None``: all that the student encodes.

    Class attributes:
        gives_targets: whether ``Drawn.targets`` are there.
        fills: whether another image's patches are shown at the hidden places.
    """

    gives_targets: ClassVar[bool] = False
    fills: ClassVar[bool] = False

    def __init__(self, views: Annotated[Sequence[Natural], Len(1)] | None) -> None:
        super().__init__()
        self.views = views
        self.grids: dict[int, tuple[int, int]] = {}  # view -> rows and columns of patches, once ``attach`` was called

    @property
    def even(self) -> bool:
        """Whether as many patches are hidden in every sample, which leaving them out needs."""
        return True

    @abstractmethod
    def attach(self, student: Encoder, shapes: Sequence[tuple[int, ...]], encoded: Sequence[int]) -> None:
        """Asks the student for its grid of patches, once, before training. Changes ``grids``.

        Args:
            student: as the run trains it.
            shapes: of every view of one sample; that of a picture is C, h, w.
            encoded: positions of the views that the student encodes.

        Raises:
            ValueError: the backbone has no patches, a view is no picture or not the student's, or ``check`` refuses.
        """

    @abstractmethod
    def forward(self, batch: Batch, clock: Clock, generator: torch.Generator | None = None) -> Batch:
        """The batch with ``masks`` and, where there are any, ``targets`` of the masked views in their order.

        Args:
            batch: its views stay as they are.
            clock: for what all ranks draw alike.
            generator: of this rank's draws; ``None``: torch's own.
        """


class ViewMasker(Masker):
    """Base of the maskers that draw every masked view alike."""

    def attach(self, student: Encoder, shapes: Sequence[tuple[int, ...]], encoded: Sequence[int]) -> None:
        """As of ``Masker``."""
        name = type(self).__name__
        if strange := [v for v in self.views or () if v not in encoded]:
            raise ValueError(
                f"masker.views names {strange[0]}, but the student encodes {list(encoded)}: name some of them"
            )
        backbone = patched(student.backbone, f"{name} (masker=<name>)")
        for view in self.views or encoded:
            if len(shapes[view]) != 3:
                raise ValueError(f"{name} hides patches of pictures, but view {view} is none: set masker.views")
            grid = backbone.grid(*shapes[view][1:])
            assert grid is not None
            self.check(*grid)
            self.grids[view] = grid

    def check(self, rows: int, columns: int) -> None:
        """Refuses grids of patches that are too small, or do not divide as it needs; by default those of one patch.

        Raises:
            ValueError: in a sentence that names the key to change.
        """
        refuse_smaller(rows, columns, 2, type(self).__name__)

    @abstractmethod
    def draw(self, count: int, grid: tuple[int, int], draws: Draws, device: torch.device) -> Drawn:
        """What is hidden from ``count`` samples whose patches lie on a grid of rows and columns."""

    def forward(self, batch: Batch, clock: Clock, generator: torch.Generator | None = None) -> Batch:
        """As of ``Masker``."""
        draws = Draws(generator, clock.generator())
        masks: list[Tensor | None] = [None] * len(batch.views)
        targets = []
        for view, grid in self.grids.items():
            drawn = self.draw(len(batch.index), grid, draws, batch.views[view].device)
            masks[view] = drawn.hidden
            targets += [] if drawn.targets is None else [drawn.targets]
        return batch._replace(masks=masks, targets=targets or None)


def refuse_smaller(rows: int, columns: int, least: int, name: str) -> None:
    """Raises ValueError for a grid with fewer rows or columns than a masker needs."""
    if min(rows, columns) < least:
        raise ValueError(
            f"{name} needs {least} x {least} patches or more, but a view has {rows} x {columns}: set a smaller "
            "backbone.options.patch_size or a larger data.image_size"
        )


def first(score: Tensor, count: Tensor | int) -> Tensor:
    """Where the highest scores of each row are: [B, N], and how many, one number or [B] -> [B, N] bool.

    Random scores make it a random subset; whole numbers added to them say what comes first.
    """
    place = score.argsort(dim=1, descending=True).argsort(dim=1)  # [B, N]
    return place < (count[:, None] if isinstance(count, Tensor) else count)


def number_of(ratio: float, total: int) -> int:
    """How many of so many a share is, at least one and never all; a share of .75 of 64 is 48 (MAE keeps the rest)."""
    return min(max(total - int(total * (1 - ratio) + 1e-6), 1), total - 1)
