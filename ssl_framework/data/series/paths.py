"""Paths of a robot's hand over a table, drawn from a seed, no files and no network: what people are asked to compare.

A path goes from the left edge to the right one on two slow waves. A laptop and a person stand where no path can change
it; how far a path stays from each of them on the mean is what a person sees in it, and the label says one of the two.

N samples, T points; places are shares of the table's sides.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Seed, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.types import step_seed

PLACES = {"laptop": (0.35, 0.65), "person": (0.7, 0.25)}
"""x and y of what stands on the table."""


@guarded
class Paths:
    """Series of two channels, x and y, with a number as label.

    Args:
        num_train, num_test: samples.
        length: T, points.
        swing: greatest height of each of the two waves.
        noise: standard deviation of independent noise at every point.
        label: from what the mean distance is the label.
        seed: of the drawing.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        length: Annotated[int, Interval(ge=8, le=2**16)],
        swing: NonNegative,
        noise: NonNegative,
        label: Literal["laptop", "person"],
        seed: Seed,
    ) -> None:
        self.count = {"train": num_train, "test": num_test}
        self.length = length
        self.swing, self.noise = swing, noise
        self.label = label
        self.seed = seed

    def load(self, split: str) -> Split:
        """[N, 2, T] float32 with distances [N] float32 as labels; ValueError for an unknown split."""
        check_split(split)
        name = "test" if split == "test" else "train"
        return self.draw(self.count[name], step_seed(self.seed, 0, 1 + (name == "test")))

    def draw(self, count: int, seed: int) -> Split:
        """``count`` samples, a function of the seed."""
        generator = torch.Generator().manual_seed(seed)

        def between(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, 1, generator=generator)  # [N, 1]

        time = torch.linspace(0, 1, self.length)  # [T]
        y = between(0.2, 0.8) * (1 - time) + between(0.2, 0.8) * time  # [N, T]
        x = time + between(-0.1, 0.1) * torch.sin(math.pi * time)  # [N, T]
        for waves in (1, 2):
            y = y + between(-self.swing, self.swing) * torch.sin(waves * math.pi * time)
        path = torch.stack([x, y], dim=1)  # [N, 2, T]
        far = {
            name: (path - torch.tensor(place)[:, None]).norm(dim=1).mean(dim=1)  # [N]
            for name, place in PLACES.items()
        }
        path = path + self.noise * torch.randn(path.shape, generator=generator)
        return Split(path, far[self.label], numbers=far)
