"""The order of the samples is a function of (seed, epoch), shared by all ranks, and continues after a stop.

Where the images lie, and what is made ahead, changes nothing in it.
"""

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_framework.data import loader as loader_module
from ssl_framework.data import residence
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.images.store import Mapped
from ssl_framework.data.loader import HostLoader, Loader, ResidentLoader, ahead, each_tensor, resident, tensors_of
from ssl_framework.types import Samples

CPU = torch.device("cpu")


def images(n: int = 23) -> Split:
    """Image i is filled with i and has label i modulo 3."""
    number = torch.arange(n)
    return Split(number.to(torch.uint8)[:, None, None, None].expand(n, 1, 2, 2).contiguous(), number % 3)


TEXT = {"text": torch.arange(23, dtype=torch.int32)[:, None] + 100}
"""A further modality of ``images()``: sample i says 100 + i."""


def indices(loader: Loader, epoch: int) -> list[list[int]]:
    loader.set_epoch(epoch)
    return [batch.index.tolist() for batch in loader]


def test_an_epoch_is_a_permutation_without_its_ragged_end() -> None:
    loader = ResidentLoader(images(), 5, seed=0)
    seen = [i for batch in indices(loader, 0) for i in batch]
    assert len(loader) == 4 and len(seen) == len(set(seen)) == 20


def test_images_labels_and_indices_belong_together() -> None:
    for batch in ResidentLoader(images(), 5, seed=0):
        assert batch.inputs[:, 0, 0, 0].tolist() == batch.index.tolist()
        assert batch.label is not None and batch.label.tolist() == [i % 3 for i in batch.index.tolist()]


@pytest.mark.parametrize("loader", [ResidentLoader, lambda split, *rest, **k: HostLoader(split, CPU, *rest, **k)])
def test_what_stands_beside_a_sample_comes_with_it_and_changes_no_order(loader: Any) -> None:
    with_text = images()._replace(beside=TEXT)
    batches = list(loader(with_text, 5, seed=0, served=2))
    assert [batch.index.tolist() for batch in batches] == indices(ResidentLoader(images(), 5, seed=0, served=2), 0)
    for batch in batches:
        assert batch.beside["text"].dtype == torch.int32
        assert batch.beside["text"][:, 0].tolist() == [100 + i for i in batch.index.tolist()]
    moved = each_tensor(batches[0], lambda x: x + 1)
    assert torch.equal(moved.beside["text"], batches[0].beside["text"] + 1)  # type: ignore[index]
    assert any(x is batches[0].beside["text"] for x in tensors_of(batches[0]))
    assert next(iter(loader(images(), 5, seed=0))).beside is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_samples_of_any_shape_and_type_are_served_as_they_are(dtype: torch.dtype) -> None:
    series = torch.arange(23 * 6).view(23, 2, 3).to(dtype)
    for loader in (ResidentLoader(Split(series), 5, seed=0), HostLoader(Split(series), CPU, 5, seed=0)):
        for batch in loader:
            assert batch.inputs.dtype == dtype and torch.equal(batch.inputs, series[batch.index])


def test_a_split_says_its_shape_and_picks_samples_with_all_that_belongs_to_them() -> None:
    split = Split(torch.zeros(23, 2, 7), torch.arange(23), beside=TEXT, numbers={"length": torch.arange(23) * 2})
    assert split.shape == (23, 2, 7) and split.values_each == 14 and Split(torch.arange(5)).values_each == 1
    some = split.picked(torch.tensor([4, 2]))
    assert some.shape == (2, 2, 7) and some.label.tolist() == [4, 2]  # type: ignore[union-attr]
    assert some.beside["text"].flatten().tolist() == [104, 102]  # type: ignore[index]
    assert some.numbers["length"].tolist() == [8, 4] and some.prompts is None  # type: ignore[index]


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

    def load(self, split: str) -> Split:
        return self.images


def test_a_set_smaller_than_the_batch_is_refused_with_the_largest_that_works() -> None:
    with pytest.raises(ValueError, match=r"only 23 samples: set data\.batch_size to at most 23"):
        DataModule(OneSet(True), batch_size=24, seed=0, resident_share=0.5)
    assert DataModule(OneSet(True), batch_size=23, seed=0, resident_share=0.5).has_labels
    assert not DataModule(OneSet(False), batch_size=23, seed=0, resident_share=0.5).has_labels


# --- images that are not resident


def mapped(folder: Path) -> Split:
    """The set of ``images()``, in a mapped file."""
    np.save(folder / "train.npy", images().rows.numpy())
    return images()._replace(rows=Mapped(folder / "train.npy"))


def assert_same(a: list[Samples], b: list[Samples]) -> None:
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.inputs, y.inputs) and torch.equal(x.index, y.index) and torch.equal(x.label, y.label)
        assert x.inputs.dtype == y.inputs.dtype == torch.uint8


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_batches_made_ahead_are_the_resident_loaders(where: str, tmp_path: Path) -> None:
    given = images() if where == "memory" else mapped(tmp_path)
    here, there = ResidentLoader(images(), 5, seed=0, served=2), HostLoader(given, CPU, 5, seed=0, served=2)
    for epoch in (1, 2):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        expected = list(here)
        assert len(expected) == (2 if epoch == 1 else 4)
        assert_same(list(there), expected)
    assert here.served == there.served == 0


def test_served_counts_what_was_handed_out_not_what_was_made_ahead(tmp_path: Path) -> None:
    whole = indices(ResidentLoader(images(), 5, seed=0), 0)
    loader = HostLoader(mapped(tmp_path), CPU, 5, seed=0)
    batches = iter(loader)
    for done in (1, 2):
        assert next(batches).index.tolist() == whole[done - 1]
        time.sleep(0.05)  # the thread is ahead by now
        assert loader.served == done
    assert indices(HostLoader(mapped(tmp_path), CPU, 5, seed=0, served=loader.served), 0) == whole[2:]


def test_items_are_made_ahead_in_order_and_an_error_comes_at_its_turn() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            if i == 3:
                raise ValueError("the fourth")
            made.append(i)
            yield i

    seen = ahead(items())
    assert next(seen) == 0
    assert next(seen) == 1 and next(seen) == 2
    with pytest.raises(ValueError, match="the fourth"):
        next(seen)
    assert made == [0, 1, 2]
    assert list(ahead(iter(range(5)))) == list(range(5)) and list(ahead(iter(()))) == []


def test_an_iteration_that_is_left_ends_its_thread() -> None:
    before, made = threading.active_count(), []
    seen = ahead(made.append(i) or i for i in range(100))
    assert next(seen) == 0 and threading.active_count() == before + 1
    seen.close()
    assert threading.active_count() == before and len(made) <= 1 + loader_module.AHEAD


# --- what fits in memory


def test_a_set_within_the_share_of_memory_is_read_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader_module, "free_memory", lambda _: 2 * images().rows.numel())
    monkeypatch.setattr(loader_module, "COPY_BYTES", 20)  # five images at once
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = resident(mapped(tmp_path).rows, CPU, 0.5)
    assert isinstance(whole, Tensor) and torch.equal(whole, images().rows)
    with pytest.warns(UserWarning, match="the training samples take"):  # with what else is to lie there they do not fit
        assert resident(mapped(tmp_path).rows, CPU, 0.5, further=1) is None


def test_a_larger_set_stays_where_it_is_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader_module, "free_memory", lambda _: 2 * images().rows.numel() - 1)
    words = r"the training samples take .*, more than data\.resident_share=0\.5 of the .* of cpu: they stay on disk"
    with pytest.warns(UserWarning, match=words):
        assert resident(mapped(tmp_path).rows, CPU, 0.5) is None
    with pytest.warns(UserWarning, match=r"free memory of meta: they stay in the host's memory, and batches are made"):
        assert resident(images().rows, torch.device("meta"), 0.5) is None
    monkeypatch.setattr(residence, "rank", lambda: 1)  # the other ranks say nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resident(mapped(tmp_path).rows, CPU, 0.5) is None


def test_images_in_memory_are_not_copied_for_training_there() -> None:
    pixels = images().rows
    assert resident(pixels, CPU, 0.0) is pixels


class OnDisk:
    """A source whose every split is a mapped file."""

    def __init__(self, folder: Path) -> None:
        self.images = mapped(folder)

    def load(self, split: str) -> Split:
        return self.images


@pytest.mark.filterwarnings("ignore:the training samples take")
def test_training_from_disk_and_from_memory_are_the_same_batches(tmp_path: Path) -> None:
    loaders = []
    for share in (0.0, 1.0):
        data = DataModule(OnDisk(tmp_path), batch_size=5, seed=3, resident_share=share)
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=CPU))
        data.load_state_dict({"served": 1})
        loaders.append(data.train_dataloader())
    assert [type(loader) for loader in loaders] == [HostLoader, ResidentLoader]
    assert_same(*map(list, loaders))


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"data\.resident_share is 50: it is a share of the memory, between 0 and 1"):
        DataModule(OneSet(True), batch_size=5, seed=0, resident_share=50)


def test_free_memory_is_what_is_available_within_the_limit_shared_by_the_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 60 kB\n")
    monkeypatch.setattr(residence, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(residence, "CONTROL_GROUPS", tmp_path)
    for variable in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(variable, raising=False)
    assert residence.free_memory() == 60 * 1024
    (tmp_path / "memory.max").write_text("50000\n")
    (tmp_path / "memory.current").write_text("30000\n")
    (tmp_path / "memory.stat").write_text("anon 5000\ninactive_file 10000\n")
    assert residence.free_memory() == 30_000  # what is cached of files can be given back
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert residence.free_memory() == 7_500
    (tmp_path / "memory.max").write_text("max\n")
    assert residence.free_memory() == 15 * 1024


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_arrive_on_the_gpu_as_they_were(tmp_path: Path) -> None:
    for given in (images(), mapped(tmp_path)):
        there = list(HostLoader(given, torch.device("cuda", 0), 5, seed=0))
        assert all(batch.inputs.is_cuda and batch.index.is_cuda and batch.label.is_cuda for batch in there)
        expected = list(ResidentLoader(images(), 5, seed=0))
        assert_same([Samples(b.inputs.cpu(), b.index.cpu(), b.label.cpu()) for b in there], expected)
