"""The order of the samples is a function of (seed, epoch), shared by all ranks, and continues after a stop."""

import pytest
import torch

from ssl_framework.data import loader as loader_module
from ssl_framework.data.loader import DataModule, ResidentLoader
from ssl_framework.data.sources import Images


def images(n: int = 23) -> Images:
    """Image i is filled with i and has label i modulo 3."""
    number = torch.arange(n)
    return Images(number.to(torch.uint8)[:, None, None, None].expand(n, 1, 2, 2).contiguous(), number % 3)


def indices(loader: ResidentLoader, epoch: int) -> list[list[int]]:
    loader.set_epoch(epoch)
    return [batch.index.tolist() for batch in loader]


def test_an_epoch_is_a_permutation_without_its_ragged_end() -> None:
    loader = ResidentLoader(images(), 5, seed=0)
    seen = [i for batch in indices(loader, 0) for i in batch]
    assert len(loader) == 4 and len(seen) == len(set(seen)) == 20


def test_images_labels_and_indices_belong_together() -> None:
    for batch in ResidentLoader(images(), 5, seed=0):
        assert batch.images[:, 0, 0, 0].tolist() == batch.index.tolist()
        assert batch.label is not None and batch.label.tolist() == [i % 3 for i in batch.index.tolist()]


def test_the_order_is_a_function_of_seed_and_epoch_not_of_history() -> None:
    first = ResidentLoader(images(), 5, seed=0)
    history = [indices(first, epoch) for epoch in range(3)]
    assert indices(ResidentLoader(images(), 5, seed=0), 2) == history[2]
    assert history[0] != history[1] and indices(ResidentLoader(images(), 5, seed=1), 0) != history[0]


def test_it_goes_on_after_the_batches_that_were_served_and_then_from_the_start() -> None:
    whole = indices(ResidentLoader(images(), 5, seed=0), 1)
    resumed = ResidentLoader(images(), 5, seed=0, served=3)
    assert indices(resumed, 1) == whole[3:]
    assert indices(resumed, 1) == whole


def test_ranks_share_each_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = indices(ResidentLoader(images(), 6, seed=0), 0)
    parts = []
    for r in range(2):
        monkeypatch.setattr(loader_module, "rank", lambda r=r: r)
        monkeypatch.setattr(loader_module, "world_size", lambda: 2)
        parts.append(indices(ResidentLoader(images(), 6, seed=0), 0))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


class OneSet:
    """A source with one set for everything, with or without labels."""

    def __init__(self, labelled: bool) -> None:
        self.images = images() if labelled else images()._replace(label=None)

    def load(self, split: str) -> Images:
        return self.images


def test_a_set_smaller_than_the_batch_is_refused_with_the_largest_that_works() -> None:
    with pytest.raises(ValueError, match=r"only 23 images: set data\.batch_size to at most 23"):
        DataModule(OneSet(True), batch_size=24, seed=0)
    assert DataModule(OneSet(True), batch_size=23, seed=0).has_labels
    assert not DataModule(OneSet(False), batch_size=23, seed=0).has_labels
