"""Any data set of pictures that torchvision has, by the name of its class; decoded anew every epoch.

CIFAR, STL-10 and their like have configs of their own, which keep them in memory.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Channels, Natural, Pixels, Seed, guarded
from ssl_framework.data.base import Split, check_split, holdout
from ssl_framework.data.images.files import Files, share_of_cores
from ssl_framework.data.images.folder import ON_ERROR, check_channels
from ssl_framework.data.images.indexed import Indexed
from ssl_framework.runs.messages import nearest

TRAIN = {"train": (True,), "split": ("train",), "image_set": ("train",)}
TEST = {"train": (False,), "split": ("test", "val", "valid"), "image_set": ("val",)}
"""Argument that selects a split, and the values to try."""

LABELS = ("targets", "labels", "_labels")
"""Attributes by which some sets say all labels at once; others are asked sample by sample."""


@guarded
class TorchvisionSet:
    """A data set of ``torchvision.datasets``; a share of it is held out where it has no test or val split.

    Args:
        dataset: class in ``torchvision.datasets``.
        root: folder of torchvision's files.
        download: let torchvision download what is missing.
        channels: C, 1 (grey) or 3 (RGB).
        image_size: S, side that evaluators see the images with, pixels.
        test_fraction, seed: of a share that is held out, as in ``layout.Layout``.
        num_workers, on_error: as in ``files.FilesSource``.
        splits: arguments of the class for "train" and "test", such as ``{split: balanced, train: true}``; ``None``:
            those that its ``train``, ``split`` or ``image_set`` takes.

    Raises:
        ValueError: there is no such class, or an argument is outside its range.
    """

    def __init__(
        self,
        dataset: str,
        root: str,
        download: bool,
        channels: Channels,
        image_size: Pixels,
        test_fraction: BelowOne,
        seed: Seed,
        num_workers: Natural | None = None,
        on_error: str = "refuse",
        splits: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        from torchvision import datasets  # slow to import

        check_channels(channels)
        if on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={on_error} is not known: choose one of {', '.join(ON_ERROR)}.")
        if splits is not None and (set(splits) - {"train", "test"} or "train" not in splits):
            raise ValueError(f"data.source.splits has {', '.join(splits)}: give it train, and test if there is one.")
        if dataset not in datasets.__all__ or not inspect.isclass(getattr(datasets, dataset)):
            raise ValueError(
                f"data.source.dataset is {dataset}, which torchvision does not have"
                f"{nearest(dataset, list(datasets.__all__))}: it has {', '.join(datasets.__all__)}."
            )
        self.kind: Any = getattr(datasets, dataset)
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.download = download
        self.channels = channels
        self.image_size = image_size
        self.test_fraction = test_fraction
        self.seed = seed
        self.num_workers = share_of_cores() if num_workers is None else num_workers
        self.on_error = on_error
        self.splits = splits
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """``Files``; label None throughout where a sample has no class; pretrain and train are the same.

        Raises:
            FileNotFoundError: torchvision's files are not there.
            ValueError: an unknown split, a failed download, arguments that the class does not take, or no pictures.
        """
        check_split(split)
        if not self.loaded:
            self.loaded = self.read()
        return self.loaded["test" if split == "test" else "train"]

    def read(self) -> dict[str, Split]:
        """Both splits; raises as ``load``."""
        train = self.opened("train", TRAIN)
        test = self.opened("test", TEST)
        if train is None:
            train = self.made({})
        label = labels_of(train)
        if test is None:
            held = holdout(label, len(train), self.test_fraction, self.seed)  # [N]
            return {"train": self.split(train, label, ~held), "test": self.split(train, label, held)}
        everyone = torch.ones(len(train), dtype=torch.bool)
        found = labels_of(test) if label is not None else None
        test_split = self.split(test, found, torch.ones(len(test), dtype=torch.bool))
        return {"train": self.split(train, label, everyone), "test": test_split}

    def opened(self, name: str, known: Mapping[str, Sequence[Any]]) -> Any:
        """The set's split of that name; ``None`` if its class tells no splits apart."""
        if self.splits is not None:
            return self.made(self.splits[name]) if name in self.splits else None
        parameters = inspect.signature(self.kind).parameters
        key = next((key for key in known if key in parameters), None)
        if key is None:
            return None
        for value in known[key][:-1]:
            try:
                return self.made({key: value})
            except ValueError:  # the set calls it otherwise
                continue
        return self.made({key: known[key][-1]})

    def made(self, arguments: Mapping[str, Any]) -> Any:
        """The data set; raises as ``load``."""
        own: dict[str, Any] = {"root": str(self.root), "download": self.download}
        taken = {key: value for key, value in own.items() if key in inspect.signature(self.kind).parameters}
        try:
            return self.kind(**taken, **arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"torchvision's {self.dataset} cannot be made with {dict(arguments)} ({error}): say its arguments with "
                "'data.source.splits={train: {...}, test: {...}}'."
            ) from error
        except (RuntimeError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
            if self.download:
                raise ValueError(f"{self.dataset}: download to {self.root} failed ({reason}).") from error
            raise FileNotFoundError(
                f"{self.dataset}: no usable files under data.root={self.root} (torchvision: {reason}): set "
                "data.download=true, or point data.root at them."
            ) from error

    def split(self, dataset: Any, label: Tensor | None, members: Tensor) -> Split:
        """The members [N] bool of a data set."""
        positions = members.nonzero().flatten()  # [n]
        if not len(positions):
            raise ValueError(f"{self.dataset} leaves no image for a split: raise data.test_fraction.")
        pictures = Indexed(self.dataset, positions.tolist(), partial(picture_of, dataset))
        rows = Files(pictures, self.image_size, self.channels, self.num_workers, on_error=self.on_error)
        names = getattr(dataset, "classes", None) or ()
        own = None if label is None else label[members]
        fit = own is not None and all(isinstance(name, str) for name in names) and int(own.max()) < len(names)
        return Split(rows, own, tuple(names) if fit else ())


def picture_of(dataset: Any, number: int) -> Any:
    """What a sample begins with."""
    return dataset[number][0]


def labels_of(dataset: Any) -> Tensor | None:
    """[N] int64 classes; ``None`` where a sample comes with something else."""
    if class_of(dataset[0]) is None:
        return None
    for name in LABELS:
        found = getattr(dataset, name, None)
        if isinstance(found, list | Tensor) and len(found) == len(dataset):
            known = torch.as_tensor(found)
            if known.ndim == 1 and all(class_of(dataset[i]) == int(known[i]) for i in (0, len(dataset) - 1)):
                return known.long()
    classes = [class_of(dataset[number]) for number in range(len(dataset))]
    return None if None in classes else torch.tensor(classes)


def class_of(sample: Any) -> int | None:
    """The class that a sample comes with, if that is a whole number of at least 0."""
    label = sample[1] if isinstance(sample, tuple) and len(sample) > 1 else None
    if isinstance(label, Tensor) and label.ndim == 0 and not label.is_floating_point():
        label = int(label)
    return label if isinstance(label, int) and label >= 0 else None
