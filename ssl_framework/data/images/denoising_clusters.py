"""Pseudo-labels of pictures: clusters of what a denoising auto-encoder has learnt of them.

N images, C channels, H x W pixels, D features, K clusters.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.pseudo_labels import CHUNK, clusters


@guarded
class DenoisingClusters:
    """k-means on the bottleneck of a denoising auto-encoder (G-SimCLR, arXiv:2009.12007).

    Args:
        num_clusters: K, at most N.
        noise: standard deviation of the Gaussian noise on pixels in [0, 1].
        widths: channels of the encoder's layers, each of which halves the image.
        epochs: over all images.
        batch_size: images a step.
        lr: learning rate of Adam.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        num_clusters: Count,
        noise: NonNegative,
        widths: Annotated[Sequence[Count], Len(1)],
        epochs: Count,
        batch_size: Count,
        lr: Positive,
    ) -> None:
        self.num_clusters = num_clusters
        self.noise = noise
        self.widths = widths
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr

    def __call__(self, images: Split, seed: int, device: torch.device) -> Tensor:
        """[N] int64 cluster of each image; the global random state stays as it was.

        Raises:
            ValueError: the samples are no pictures.
        """
        if len(images.shape) != 4:
            raise ValueError(
                f"pseudo_labels=denoising_clusters learns from pictures, but the samples are of shape "
                f"{' x '.join(map(str, images.shape[1:]))}: choose pseudo_labels=classes or file, or another method"
            )
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            coder = AutoEncoder(images.shape[1], self.widths).to(device)
            self.train(coder, images, device)
        coder.eval()
        with torch.no_grad():
            index = torch.arange(images.shape[0]).split(CHUNK)
            parts = [coder.encode(as_floats(images, part, device)).mean(dim=(2, 3)).cpu() for part in index]
        return clusters(torch.cat(parts), self.num_clusters, seed)

    def train(self, coder: nn.Module, images: Split, device: torch.device) -> None:
        """Changes the weights of ``coder``."""
        optimizer = torch.optim.Adam(coder.parameters(), self.lr)
        for _ in range(self.epochs):
            for index in torch.randperm(images.shape[0]).split(self.batch_size):
                clean = as_floats(images, index, device)  # [B, C, H, W]
                optimizer.zero_grad()
                F.mse_loss(coder(clean + self.noise * torch.randn_like(clean)), clean).backward()
                optimizer.step()


class AutoEncoder(nn.Module):
    """Convolutions that halve the image, and their mirror image; the output is in [0, 1].

    Args:
        channels: C.
        widths: of the layers.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        down = pairwise([channels, *widths])
        up = pairwise([widths[-1], *widths[::-1]])  # the authors': 128-128-64-32 after 32-64-128
        self.encode = nn.Sequential(*(layer(before, width, down=True) for before, width in down))
        self.decode = nn.Sequential(*(layer(before, width, down=False) for before, width in up))
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]"""
        decoded = F.interpolate(self.decode(self.encode(x)), x.shape[2:])  # odd sizes were rounded up on the way
        return self.last(decoded).sigmoid()


def layer(before: int, width: int, down: bool) -> nn.Module:
    """3 x 3 convolution with half or twice the size, normalised: [B, before, h, w] -> [B, width, ...]."""
    conv = nn.Conv2d(before, width, 3, stride=2 if down else 1, padding=1)
    size: nn.Module = nn.Identity() if down else nn.Upsample(scale_factor=2)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True), size)


def as_floats(images: Split, index: Tensor, device: torch.device) -> Tensor:
    """Images at positions [B]: [B, C, H, W] float32 in [0, 1] on ``device``."""
    return chosen(images.rows, index.to(images.rows.device)).to(device).float() / 255
