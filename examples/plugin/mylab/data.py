"""Striped images, drawn from a seed: the class is the direction of the stripes."""

import functools
import math

import torch
from torch import Tensor

from ssl_framework.data.base import Split, check_split

DIRECTIONS = ("level", "rising", "upright", "falling")


class Stripes:
    """A source of images [N, 3, H, W] uint8 in four classes.

    Args:
        num_train: images to train on, with or without their labels.
        num_test: images to score on.
        image_size: H and W in pixels.
        seed: of the drawing, not of the run.
    """

    def __init__(self, num_train: int, num_test: int, image_size: int, seed: int) -> None:
        if min(num_train, num_test) < 1:
            raise ValueError(f"data.source has num_train={num_train}, num_test={num_test}: both must be at least 1")
        self.count = {"pretrain": num_train, "train": num_train, "test": num_test}
        self.image_size = image_size
        self.seed = seed

    def load(self, split: str) -> Split:
        """The images of "pretrain", "train" or "test"; the same object when called again."""
        check_split(split)
        return self.drawn("test" if split == "test" else "train")

    @functools.cache  # noqa: B019  a source lives as long as the process
    def drawn(self, split: str) -> Split:
        """Stripes of any width, phase and colour."""
        count, seed = self.count[split], 2 * self.seed + (split == "test")
        generator = torch.Generator().manual_seed(seed)
        label = torch.randint(len(DIRECTIONS), (count,), generator=generator)  # [N]
        width, phase = torch.rand(2, count, 1, 1, generator=generator)  # [N, 1, 1] each
        colours = torch.rand(2, count, 3, 1, 1, generator=generator)  # [2, N, 3, 1, 1]
        bright = self.waves(label, 8 + 12 * width, 2 * math.pi * phase)[:, None]  # [N, 1, H, W]
        pixels = torch.lerp(colours[0], colours[1], bright)  # [N, 3, H, W]
        return Split((255 * pixels).byte(), label, DIRECTIONS)

    def waves(self, label: Tensor, frequency: Tensor, phase: Tensor) -> Tensor:
        """Brightness in [0, 1] across the stripes: [N], [N, 1, 1], [N, 1, 1] -> [N, H, W]."""
        y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, self.image_size)], indexing="ij")  # [H, W] each
        turn = (math.pi / len(DIRECTIONS) * label)[:, None, None]  # [N, 1, 1]
        return (1 + torch.sin(frequency * (x * torch.sin(turn) + y * torch.cos(turn)) + phase)) / 2
