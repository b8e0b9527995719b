"""Where images come from: uint8 images of one size a split, in memory or wherever else they can be indexed.

A source is any object with ``load(split)``. Splits:

    pretrain  what the method trains on
    train     the labelled bank that k-NN and the linear probe fit on
    test      what they are scored on

N images, C channels, H x W pixels. This file holds the records, the checks every array passes, scikit-learn's digits
and the sets that torchvision knows; the procedural set is in ``shapes.py``, folders of image files in ``folder.py``
(decoded once) and ``files.py`` (decoded when asked for), memory-mapped arrays in ``store.py``.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ssl_framework.arguments import Channels, Count, Fraction, OpenFraction, Seed, guarded
from ssl_framework.data.base import SPLITS, Split, check_split, holdout, subset
from ssl_framework.data.residence import free_memory

SUFFIXES = (".npz", ".safetensors")

TORCHVISION = (
    *("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "STL10", "SVHN", "USPS"),
)
"""Classes of ``torchvision.datasets`` whose files are arrays, or have a checksum that torchvision knows. Others decode
whatever lies in a folder, or unpickle it."""

SELECTS = {"train", "split", "what", "folds"}
"""Arguments of them that select a split."""


def to_images(name: str, images: Tensor, labels: Tensor | None, channels: int, classes: Sequence[str] = ()) -> Split:
    """Checks arrays as they are stored and returns them as ``Split``.

    Args:
        name: what the error messages call them, usually the file.
        images: [N, H, W, C] uint8, or [N, H, W] for grey.
        labels: [N] of an integer dtype, 0 or above, or None.
        channels: the C the config asks for.
        classes: names of the classes; when given, a label beyond them is refused.

    Raises:
        ValueError: a wrong dtype, shape, length, number of channels or label.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"{name}: 'images' is {images.dtype}, expected uint8 (0..255): convert it before saving.")
    if images.ndim == 3:
        images = images[..., None]  # [N, H, W, 1]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        shape = list(images.shape)
        raise ValueError(f"{name}: 'images' has shape {shape}, expected [N, H, W, C] with C 1 or 3 and none empty.")
    if images.shape[-1] != channels:
        have = images.shape[-1]
        raise ValueError(f"{name}: the images have {have} channel(s) but data.channels={channels}: set it to {have}.")
    pixels = images.permute(0, 3, 1, 2).contiguous()  # [N, C, H, W]
    if labels is None:
        return Split(pixels, None, tuple(classes))
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool or labels.ndim != 1:
        found = f"{labels.dtype} {list(labels.shape)}"
        raise ValueError(f"{name}: 'labels' is {found}, expected one integer an image: save them as int64 [N].")
    if len(labels) != len(pixels):
        raise ValueError(f"{name}: {len(pixels)} images but {len(labels)} labels: save one label an image.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes and high >= len(classes)):
        known = f"0..{len(classes) - 1}" if classes else "0 or above"
        raise ValueError(f"{name}: labels run from {low} to {high}, expected {known}: number the classes from 0.")
    return Split(pixels, labels.long(), tuple(classes))


def read_arrays(path: Path) -> dict[str, Tensor]:
    """All arrays of an ``.npz`` or ``.safetensors`` file. Nothing in the file is executed (no pickle).

    Raises:
        ValueError: the file is truncated, corrupt, holds Python objects, or is of another format.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        if text := [key for key, array in arrays.items() if array.dtype.kind in "US"]:
            raise ValueError(f"{text[0]!r} is text: number the classes from 0 and save them as int64 [N]")
        return {key: torch.from_numpy(array) for key, array in arrays.items()}
    # an .npy in disguise has no `files`; object and string arrays are a ValueError or a TypeError
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    except SafetensorError as error:
        reason = str(error)
    raise ValueError(f"{path} cannot be read as {path.suffix} ({reason.rstrip('.')}): write the file again.")


def check_size(path: Path, resident_share: float) -> None:
    """Raises ValueError when the arrays of an ``.npz`` or ``.safetensors`` file do not fit in memory; see
    ``resident_share`` in the data configs. What cannot be read at all is left to ``read_arrays``."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    if size > resident_share * free_memory():
        raise ValueError(
            f"{path} holds {size / 1e9:.1f} GB, more than data.resident_share={resident_share} of the "
            f"{free_memory() / 1e9:.1f} GB of free memory: raise data.resident_share (below 1), or save the images as "
            f"files and make a store of them with scripts/prepare_data.py, for data=store."
        )


def read_prepared(path: Path, channels: int, classes: Sequence[str], labelled: bool) -> Split:
    """Images of one prepared file: ``images`` uint8 [N, H, W, C] or [N, H, W] and, when ``labelled``, ``labels`` [N].

    Raises:
        ValueError: an unreadable file, a missing array, or what ``to_images`` refuses.
    """
    arrays = read_arrays(path)
    wanted = ("images", "labels") if labelled else ("images",)
    if missing := [key for key in wanted if key not in arrays]:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise ValueError(f"{path} has no array {missing[0]!r} (it has {found}): save {' and '.join(wanted)} in it.")
    return to_images(str(path), arrays["images"], arrays["labels"] if labelled else None, channels, classes)


@guarded
class Digits:
    """scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, embedded in the package, no download.

    Args:
        test_fraction: share held out of every class for scoring, in (0, 1).
        seed: of that split; part of the data set, not of the run.
    """

    def __init__(self, test_fraction: OpenFraction, seed: Seed) -> None:
        self.test_fraction = test_fraction
        self.seed = seed
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, 1, 8, 8] uint8 in 0..255 and the digit; pretrain and train are the same images.

        Raises:
            ValueError: an unknown split.
        """
        check_split(split)
        if not self.loaded:
            from sklearn.datasets import load_digits  # slow to import, and only this set needs it

            digits = load_digits()
            pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]  # [N, 1, 8, 8]
            label = torch.from_numpy(digits.target).long()  # [N]
            test = holdout(label, len(label), self.test_fraction, self.seed)
            classes = tuple(str(digit) for digit in range(10))
            train = Split(pixels[~test], label[~test], classes)
            self.loaded = {"pretrain": train, "train": train, "test": Split(pixels[test], label[test], classes)}
        return self.loaded[split]


@guarded
class TorchvisionSource:
    """A set that torchvision knows, from prepared arrays when there are some, else from torchvision's own files.

    Prepared arrays lie in ``<root>/<name>/`` or directly in ``<root>``: ``train`` and ``test``, each as ``.npz`` or
    ``.safetensors`` with ``images`` uint8 [N, H, W, C] (or [N, H, W]) and ``labels`` [N]; with ``unlabelled`` also
    ``unlabelled.npz`` or ``.safetensors``, whose ``images`` join ``train`` for pretraining.

    Args:
        name: of the folder of prepared arrays, and of the set in messages.
        dataset: class in ``torchvision.datasets``.
        root: folder of the prepared arrays or of torchvision's files.
        download: let torchvision download what is missing.
        channels: 1 or 3, as in ``data.channels``.
        splits: for each of pretrain, train, test the arguments that select it in the torchvision class, e.g.
            ``{train: true}`` or ``{split: train+unlabeled}``.
        classes: names in label order.
        unlabelled: the set has unlabelled images, which prepared arrays must then bring too.
        resident_share: of the free memory, that one prepared file may take; 1 for all of it.
        num_train, num_test: images of the splits pretrain and train, and of test, every class equally often (see
            ``subset``); None for all.
        seed: of that draw; part of the data set, not of the run.
    """

    def __init__(
        self,
        name: str,
        dataset: str,
        root: str,
        download: bool,
        channels: Channels,
        splits: Mapping[str, Mapping[str, bool | str]],
        classes: Sequence[str] = (),
        unlabelled: bool = False,
        resident_share: Fraction = 1.0,
        num_train: Count | None = None,
        num_test: Count | None = None,
        seed: Seed = 0,
    ) -> None:
        if sorted(splits) != sorted(SPLITS):
            raise ValueError(f"data.source.splits has {', '.join(sorted(splits))}: give it {', '.join(SPLITS)}.")
        if odd := [key for arguments in splits.values() for key in arguments if key not in SELECTS]:
            raise ValueError(f"data.source.splits has {odd[0]}: a split is selected by {', '.join(sorted(SELECTS))}.")
        self.name = name
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.download = download
        self.channels = channels
        self.splits = {split: dict(splits[split]) for split in SPLITS}
        self.classes = tuple(classes)
        self.unlabelled = unlabelled
        self.resident_share = resident_share
        self.num_train = num_train
        self.num_test = num_test
        self.seed = seed
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """The images of ``split`` as [N, C, H, W] uint8; the pretraining split has no labels if some images lack one.

        Raises:
            FileNotFoundError: neither prepared arrays nor torchvision's files are there.
            ValueError: an unknown split, a failed download, or arrays that ``to_images`` refuses.
        """
        check_split(split)
        if split not in self.loaded:
            same = [] if self.unlabelled else [key for key in self.loaded if self.splits[key] == self.splits[split]]
            self.loaded[split] = self.loaded[same[0]] if same else self.read(split)  # usually pretrain is train
        return self.loaded[split]

    def read(self, split: str) -> Split:
        """``split`` from prepared arrays if there are some, else through torchvision; raises as ``load``."""
        folder = self.prepared_folder()
        images = self.load_torchvision(split) if folder is None else self.load_prepared(folder, split)
        key = "num_test" if split == "test" else "num_train"
        return subset(images, getattr(self, key), self.seed, f"data.source.{key}")

    def prepared_folder(self) -> Path | None:
        """The folder that holds prepared arrays, or None."""
        for folder in (self.root / self.name, self.root):
            if any((folder / f"{stem}{suffix}").is_file() for stem in ("train", "test") for suffix in SUFFIXES):
                return folder
        return None

    def load_prepared(self, folder: Path, split: str) -> Split:
        """``split`` from the arrays in ``folder``; raises as ``load``."""
        stem = "test" if split == "test" else "train"
        path = self.prepared_file(folder, stem)
        check_size(path, self.resident_share)
        images = read_prepared(path, self.channels, self.classes, labelled=True)
        if not (split == "pretrain" and self.unlabelled):
            return images
        path = self.prepared_file(folder, "unlabelled")
        check_size(path, self.resident_share)
        extra = read_prepared(path, self.channels, self.classes, labelled=False)
        if extra.rows.shape[1:] != images.rows.shape[1:]:
            sizes = f"{list(extra.rows.shape[1:])} and {list(images.rows.shape[1:])}"
            raise ValueError(f"{path} and train differ in [C, H, W] ({sizes}): store all images at one size.")
        assert isinstance(images.rows, Tensor) and isinstance(extra.rows, Tensor)
        return Split(torch.cat([images.rows, extra.rows]), None, self.classes)

    def prepared_file(self, folder: Path, stem: str) -> Path:
        """The one file called ``stem`` in ``folder``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: both formats are there.
        """
        found = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
        if len(found) > 1:
            raise ValueError(f"{folder} has both {found[0].name} and {found[1].name}: remove one of them.")
        if not found:
            there = ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES))
            hint = ", or set data.source.unlabelled=false" if stem == "unlabelled" else ""
            raise FileNotFoundError(
                f"{self.name}: {folder} has {there} but no {stem}.npz or .safetensors: add it{hint}."
            )
        return found[0]

    def load_torchvision(self, split: str) -> Split:
        """``split`` through the torchvision class; raises as ``load``."""
        from torchvision import datasets  # slow to import, and prepared arrays do not need it

        if self.dataset not in TORCHVISION or self.dataset not in datasets.__all__:
            raise ValueError(
                f"data.source.dataset is {self.dataset!r}: choose one of {', '.join(TORCHVISION)}, or save its images "
                "as prepared arrays."
            )
        try:
            dataset = getattr(datasets, self.dataset)(root=str(self.root), download=self.download, **self.splits[split])
        except (RuntimeError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
            prepared = f"put train.npz and test.npz into {self.root / self.name}"
            if self.download:
                message = f"{self.name}: download to {self.root} failed ({reason}): check the network or {prepared}."
                raise ValueError(message) from error
            raise FileNotFoundError(
                f"{self.name}: no usable files under data.root={self.root} (torchvision: {reason}): "
                f"set data.download=true, point data.root at them, or {prepared}."
            ) from error
        # indexing is the one interface all torchvision sets share; their attributes differ in name and layout
        pairs = (dataset[index] for index in range(len(dataset)))
        first = np.asarray(dataset[0][0])
        images = torch.empty((len(dataset), *first.shape), dtype=torch.uint8)  # [N, H, W, C] or [N, H, W]
        labels = torch.empty(len(dataset), dtype=torch.int64)  # [N]
        for index, (image, label) in enumerate(pairs):
            images[index] = torch.from_numpy(np.array(image))
            labels[index] = int(label)
        unlabelled = bool((labels < 0).any())  # torchvision marks an image without a label by -1
        return to_images(self.name, images, None if unlabelled else labels, self.channels, self.classes)
