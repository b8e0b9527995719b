"""The data of a run: where its samples lie, and the loader that serves them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor

from ssl_framework.data.base import Source, Split
from ssl_framework.data.labels import Labels, told_ones
from ssl_framework.data.loader import HostLoader, ResidentLoader, Streamed, Undecoded, resident
from ssl_framework.data.pseudo_labels import PseudoLabels, read_pseudo_labels
from ssl_framework.data.residence import note
from ssl_framework.data.samplers import Draw, Population, Sampler, Uniform, choice
from ssl_framework.distributed import united, world_size
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.folder import RunFolder
from ssl_framework.views.base import ViewMaker


class DataModule(L.LightningDataModule):
    """The training set as batches, and the two sets that evaluators use.

    Args:
        source: where the samples come from.
        batch_size: global, over all ranks.
        seed: of the order of the samples.
        resident_share: of the free memory of the device trained on, that the training samples may take, in [0, 1].
        sampler: which samples meet in a batch.
        pseudo_labels: what the sampler goes by, if it needs any; made once by the first process of a run and kept in
            ``pseudo_labels.npy``, which a resumed run reads.
        folder: of the run; only pseudo-labels need it.
        resumed: whether the run goes on from a checkpoint.
        labels: which training samples there are and which have a label; ``None``: all.

    Raises:
        ValueError: the set is smaller than the batch, the batch does not divide over the ranks, the share is none, or
            the set, the sampler and the pseudo-labels do not fit together.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        resident_share: float,
        sampler: Sampler | None = None,
        pseudo_labels: PseudoLabels | None = None,
        folder: Path | None = None,
        resumed: bool = False,
        labels: Labels | None = None,
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # one process of all makes the pseudo-labels
        if not isinstance(batch_size, int) or batch_size < 2:
            raise ValueError(f"data.batch_size is {batch_size}: it must be a whole number, at least 2")
        if not 0 <= resident_share <= 1:
            raise ValueError(f"data.resident_share is {resident_share}: it is a share of the memory, between 0 and 1")
        self.batch_size = batch_size
        self.seed = seed
        self.resident_share = resident_share
        self.sampler = sampler or Uniform()
        self.pseudo_labels = pseudo_labels
        self.folder = folder
        self.resumed = resumed
        self.loader: Any = None  # a Loader, or what a Streamed set gives
        self.served = 0
        self.unread_before: dict[str, str] = {}  # by all ranks, until the checkpoint that the run goes on from
        pretrain = source.load("pretrain")
        self.labels = labels
        self.pretrain: Split | Streamed = pretrain if labels is None else labels(pretrain)
        self.train: Split = source.load("train")
        self.test: Split = source.load("test")
        count = self.pretrain.shape[0]
        if count < batch_size:
            raise ValueError(
                f"data.batch_size is {batch_size}, but the training set has only {count} samples: "
                f"set data.batch_size to at most {count}"
            )
        self.check_sampler()

    def check_sampler(self) -> None:
        """Refuses a sampler that lacks what it goes by, in one sentence that names the key to change."""
        name = choice(self.sampler)
        if self.sampler.reads_pseudo_labels and self.pseudo_labels is None:
            raise ValueError(
                f"sampler={name} needs pseudo-labels, but the config has pseudo_labels=none: choose classes, file or "
                "denoising_clusters, or sampler=uniform"
            )
        if not self.sampler.reads_pseudo_labels and self.pseudo_labels is not None:
            raise ValueError(
                f"sampler={name} reads no pseudo-labels: choose pseudo_labels=none, or sampler=distinct, same or "
                "class_balanced"
            )
        if not isinstance(self.pretrain, Split) and not isinstance(self.sampler, Uniform):
            raise ValueError(
                f"sampler={name} chooses every sample itself, but shards are read in runs: choose data=folder, files "
                "or store for these data, or sampler=uniform"
            )

    @property
    def pseudo_labels_path(self) -> Path:
        """Where the pseudo-labels of this run lie.

        Raises:
            ValueError: the data were made without a folder.
        """
        if self.folder is None:
            raise ValueError("pseudo-labels are kept in a folder: name one, composition.data(folder=...), or use fit")
        return RunFolder(self.folder).pseudo_labels_file

    def prepare_data(self) -> None:
        """Writes the pseudo-labels of a new run; called by Lightning in the first process, while the others wait."""
        assert self.trainer is not None
        if self.pseudo_labels is None or self.resumed:
            return
        assert isinstance(self.pretrain, Split)
        group = self.pseudo_labels(self.pretrain, self.seed, self.trainer.strategy.root_device)  # [N]
        with replacing(self.pseudo_labels_path) as partial:
            np.save(partial, group.numpy())

    def group(self) -> Tensor | None:
        """The pseudo-labels [N] int64 of this run, or None without any.

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: it does not belong to this data set.
        """
        if self.pseudo_labels is None:
            return None
        group = read_pseudo_labels(self.pseudo_labels_path)
        if len(group) != self.pretrain.shape[0]:
            raise ValueError(
                f"{self.pseudo_labels_path} has {len(group)} pseudo-labels, but data has {self.pretrain.shape[0]} "
                "training samples: it belongs to other data; give one pseudo-label a sample"
            )
        return group

    def draw(self) -> Draw | None:
        """The batches of an epoch; None for a set that is read in an order of its own."""
        if not isinstance(self.pretrain, Split):
            return None
        population = Population(len(self.pretrain.rows), self.pretrain.real, self.group(), told_ones(self.pretrain))
        return Draw(self.sampler, population, self.batch_size)

    def num_batches(self) -> int:
        """Batches of every epoch."""
        draw = self.draw()
        return self.pretrain.shape[0] // self.batch_size if draw is None else draw.num_batches(self.seed)

    @property
    def has_labels(self) -> bool:
        """Whether evaluators that need labels can run."""
        return self.train.label is not None and self.test.label is not None

    def train_dataloader(self) -> Any:
        """Where the samples go is decided here, once the model has taken its place on the device."""
        if self.batch_size % world_size():
            raise ValueError(
                f"data.batch_size is {self.batch_size} for all {world_size()} processes together: "
                f"make it a multiple of {world_size()}"
            )
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        rest = (self.batch_size, self.seed, self.served)
        if not isinstance(self.pretrain, Split):
            self.loader = self.pretrain.loader(*rest, device)
            return self.loader
        rows, label, draw = self.pretrain.rows, self.pretrain.label, self.draw()
        if isinstance(rows, Undecoded):
            assert self.pretrain.beside is None  # no source of files has further modalities
            views: ViewMaker = self.trainer.lightning_module.views  # type: ignore[assignment]
            if views.crops is None:
                raise ValueError(
                    f"data.source decodes images while it reads them, which views of {views.modality[0]} cannot do "
                    "with: choose data=folder or store, whose images are decoded already"
                )
            self.loader = rows.loader(label, views.crops, device, *rest, draw)
        elif (whole := resident(rows, device, self.resident_share, bytes_of(self.pretrain.beside))) is not None:
            beside = self.pretrain.beside
            beside = beside and {name: column.to(device) for name, column in beside.items()}
            there = Split(whole, None if label is None else label.to(device), beside=beside)
            self.loader = ResidentLoader(there, *rest, draw)
        else:
            self.loader = HostLoader(self.pretrain, device, *rest, draw)
        used, count = len(self.loader) * self.batch_size, len(rows)
        if self.sampler.reads_pseudo_labels and count - used >= self.batch_size:
            name = choice(self.sampler)
            note(f"an epoch of sampler={name} has {used:,} of the {count:,} samples, others each time")
        return self.loader

    def teardown(self, stage: str) -> None:
        """Ends the loader's workers with the run."""
        if self.loader is not None:
            self.loader.close()

    # The position inside the epoch goes into checkpoints here. Lightning's own protocol for loaders restores it only
    # if nothing (such as the length of a learning-rate schedule) has asked for the loader before.

    @property
    def unread(self) -> dict[str, str]:
        """Which training samples could not be read so far, and why: by this process, and by all before a checkpoint."""
        own: Mapping[str, str] = {}
        if not isinstance(self.pretrain, Split):
            own = self.pretrain.unread
        elif isinstance(self.pretrain.rows, Undecoded):
            own = self.pretrain.rows.unread
        return {**self.unread_before, **own}

    def state_dict(self) -> dict[str, Any]:
        """Batches of the running epoch that were served; the size of the set, as a run may be loaded without it; and
        what could not be read, if anything. Every rank has to call this."""
        served = self.loader.served if self.loader is not None else self.served
        in_memory = isinstance(self.pretrain, Split) and not isinstance(self.pretrain.rows, Undecoded)
        unread = {} if in_memory else united(self.unread)
        return {"served": served, "num_samples": self.pretrain.shape[0], **({"unread": unread} if unread else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called before the loader is made."""
        self.served = state_dict["served"]
        self.unread_before = dict(state_dict.get("unread", {}))


def bytes_of(columns: Mapping[str, Tensor] | None) -> int:
    """What all columns take in memory."""
    return sum(column.nbytes for column in (columns or {}).values())
