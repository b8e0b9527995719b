"""Pseudo-labels: what a sampler goes by when it decides which samples meet (see ``samplers``).

A source of pseudo-labels is any callable (images, seed, device) -> [N] int64. It is called once, before a new run, in
one process; the run keeps the result.

N images, C channels, H x W pixels, D features, K clusters.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.data.base import Split, chosen

CHUNK = 512  # images encoded at once


class PseudoLabels(Protocol):
    """Anything that groups the training samples."""

    def __call__(self, images: Split, seed: int, device: torch.device) -> Tensor:
        """[N] int64 on the CPU; what it is may depend on ``seed``, not on the number of ranks."""
        ...


class Classes:
    """The data set's own labels."""

    def __call__(self, images: Split, seed: int, device: torch.device) -> Tensor:
        """Raises ValueError for a set without labels, or with numbers instead of classes."""
        if images.label is None:
            raise ValueError(
                "pseudo_labels=classes takes the labels of the data set, but this one has none for pretraining: choose "
                "pseudo_labels=denoising_clusters or file"
            )
        if images.label.is_floating_point():
            raise ValueError(
                "pseudo_labels=classes takes classes, but the labels of this data set are numbers: choose "
                "pseudo_labels=denoising_clusters or file, or labels that are classes (data.source.label or targets)"
            )
        if int(images.label.min()) < 0:
            raise ValueError(
                "pseudo_labels=classes takes a class of every training sample, but labels=partial hides some: choose "
                "labels=all, or pseudo_labels=denoising_clusters or file"
            )
        return images.label.cpu()


@guarded
class Factor:
    """One of the data set's further labels.

    Args:
        factor: its name.
    """

    def __init__(self, factor: str) -> None:
        self.factor = factor

    def __call__(self, images: Split, seed: int, device: torch.device) -> Tensor:
        """Raises ValueError for a set without such a label, or with numbers instead of classes."""
        there = {name: x for name, x in (images.numbers or {}).items() if not x.is_floating_point()}
        if self.factor not in there:
            known = f"it has {', '.join(there)}: name one of them" if there else "it has none"
            raise ValueError(
                f"pseudo_labels.factor is {self.factor}, which is no further label of this data set; {known}, or set "
                "pseudo_labels=none and sampler=uniform"
            )
        return there[self.factor].cpu()


@guarded
class LabelFile:
    """Numbers from a file.

    Args:
        path: ``.npy`` file, integers [N] in the order of the training samples.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()

    def __call__(self, images: Split, seed: int, device: torch.device) -> Tensor:
        """Raises FileNotFoundError or ValueError: no such file, or not one integer a sample."""
        label = read_pseudo_labels(self.path)
        if len(label) != images.shape[0]:
            raise ValueError(
                f"pseudo_labels.path={self.path} has {len(label)} labels, but there are {images.shape[0]} training "
                "samples: give each one"
            )
        return label


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


def clusters(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """k-means on mini-batches: [N, D] -> [N] int64 in 0..K-1; some clusters may be empty.

    Raises:
        ValueError: more clusters than features.
    """
    from sklearn.cluster import MiniBatchKMeans  # slow to import, and few runs need it

    if num_clusters > len(features):
        raise ValueError(
            f"pseudo_labels.num_clusters is {num_clusters}, but there are only {len(features)} training images: "
            f"set it to at most {len(features)}"
        )
    means = MiniBatchKMeans(num_clusters, random_state=seed % 2**32, batch_size=4096, n_init=3)
    return torch.from_numpy(means.fit_predict(features.numpy())).long()  # [N]


def read_pseudo_labels(path: Path) -> Tensor:
    """[N] int64 of a ``.npy`` file; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there are no pseudo-labels {path}")
    try:
        found = np.load(path, allow_pickle=False)
        label = torch.from_numpy(found)
    except (ValueError, TypeError, AttributeError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as .npy ({str(error).splitlines()[0]}): write it again") from error
    if label.ndim != 1 or label.dtype.is_floating_point or label.dtype.is_complex or label.dtype == torch.bool:
        raise ValueError(f"{path} holds {label.dtype} {list(label.shape)}, expected integers [N]: write it again")
    return label.long()
