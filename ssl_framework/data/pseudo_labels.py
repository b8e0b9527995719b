"""Pseudo-labels: what a sampler goes by when it decides which samples meet (see ``samplers``).

A source of pseudo-labels is any callable (samples, seed, device) -> [N] int64. It is called once, before a new run, in
one process; the run keeps the result.

N samples, D features, K clusters.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.data.base import Split

CHUNK = 512  # samples encoded at once


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


def clusters(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """k-means on mini-batches: [N, D] -> [N] int64 in 0..K-1; some clusters may be empty.

    Raises:
        ValueError: more clusters than features.
    """
    from sklearn.cluster import MiniBatchKMeans  # slow to import, and few runs need it

    if num_clusters > len(features):
        raise ValueError(
            f"pseudo_labels.num_clusters is {num_clusters}, but there are only {len(features)} training samples: "
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
