"""Which samples meet in a batch: what each sampler promises for groups of any sizes, a function of (seed, epoch)."""

from collections import Counter

import pytest
import torch

from ssl_framework.data import loader as loader_module
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.loader import Loader, ResidentLoader
from ssl_framework.data.samplers import (
    ClassBalanced,
    Distinct,
    Draw,
    Inflated,
    Labelled,
    Population,
    Same,
    Sampler,
    Uniform,
)
from ssl_framework.types import step_seed

GROUP = torch.tensor([7] * 11 + [3] * 5 + [0] * 4 + [100] * 3 + [2] * 3 + [5])  # unequal, in any numbers
POPULATIONS = {
    "uniform": (Uniform(), Population(len(GROUP))),
    "inflated": (Inflated(3), Population(20, real=12)),
    "distinct": (Distinct(), Population(len(GROUP), None, GROUP)),
    "same": (Same(), Population(len(GROUP), None, GROUP)),
    "class_balanced": (ClassBalanced(2), Population(len(GROUP), None, GROUP)),
    "labelled": (Labelled(0.3), Population(len(GROUP), told=GROUP == 3)),
}


def drawn(name: str, size: int, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    sampler, population = POPULATIONS[name]
    return sampler.batches(population, size, seed, epoch).tolist()


@pytest.mark.parametrize(("size", "own"), [(2, 1), (5, 2), (7, 2), (10, 3)])
def test_labelled_fills_its_share_and_no_unlabelled_sample_comes_twice(size: int, own: int) -> None:
    batches = drawn("labelled", size)
    assert len(batches) == 22 // (size - own)
    assert all(sum(int(GROUP[i]) == 3 for i in batch) == own and len(batch) == size for batch in batches)
    others = [i for batch in batches for i in batch if GROUP[i] != 3]
    assert len(set(others)) == len(others)
    again = Counter(i for batch in batches for i in batch if GROUP[i] == 3)
    assert max(again.values()) - min(again[i] for i in (GROUP == 3).nonzero()[:, 0].tolist()) <= 1
    places = {place for batch in batches for place, i in enumerate(batch) if GROUP[i] == 3}
    assert len(places) > own  # no rank has the labelled ones for itself
    assert batches != drawn("labelled", size, epoch=1)


def test_labelled_wants_both_kinds() -> None:
    for told in (None, torch.ones(8, dtype=torch.bool), torch.zeros(8, dtype=torch.bool)):
        with pytest.raises(
            ValueError, match="the training set has not both: choose labels=partial, or sampler=uniform"
        ):
            Labelled(0.5).batches(Population(8, told=told), 4, 0, 0)


def most_batches(sizes: list[int], size: int) -> int:
    """By trial: the batches that always taking from the largest groups left fills, which is the most there can be."""
    left, batches = sorted(sizes), 0
    while sum(n > 0 for n in left) >= size:
        left = sorted([*left[:-size], *(n - 1 for n in left[-size:])])
        batches += 1
    return batches


def test_uniform_is_a_permutation_without_its_ragged_end() -> None:
    generator = torch.Generator().manual_seed(step_seed(4, 2, rank=-2))
    expected = torch.randperm(len(GROUP), generator=generator)[:25].view(5, 5)
    assert drawn("uniform", 5, seed=4, epoch=2) == expected.tolist()


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_distinct_never_has_two_of_one_group_and_as_many_batches_as_can_be(size: int) -> None:
    sizes = list(Counter(GROUP.tolist()).values())
    for epoch in range(5):
        batches = drawn("distinct", size, epoch=epoch)
        assert len(batches) == most_batches(sizes, size)
        for batch in batches:
            assert len({int(GROUP[i]) for i in batch}) == len(batch) == size
        seen = [i for batch in batches for i in batch]
        assert len(set(seen)) == len(seen)


def test_distinct_loses_less_than_a_batch_of_equal_groups() -> None:
    group = torch.arange(60) % 12
    batches = Distinct().batches(Population(60, None, group), 8, 0, 0)
    assert batches.shape == (7, 8)


def test_distinct_leaves_out_other_samples_in_every_epoch_and_places_groups_anywhere() -> None:
    epochs = [drawn("distinct", 4, epoch=epoch) for epoch in range(40)]
    assert {i for batches in epochs for batch in batches for i in batch} == set(range(len(GROUP)))
    largest = {place for batches in epochs for batch in batches for place, i in enumerate(batch) if GROUP[i] == 7}
    assert largest == {0, 1, 2, 3}  # no rank has a group for itself


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_same_fills_whole_batches_from_one_group(size: int) -> None:
    for epoch in range(3):
        batches = drawn("same", size, epoch=epoch)
        assert len(batches) == sum(n // size for n in Counter(GROUP.tolist()).values())
        assert all(len({int(GROUP[i]) for i in batch}) == 1 for batch in batches)
        seen = [i for batch in batches for i in batch]
        assert len(set(seen)) == len(seen) == size * len(batches)
    first = [int(GROUP[batch[0]]) for batch in drawn("same", 2)]
    assert first != sorted(first)  # groups in turn, not one after another


@pytest.mark.parametrize(("per_class", "size"), [(2, 4), (2, 6), (3, 6), (4, 8), (3, 3)])
def test_class_balanced_takes_equally_many_of_each_of_some_groups(per_class: int, size: int) -> None:
    sampler = ClassBalanced(per_class)
    sets = [n // per_class for n in Counter(GROUP.tolist()).values()]
    seen_at_all = set()
    for epoch in range(30):
        batches = sampler.batches(Population(len(GROUP), None, GROUP), size, 0, epoch).tolist()
        assert len(batches) == most_batches(sets, size // per_class)
        for batch in batches:
            assert Counter(Counter(int(GROUP[i]) for i in batch).values()) == {per_class: size // per_class}
        seen = [i for batch in batches for i in batch]
        assert len(set(seen)) == len(seen)
        seen_at_all |= set(seen)
    assert seen_at_all == {i for i in range(len(GROUP)) if (GROUP[i] == GROUP).sum() >= per_class}


def test_inflated_takes_every_replica_once_a_round_and_as_many_steps_as_the_real_images_alone() -> None:
    sampler, population = Inflated(replicas=3), Population(count=20, real=12)
    round_length = 3 * 12 + 8
    order = [i for epoch in range(11) for batch in sampler.batches(population, 4, 0, epoch).tolist() for i in batch]
    assert len(order) == 11 * 12 == 3 * round_length
    for number in range(3):
        seen = Counter(order[number * round_length : (number + 1) * round_length])
        assert seen == {i: 3 if i < 12 else 1 for i in range(20)}
    assert order[:round_length] != order[round_length : 2 * round_length]


def test_inflated_with_fewer_copies_than_an_epoch_needs() -> None:
    """One replica and a single generated image: an epoch is most of a round and the start of the next."""
    batches = Inflated(1).batches(Population(6, real=5), 5, 0, 3)
    assert batches.shape == (1, 5) and batches.max() < 6
    assert Inflated(1).batches(Population(4, real=4), 3, 0, 3).shape == (1, 3)


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_order_is_a_function_of_seed_and_epoch(name: str) -> None:
    state = torch.get_rng_state()
    assert drawn(name, 4, 1, 2) == drawn(name, 4, 1, 2)
    assert drawn(name, 4, 1, 2) != drawn(name, 4, 1, 3) and drawn(name, 4, 1, 2) != drawn(name, 4, 2, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({len(drawn(name, 4, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 1


def loader(name: str, served: int = 0) -> Loader:
    sampler, population = POPULATIONS[name]
    pixels = torch.arange(population.count).to(torch.uint8)[:, None, None, None]
    return ResidentLoader(Split(pixels), 4, 5, served, Draw(sampler, population, 4))


def indices(given: Loader, epoch: int) -> list[list[int]]:
    given.set_epoch(epoch)
    return [batch.index.tolist() for batch in given]


@pytest.mark.parametrize("name", POPULATIONS)
def test_two_ranks_share_the_batches_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = indices(loader(name), 1)
    assert whole == drawn(name, 4, 5, 1)
    monkeypatch.setattr(loader_module, "world_size", lambda: 2)
    parts = []
    for r in range(2):
        monkeypatch.setattr(loader_module, "rank", lambda r=r: r)
        parts.append(indices(loader(name), 1))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("name", POPULATIONS)
def test_it_goes_on_after_the_batches_that_were_served(name: str) -> None:
    whole = indices(loader(name), 1)
    assert len(whole) == len(loader(name)) > 2
    resumed = loader(name, served=2)
    assert indices(resumed, 1) == whole[2:] and indices(resumed, 2) == drawn(name, 4, 5, 2)


def refused(sampler: Sampler, population: Population, size: int) -> str:
    with pytest.raises(ValueError) as error:
        sampler.batches(population, size, 0, 0)
    return str(error.value)


def test_what_cannot_be_is_refused() -> None:
    population = Population(len(GROUP), None, GROUP)
    assert "data.batch_size is 7 and there are only 6 pseudo-labels" in refused(Distinct(), population, 7)
    assert "data.batch_size is 12 and the most frequent of 6 has 11 samples" in refused(Same(), population, 12)
    assert "there are none: choose generated=folder" in refused(Inflated(2), Population(9), 3)
    assert "data.batch_size is 7, but sampler.per_class is 2: make it" in refused(ClassBalanced(2), population, 7)
    assert "4 samples of each of 4 pseudo-labels into a batch of 16, but only 3 have so many" in refused(
        ClassBalanced(4), population, 16
    )
    with pytest.raises(ValueError, match="per_class is 1: it must be at least 2"):
        ClassBalanced(1)
    with pytest.raises(ValueError, match="replicas is 0: it must be at least 1"):
        Inflated(0)


class OneSet:
    def load(self, split: str) -> Split:
        return Split(torch.zeros(len(GROUP), 1, 2, 2, dtype=torch.uint8), GROUP)


@pytest.mark.parametrize(
    ("sampler", "labels", "words"),
    [
        (Distinct(), None, "sampler=distinct needs pseudo-labels, but the config has pseudo_labels=none"),
        (Same(), None, "sampler=same needs pseudo-labels"),
        (ClassBalanced(2), None, "sampler=class_balanced needs pseudo-labels"),
        (Uniform(), object(), "sampler=uniform reads no pseudo-labels: choose pseudo_labels=none"),
    ],
)
def test_samplers_and_pseudo_labels_that_do_not_fit(sampler: Sampler, labels: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataModule(OneSet(), 4, 0, 0.5, sampler, labels)  # type: ignore[arg-type]


def test_sets_read_in_an_order_of_their_own_take_no_sampler() -> None:
    class Stream(OneSet):
        shape, labelled = (26, 3, 2, 2), False

        def load(self, split: str):  # type: ignore[no-untyped-def]
            return self if split == "pretrain" else super().load(split)

    assert DataModule(Stream(), 4, 0, 0.5).num_batches() == 6
    with pytest.raises(ValueError, match="sampler=inflated chooses every sample itself, but shards are read in runs"):
        DataModule(Stream(), 4, 0, 0.5, Inflated(2))


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_number_of_batches_is_known_before_an_order_is_drawn(name: str) -> None:
    sampler, population = POPULATIONS[name]
    draw = Draw(sampler, population, 4)
    assert draw.num_batches(3) == len(draw(3, 0)) == len(draw(5, 7))
