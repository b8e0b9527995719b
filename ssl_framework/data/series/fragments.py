"""Sheets of paper torn into strips, drawn from a seed, no files and no network: which fragment was beside which?

A sheet is a square with a pattern of its own. Two tears from bottom to top, not straight, leave three strips; what lies
along the contour of a strip, walked counter-clockwise, is two series: how far the contour turns, and the value of the
pattern. Neither knows where the strip lies or how it was turned. A sample is a pair of neighbours. The contour of the
second one is read as seen from behind, backwards and with turns of the other sign, so that the torn edge is the same
series in both. Beside the pair stands which of their points lie on each other, before anything is worn.

N samples, T points of a contour, P points of an edge before they are spread evenly.
"""

import math
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, NonNegative, Seed, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.types import step_seed

PAIRS = 2
"""Of a sheet: its three strips are neighbours twice."""

POINTS = 96
"""P."""

CHUNK = 64
"""Sheets whose distances exist at once."""


@guarded
class Fragments:
    """Pairs of contours with two channels, turn and pattern.

    Args:
        num_train, num_test: samples; two of a sheet, one behind the other.
        length: T.
        tear: greatest height of each of the waves that a tear consists of, of the sheet's side.
        worn: standard deviation by which points of a contour are moved, of the sheet's side, in each strip by itself.
        faded: standard deviation of the noise on the pattern's values, of their own.
        seed: of the drawing.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        length: Annotated[int, Interval(ge=16, le=4096)],
        tear: Fraction,
        worn: NonNegative,
        faded: NonNegative,
        seed: Seed,
    ) -> None:
        self.count = {"train": num_train, "test": num_test}
        self.length = length
        self.tear, self.worn, self.faded = tear, worn, faded
        self.seed = seed

    def load(self, split: str) -> Split:
        """[N, 2, 2, T] float32, of each sample two contours; beside them "partner" [N, T] int16, which point of the
        second one lies on each point of the first, -1: none; among ``numbers`` "group", the pair's own number.

        Raises:
            ValueError: there is no such split.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        return self.draw(self.count[name], step_seed(self.seed, 0, 1 + (name == "test")))

    def draw(self, count: int, seed: int) -> Split:
        """``count`` samples, a function of the seed."""
        generator = torch.Generator().manual_seed(seed)
        sheets = -(-count // PAIRS)
        edges = self.edges(sheets, generator)  # 4 x [sheets, P, 2], from left to right
        waves = Waves(sheets, generator)
        strips = [self.strip(left, right, waves, generator) for left, right in pairwise(edges)]
        pairs = torch.stack(
            [torch.stack([first, behind(second)], dim=1) for (first, _), (second, _) in pairwise(strips)],
            dim=1,
        )  # [sheets, 2, 2, 2, T]
        partner = torch.stack([lying_on(a, b.flip(1)) for (_, a), (_, b) in pairwise(strips)], dim=1)  # [sheets, 2, T]
        beside = {"partner": partner.flatten(0, 1)[:count].to(torch.int16)}
        return Split(pairs.flatten(0, 1)[:count], beside=beside, numbers={"group": torch.arange(count)})

    def edges(self, sheets: int, generator: torch.Generator) -> list[Tensor]:
        """The sheet's left side, both tears and its right side, from bottom to top: 4 x [sheets, P, 2]."""
        y = torch.linspace(0, 1, POINTS).expand(sheets, -1)  # [sheets, P]
        found = []
        for number in range(PAIRS + 2):
            x = torch.full_like(y, number / (PAIRS + 1))  # [sheets, P]
            if 0 < number <= PAIRS:
                for cycles in (1, 2, 3, 5, 8, 13):
                    height = self.tear * torch.rand(sheets, 1, generator=generator) / math.sqrt(cycles)  # [sheets, 1]
                    phase = torch.rand(sheets, 1, generator=generator)  # [sheets, 1]
                    x = x + height * torch.sin(2 * math.pi * (cycles * y + phase))
            found.append(torch.stack([x, y], dim=2))  # [sheets, P, 2]
        return found

    def strip(self, left: Tensor, right: Tensor, waves: "Waves", generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What lies along the contours of strips between two edges [sheets, P, 2], [sheets, 2, T] float32; and where
        on the sheet their points lay, [sheets, T, 2]."""
        share = torch.linspace(0, 1, POINTS // 3)[1:-1, None]  # [p, 1]
        bottom = torch.lerp(left[:, :1], right[:, :1], share)  # [sheets, p, 2]
        top = torch.lerp(right[:, -1:], left[:, -1:], share)  # [sheets, p, 2]
        contour = evenly(torch.cat([bottom, right, top, left.flip(1)], dim=1), self.length)  # [sheets, T, 2]
        pattern = waves(contour)  # [sheets, T]
        pattern = pattern + self.faded * pattern.std() * torch.randn(pattern.shape, generator=generator)
        worn = contour + self.worn * torch.randn(contour.shape, generator=generator)  # [sheets, T, 2]
        return torch.stack([turns(worn), pattern], dim=1), contour  # [sheets, 2, T]


class Waves:
    """A pattern for each of S sheets: six waves across it in any direction."""

    def __init__(self, sheets: int, generator: torch.Generator) -> None:
        self.direction = 12 * torch.randn(6, sheets, 1, 2, generator=generator)
        self.phase = 2 * math.pi * torch.rand(6, sheets, 1, generator=generator)

    def __call__(self, place: Tensor) -> Tensor:
        """Values at places [S, T, 2]: [S, T]."""
        angles = (self.direction * place).sum(dim=3) + self.phase  # [6, S, T]
        return angles.sin().mean(dim=0)  # [S, T]


def evenly(polygon: Tensor, length: int) -> Tensor:
    """Points at equal distances along closed polygons: [S, n, 2] -> [S, length, 2]; the first one is kept."""
    closed = torch.cat([polygon, polygon[:, :1]], dim=1)  # [S, n + 1, 2]
    way = (closed[:, 1:] - closed[:, :-1]).norm(dim=2).cumsum(dim=1)  # [S, n]
    way = torch.cat([torch.zeros_like(way[:, :1]), way], dim=1)  # [S, n + 1]
    wanted = way[:, -1:] * torch.arange(length) / length  # [S, length]
    behind = torch.searchsorted(way, wanted, right=True).clamp(1, closed.shape[1] - 1)  # [S, length]
    first, last = way.gather(1, behind - 1), way.gather(1, behind)  # [S, length] each
    share = ((wanted - first) / (last - first).clamp(min=1e-9))[..., None]  # [S, length, 1]
    a, b = (closed.gather(1, at[..., None].expand(-1, -1, 2)) for at in (behind - 1, behind))  # [S, length, 2] each
    return torch.lerp(a, b, share)


def turns(contour: Tensor) -> Tensor:
    """By how much closed contours turn at each point, to the left counted positive: [S, T, 2] -> [S, T] radians."""
    before, after = contour - contour.roll(1, dims=1), contour.roll(-1, dims=1) - contour  # [S, T, 2] each
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]  # [S, T]
    return torch.atan2(cross, (before * after).sum(dim=2))  # [S, T]


def lying_on(a: Tensor, b: Tensor) -> Tensor:
    """The point of the second contour that lies on each point of the first: either is the other's nearest, and they are
    no further apart than half a step along the second. The authors take the nearest one within two pixels.

    Args:
        a, b: places, [S, T, 2] each.

    Returns:
        [S, T] int64, -1 where there is none.
    """
    found = []
    for x, y in zip(a.split(CHUNK), b.split(CHUNK), strict=True):
        across, up = (x[:, :, None, axis] - y[:, None, :, axis] for axis in (0, 1))  # [s, T, T] each
        apart = across.square_().add_(up.square_())  # [s, T, T]
        near, nearest = apart.min(dim=2)  # [s, T] each
        back = apart.argmin(dim=1).gather(1, nearest)  # [s, T]
        step = (y - y.roll(1, dims=1)).norm(dim=2).mean(dim=1, keepdim=True)  # [s, 1]
        same = (back == torch.arange(x.shape[1])) & (near.sqrt() <= step / 2)  # [s, T]
        found.append(torch.where(same, nearest, -1))
    return torch.cat(found)


def behind(series: Tensor) -> Tensor:
    """The contour as seen from the other side of the sheet: backwards, left turns are right turns, [S, 2, T]."""
    return torch.stack([-series[:, 0], series[:, 1]], dim=1).flip(2)  # [S, 2, T]
