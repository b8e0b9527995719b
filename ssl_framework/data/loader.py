"""Loading of sets that fit in memory: one uint8 tensor, batches are one gather from it, no worker processes."""

from collections.abc import Iterator

import lightning as L
import torch

from ssl_framework.data.sources import Images, Source
from ssl_framework.distributed import rank, world_size
from ssl_framework.types import Samples, step_seed


class ResidentLoader:
    """Batches of one epoch in an order that is a function of (seed, epoch) alone.

    Args:
        images: the training set, already on the device it is gathered on.
        global_batch_size: samples of all ranks together; the last, incomplete batch of an epoch is left out.
        seed: of the order.
        served: batches of the first epoch that an earlier part of the run has already seen.
    """

    def __init__(self, images: Images, global_batch_size: int, seed: int, served: int = 0) -> None:
        self.images = images
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.epoch = 0
        self.served = served
        self.sampler = self  # Lightning announces each epoch to ``loader.sampler.set_epoch``

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images.pixels) // self.global_batch_size

    def order(self, epoch: int) -> torch.Tensor:
        """The permutation of an epoch, [N] int64, alike on every rank and device."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, epoch, rank=-2))
        return torch.randperm(len(self.images.pixels), generator=generator)

    def __iter__(self) -> Iterator[Samples]:
        start, self.served = self.served, 0
        pixels, label = self.images.pixels, self.images.label
        order = self.order(self.epoch).to(pixels.device)
        share = self.global_batch_size // world_size()
        for batch in range(start, len(self)):
            first = batch * self.global_batch_size + rank() * share
            index = order[first : first + share]  # [B]
            self.served = (batch + 1) % len(self)  # 0 again once the epoch is through
            yield Samples(pixels[index], index, None if label is None else label[index])


class DataModule(L.LightningDataModule):
    """The training set as batches, and the two sets that evaluators use.

    Args:
        source: where the images come from.
        batch_size: global, over all ranks.
        seed: of the order of the samples.

    Raises:
        ValueError: the set is smaller than the batch, or the batch does not divide over the ranks.
    """

    def __init__(self, source: Source, batch_size: int, seed: int) -> None:
        super().__init__()
        if not isinstance(batch_size, int) or batch_size < 2:
            raise ValueError(f"data.batch_size is {batch_size}: it must be a whole number, at least 2")
        self.batch_size = batch_size
        self.seed = seed
        self.loader: ResidentLoader | None = None
        self.served = 0
        self.pretrain = source.load("pretrain")
        self.train = source.load("train")
        self.test = source.load("test")
        count = self.pretrain.shape[0]
        if count < batch_size:
            raise ValueError(
                f"data.batch_size is {batch_size}, but the training set has only {count} images: "
                f"set data.batch_size to at most {count}"
            )

    @property
    def has_labels(self) -> bool:
        """Whether evaluators that need labels can run."""
        return self.train.label is not None and self.test.label is not None

    def train_dataloader(self) -> ResidentLoader:
        if self.batch_size % world_size():
            raise ValueError(
                f"data.batch_size is {self.batch_size} for all {world_size()} processes together: "
                f"make it a multiple of {world_size()}"
            )
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        label = self.pretrain.label
        resident = Images(self.pretrain.pixels.to(device), None if label is None else label.to(device))
        self.loader = ResidentLoader(resident, self.batch_size, self.seed, self.served)
        return self.loader

    # The position inside the epoch goes into checkpoints here. Lightning's own protocol for loaders restores it only
    # if nothing (such as the length of a learning-rate schedule) has asked for the loader before.

    def state_dict(self) -> dict[str, int]:
        """Batches of the running epoch that were served."""
        return {"served": self.loader.served if self.loader is not None else self.served}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Called before the loader is made."""
        self.served = state_dict["served"]
