"""Data sets of Hugging Face: a folder of ``save_to_disk``, of parquet or of images, or a name on the hub.

Rows are read from mapped Arrow files and decoded anew every epoch. No code of a data set is run: ``datasets`` from
version 4 on runs none.
"""

from collections.abc import Sequence
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
from ssl_framework.data.images.layout import split_called

SAVED = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` leaves in a folder, of several splits or of one."""


def library() -> Any:
    """``datasets``, which is optional.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError("data=hf needs the package datasets: pip install -e '.[hf]'.") from error
    datasets.disable_progress_bars()
    return datasets


@guarded
class HubSet:
    """A data set of Hugging Face with a column of images; a share of it is held out where it has no test split.

    Args:
        root: folder of the set; not looked at where ``dataset`` names one.
        dataset: name on the hub, such as ``owner/name``; ``None``: the folder.
        download: let ``datasets`` download what is missing of ``dataset``.
        channels: C, 1 (grey) or 3 (RGB).
        image_size: S, side that evaluators see the images with, pixels.
        test_fraction, seed: of a share that is held out, as in ``layout.Layout``.
        image, label: columns; ``None``: the only one of images, and of classes or called label.
        num_workers, on_error: as in ``files.FilesSource``.
        make_cache: whether ``datasets`` may write its Arrow files of a folder of parquet or images into its cache.

    Raises:
        ValueError: an argument outside its range, or ``datasets`` is not installed.
    """

    def __init__(
        self,
        root: str,
        dataset: str | None,
        download: bool,
        channels: Channels,
        image_size: Pixels,
        test_fraction: BelowOne,
        seed: Seed,
        image: str | None = None,
        label: str | None = None,
        num_workers: Natural | None = None,
        on_error: str = "refuse",
        make_cache: bool = True,
    ) -> None:
        check_channels(channels)
        if on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={on_error} is not known: choose one of {', '.join(ON_ERROR)}.")
        library()
        self.root = Path(root).expanduser()
        self.dataset = dataset
        self.download = download
        self.channels = channels
        self.image_size = image_size
        self.test_fraction = test_fraction
        self.seed = seed
        self.columns = {"image": image, "label": label}
        self.num_workers = share_of_cores() if num_workers is None else num_workers
        self.on_error = on_error
        self.make_cache = make_cache
        self.loaded: dict[str, Split] = {}

    @property
    def name(self) -> str:
        """What messages call the set."""
        return self.dataset or str(self.root)

    def load(self, split: str) -> Split:
        """``Files``; label None throughout for a set without classes; pretrain and train are the same.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: an unknown split, no such set, or one without a column of images.
        """
        check_split(split)
        if not self.loaded:
            self.loaded = self.read()
        return self.loaded["test" if split == "test" else "train"]

    def read(self) -> dict[str, Split]:
        """Both splits; raises as ``load``."""
        found = {split_called(name): rows for name, rows in self.opened().items()}
        if "train" not in found and len(found) > 1:
            raise ValueError(f"{self.name} has the splits {', '.join(found)} and no train: rename one of them.")
        train = found["train"] if "train" in found else next(iter(found.values()))
        test = found.get("test", found.get("val")) if "train" in found else None
        image, label = self.image_of(train), self.label_of(train)
        classes = names_of(train, label)
        own = labels_of(train, label, classes)  # [N]
        if test is not None:
            theirs = labels_of(test, label, classes)
            return {"train": self.split(train, image, own, classes), "test": self.split(test, image, theirs, classes)}
        held = holdout(own, len(train), self.test_fraction, self.seed)  # [N]
        return {
            name: self.split(train, image, own, classes, members.nonzero().flatten())
            for name, members in (("train", ~held), ("test", held))
        }

    def opened(self) -> dict[str, Any]:
        """Split -> its rows; raises as ``load``."""
        datasets = library()
        if self.dataset is None and not self.root.is_dir():
            raise FileNotFoundError(
                f"data.root={self.root} is no folder: point it at one that save_to_disk wrote, or one of parquet or "
                "image files, or name a set on the hub with data.dataset=<owner>/<name> data.download=true."
            )
        saved = self.dataset is None and any((self.root / name).is_file() for name in SAVED)
        if not saved and self.dataset is None and not self.make_cache:
            raise ValueError(
                f"{self.root} is read through a cache that a run that is loaded does not write: name the folder in the "
                "command with data.root=..., or save the set with save_to_disk."
            )
        try:
            found = datasets.load_from_disk(str(self.root)) if saved else self.built(datasets)
        except Exception as error:  # of the hub, the network, the files
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            hint = "" if self.download or self.dataset is None else ": set data.download=true to fetch what is missing"
            raise ValueError(f"datasets cannot load {self.name} ({reason}){hint}.") from error
        return dict(found) if isinstance(found, dict) else {"train": found}

    def built(self, datasets: Any) -> Any:
        """What ``load_dataset`` makes of a folder, or of a name on the hub or in its cache."""
        if self.dataset is None:
            return datasets.load_dataset(str(self.root.resolve()))
        config = datasets.DownloadConfig(local_files_only=not self.download)
        return datasets.load_dataset(self.dataset, download_config=config)

    def image_of(self, rows: Any) -> str:
        """The column of images."""
        images = [name for name, kind in rows.features.items() if isinstance(kind, library().Image)]
        wanted = self.columns["image"]
        if wanted is not None and wanted in images:
            return wanted
        if wanted is None and len(images) == 1:
            return images[0]
        there = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in rows.features.items())
        raise ValueError(
            f"{self.name} has {'several columns' if len(images) > 1 else 'no column'} of images"
            f"{'' if wanted is None else f' called {wanted}'}, it has {there}: set data.source.image to one of Image."
        )

    def label_of(self, rows: Any) -> str | None:
        """The column of classes, if there is one."""
        wanted = self.columns["label"]
        if wanted is not None and wanted not in rows.features:
            raise ValueError(
                f"{self.name} has no column {wanted}, it has {', '.join(rows.features)}: correct data.source.label."
            )
        classes = [name for name, kind in rows.features.items() if isinstance(kind, library().ClassLabel)]
        if wanted is None and "label" not in rows.features and len(classes) > 1:
            raise ValueError(f"{self.name} has the classes {', '.join(classes)}: set data.source.label to one of them.")
        return wanted or ("label" if "label" in rows.features else next(iter(classes), None))

    def split(
        self, rows: Any, image: str, label: Tensor | None, classes: tuple[str, ...], members: Tensor | None = None
    ) -> Split:
        """The rows, or those at some positions [n]."""
        positions: Sequence[int] = range(len(rows)) if members is None else members.tolist()
        if not positions:
            raise ValueError(f"{self.name} leaves no image for a split: raise data.test_fraction.")
        pictures = Indexed(self.name, positions, partial(picture_of, rows.select_columns([image]), image))
        files = Files(pictures, self.image_size, self.channels, self.num_workers, on_error=self.on_error)
        return Split(files, label if label is None or members is None else label[members], classes)


def picture_of(rows: Any, image: str, number: int) -> Any:
    """The image of a row."""
    return rows[number][image]


def names_of(rows: Any, label: str | None) -> tuple[str, ...]:
    """Names of the classes of a column: its own, or the words that stand there; none for bare numbers."""
    if label is None:
        return ()
    kind = rows.features[label]
    if isinstance(kind, library().ClassLabel):
        return tuple(kind.names or ())
    return tuple(sorted(map(str, rows.unique(label)))) if getattr(kind, "dtype", "") == "string" else ()


def labels_of(rows: Any, label: str | None, classes: tuple[str, ...]) -> Tensor | None:
    """[N] int64 classes of a column; ``None`` without one, or where a row has none.

    Raises:
        ValueError: they are neither words nor whole numbers of at least 0, or one is in this split only.
    """
    if label is None:
        return None
    values = rows.select_columns([label])[:][label]
    if all(isinstance(value, str) for value in values):
        if unknown := sorted(set(values) - set(classes)):
            raise ValueError(f"the column {label} has {unknown[0]!r} in the test split only: add or remove it.")
        place = {name: position for position, name in enumerate(classes)}
        return torch.tensor([place[value] for value in values])
    if any(value is None or value == -1 for value in values):  # as the hub marks a split without labels
        return None
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise ValueError(
            f"the column {label} holds no classes: set data.source.label to one of words or whole numbers."
        )
    return torch.tensor(values)
