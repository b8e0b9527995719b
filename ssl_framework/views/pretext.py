"""Views that ask a question whose answer is known without labels, as ScatSimCLR (arXiv:2108.13939) has them beside its
pair of views: how far was this picture turned, or in which order do its tiles lie?

    Rotation  Gidaris et al., ICLR 2018 (arXiv:1803.07728): by 0, 90, 180 or 270 degrees
    Flip      left-right, top-bottom, both or neither: for log-mel pictures (SSLH, arXiv:2102.08183)
    Jigsaw    Noroozi and Favaro, ECCV 2016 (arXiv:1603.09246): one of some permutations of 3 x 3 tiles

They are given as ``views.noise``, for sounds as ``views.question``, and change one view; what they did is the last of
``Batch.targets``.

B samples, C channels, s pixels along a side.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ssl_framework.arguments import Natural, guarded
from ssl_framework.types import Batch
from ssl_framework.views.crops import uniform

TILES = 3
"""Along a side."""


class Question(ABC):
    """Base: changes view ``view`` by one of ``answers`` classes of changes, each sample by another.

    Args:
        view: its position.
        answers: how many changes there are.
    """

    tells = frozenset({"answer"})

    def __init__(self, view: int, answers: int) -> None:
        self.view = view
        self.answers = answers

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """The batch with the changed view, and which change it was, [B] int64 in 0 .. answers - 1.

        Raises:
            ValueError: there is no such view.
        """
        if self.view >= len(batch.views):
            raise ValueError(
                f"views.noise.view is {self.view}, but the views are numbered 0 to {len(batch.views) - 1}: add a group "
                "to views.groups, or name another view"
            )
        x = batch.views[self.view]
        answer = (uniform((len(x),), x.device, generator) * self.answers).long()  # [B]
        views = [self.change(x, answer) if v == self.view else view for v, view in enumerate(batch.views)]
        return batch._replace(views=views, targets=[*(batch.targets or ()), answer])

    @abstractmethod
    def change(self, x: Tensor, answer: Tensor) -> Tensor:
        """[B, C, s, s] and [B] -> [B, C, s, s]."""


@guarded
class Rotation(Question):
    """A quarter turn, ``answer`` times, counter-clockwise.

    Args:
        view: position of the view that is turned.
    """

    def __init__(self, view: Natural) -> None:
        super().__init__(view, 4)

    def change(self, x: Tensor, answer: Tensor) -> Tensor:
        """As in ``Question``."""
        turned = torch.stack([x.rot90(k, (2, 3)) for k in range(4)], dim=1)  # [B, 4, C, s, s]
        return turned[torch.arange(len(x), device=x.device), answer]


@guarded
class Flip(Question):
    """Mirrored along the last axis, the one before it, both or neither; of a sound: along time and along frequency.

    Args:
        view: position of the view that is mirrored.
    """

    def __init__(self, view: Natural) -> None:
        super().__init__(view, 4)

    def change(self, x: Tensor, answer: Tensor) -> Tensor:
        """As in ``Question``; 0 neither, 1 the last axis, 2 the one before it, 3 both."""
        x = torch.where((answer % 2 == 1).view(-1, 1, 1, 1), x.flip(3), x)
        return torch.where((answer >= 2).view(-1, 1, 1, 1), x.flip(2), x)


@guarded
class Jigsaw(Question):
    """The 3 x 3 tiles of a picture in another order; what no tile covers, right and below, becomes black.

    Args:
        view: position of the view whose tiles are moved.
        permutations: how many orders there are, at most 72; any two of them put at most one tile at the same place.
    """

    def __init__(self, view: Natural, permutations: Natural) -> None:
        self.orders = far_apart()  # [72, 9]
        if not 2 <= permutations <= len(self.orders):
            raise ValueError(f"views.noise.permutations is {permutations}: it must be between 2 and {len(self.orders)}")
        super().__init__(view, permutations)

    def change(self, x: Tensor, answer: Tensor) -> Tensor:
        """As in ``Question``; place p shows tile ``orders[answer][p]``, row by row."""
        side = x.shape[3] // TILES
        tiles = x[..., : TILES * side, : TILES * side].unflatten(3, (TILES, side)).unflatten(2, (TILES, side))
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [B, 9, C, side, side]
        order = self.orders.to(x.device)[answer]  # [B, 9]
        moved = tiles[torch.arange(len(x), device=x.device)[:, None], order]  # [B, 9, C, side, side]
        moved = moved.unflatten(1, (TILES, TILES)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        result = torch.zeros_like(x)
        result[..., : TILES * side, : TILES * side] = moved
        return result


def far_apart() -> Tensor:
    """72 permutations of nine tiles, of which any two agree at one place at most: [72, 9] int64, the identity first.

    They are the maps ``p -> a p + b`` of the field of nine elements (a not 0), which are sharply two-transitive; an
    element is ``3 u + v`` for ``u i + v`` modulo 3, i^2 = -1.
    """
    u, v = torch.arange(9) // 3, torch.arange(9) % 3  # [9]
    real = v[:, None] * v - u[:, None] * u  # [9, 9]
    imaginary = v[:, None] * u + u[:, None] * v  # [9, 9]
    found = []
    for a in range(1, 9):
        for b in range(9):
            found.append((imaginary[a] + b // 3) % 3 * 3 + (real[a] + b % 3) % 3)
    return torch.stack(found)
