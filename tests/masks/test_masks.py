"""Maskers: how much they hide, where, and what they ask of backbone and views."""

import pytest
import torch
from torch import Tensor

from ssl_framework.masks.base import Draws, Masker, number_of
from ssl_framework.masks.block import BlockMask, IJEPAMask, blocks
from ssl_framework.masks.each import EachItsOwn
from ssl_framework.masks.mixture import MixtureMask
from ssl_framework.masks.random import RandomMask
from ssl_framework.types import Batch, Clock

CPU = torch.device("cpu")


def draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), Clock(seed, 0, 10).generator())


def ijepa() -> IJEPAMask:
    return IJEPAMask(4, [0.15, 0.2], [0.75, 1.5], [0.85, 1.0])


MASKERS: list[Masker] = [
    RandomMask(0.75),
    RandomMask(0.6, unit=2),
    BlockMask([0.6, 0.6], 1.0, 4, 0.3),
    BlockMask([0.1, 0.5], 0.5, 4, 0.3),
    ijepa(),
]


@pytest.mark.parametrize("masker", MASKERS)
def test_a_step_draws_the_same_again_and_another_step_does_not(masker: Masker) -> None:
    masker.grids = {0: (8, 8), 2: (4, 4)}
    batch = Batch([torch.zeros(5, 3, 32, 32)] * 3, torch.arange(5))

    def made(step: int) -> Batch:
        return masker(batch, Clock(step, 0, 10), torch.Generator().manual_seed(step))

    first, again, other = made(0), made(0), made(1)
    assert first.masks is not None and first.masks[1] is None and first.views is batch.views
    for v, count in ((0, 64), (2, 16)):
        a, b, c = (one.masks[v] for one in (first, again, other))  # type: ignore[index]
        assert a is not None and b is not None and c is not None
        assert a.shape == (5, count) and a.dtype == torch.bool and torch.equal(a, b) and not torch.equal(a, c)
    assert (first.targets is not None) == masker.gives_targets


@pytest.mark.parametrize(
    ("ratio", "total", "hidden"), [(0.75, 64, 48), (0.6, 64, 39), (0.5, 2, 1), (0.01, 9, 1), (0.99, 9, 8)]
)
def test_the_number_of_hidden_patches_is_alike_in_every_sample(ratio: float, total: int, hidden: int) -> None:
    """MAE keeps ``int(N * (1 - ratio))``; at least one is seen and one hidden."""
    assert number_of(ratio, total) == hidden
    drawn = RandomMask(ratio).draw(7, (1, total), draws(), CPU).hidden
    assert drawn.sum(dim=1).tolist() == [hidden] * 7


def test_every_patch_is_hidden_as_often() -> None:
    hidden = RandomMask(0.75).draw(4000, (4, 4), draws(), CPU).hidden.float().mean(dim=0)
    assert (hidden - 0.75).abs().max() < 5 * (0.75 * 0.25 / 4000) ** 0.5


def test_units_hide_squares() -> None:
    hidden = RandomMask(0.6, unit=2).draw(6, (8, 4), draws(), CPU).hidden.view(6, 4, 2, 2, 2)
    squares = hidden.transpose(2, 3).flatten(3)  # [6, 4, 2, 4]
    assert (squares.all(dim=3) == squares.any(dim=3)).all() and squares[..., 0].sum(dim=(1, 2)).tolist() == [5] * 6


def neighbours(hidden: Tensor, side: int) -> float:
    """Share of pairs of neighbours in a row that are both hidden or both seen."""
    grid = hidden.view(-1, side, side)
    return (grid[:, :, 1:] == grid[:, :, :-1]).float().mean().item()


def test_blocks_hold_together_and_are_exact() -> None:
    masker = BlockMask([0.4, 0.4], 1.0, 4, 0.3)
    hidden = masker.draw(200, (8, 8), draws(), CPU).hidden
    assert masker.even and hidden.sum(dim=1).tolist() == [number_of(0.4, 64)] * 200
    assert neighbours(hidden, 8) > 0.68 > 0.56 > neighbours(RandomMask(0.4).draw(200, (8, 8), draws(), CPU).hidden, 8)


def test_shares_and_masked_images_are_drawn() -> None:
    masker = BlockMask([0.1, 0.5], 0.5, 4, 0.3)
    count = masker.draw(2000, (8, 8), draws(), CPU).hidden.sum(dim=1)
    some = count[count > 0]
    assert not masker.even and abs(len(some) / 2000 - 0.5) < 0.06
    assert some.min() == number_of(0.1, 64) and some.max() == number_of(0.5, 64)
    middle = (number_of(0.1, 64) + number_of(0.5, 64)) / 2
    assert abs(some.float().mean().item() - middle) < 1
    assert not BlockMask([0.4, 0.4], 0.0, 4, 0.3).draw(5, (8, 8), draws(), CPU).hidden.any()


@pytest.mark.parametrize("side", [4, 8])
def test_a_context_is_seen_without_its_targets(side: int) -> None:
    for seed in range(20):
        hidden, targets = ijepa().draw(16, (side, side), draws(seed), CPU)
        assert targets is not None and targets.shape[:2] == (16, 4)
        assert len(set((~hidden).sum(dim=1).tolist())) == 1 and (~hidden).sum(dim=1).min() > 0
        assert hidden.gather(1, targets.flatten(1)).all()  # none of them is in the context
        rows, columns = targets // side, targets % side
        high, wide = (x.amax(dim=2) - x.amin(dim=2) + 1 for x in (rows, columns))
        assert (high * wide == targets.shape[2]).all()  # a block without gaps
        assert len(set(zip(high.flatten().tolist(), wide.flatten().tolist(), strict=True))) == 1  # of one size


def test_targets_that_leave_nothing_become_one() -> None:
    """Four blocks in the corners of the smallest grid can cover a context."""
    covered = [ijepa().draw(256, (4, 4), draws(seed), CPU) for seed in range(30)]
    assert any((t[:, 0:1] == t).all(dim=2).all(dim=1).any() for _, t in covered if t is not None)


def test_a_mixture_shows_every_patch_of_every_image_once() -> None:
    masker = MixtureMask(0.5)
    masker.grids = {0: (2, 2)}
    x = torch.arange(3.0)[:, None, None, None].expand(-1, 1, 5, 4).clone()  # each image of one value; a row is over
    out = masker(Batch([x], torch.arange(3)), Clock(0, 0, 10), torch.Generator().manual_seed(0))
    assert out.masks is not None and out.mix is not None and out.mix[0] is not None and out.masks[0] is not None
    shown = out.views[0][:, 0, ::2, ::2][:, :2].flatten(1)  # [3, 4], of whom each patch is
    for n in range(4):
        assert sorted(shown[:, n].tolist()) == [0, 1, 2]
    others = torch.tensor([[1.0], [2.0], [0.0]]).expand(-1, 4)
    assert torch.equal(shown, torch.where(out.masks[0], others, torch.arange(3.0)[:, None]))
    mix = out.mix[0]
    assert mix.clean is x and mix.source.tolist() == [[0, 1], [1, 2], [2, 0]]
    torch.testing.assert_close(mix.share, torch.tensor([[0.6, 0.4]]).expand(3, -1))  # two of five rows' patches
    assert mix.owner is not None and torch.equal(mix.owner.sum(dim=1), torch.ones(3, 5, 4))
    assert (out.views[0][:, :, 4] == x[:, :, 4]).all()


def test_rectangles_reach_every_corner() -> None:
    corner = torch.tensor([[0.0, 0.999, 0.5], [0.0, 0.999, 0.0]])
    found = blocks(torch.tensor([[2.0], [3.0]]), corner, (4, 5)).view(3, 4, 5)
    places = [(place[:, 0].min().item(), place[:, 1].min().item(), len(place)) for place in map(torch.nonzero, found)]
    assert places == [(0, 0, 6), (2, 2, 6), (1, 0, 6)]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"RandomMask's ratio is 1: it must be above 0 and below 1"):
        RandomMask(1)
    with pytest.raises(ValueError, match=r"masker\.ratio is \[0\.5, 0\.1\]: give the least share first"):
        BlockMask([0.5, 0.1], 1.0, 4, 0.3)
    with pytest.raises(ValueError, match=r"masker\.unit is 2, which does not divide the 7 x 7 patches"):
        RandomMask(0.6, unit=2).check(7, 7)
    with pytest.raises(ValueError, match=r"IJEPAMask needs 4 x 4 patches or more, but a view has 2 x 2: set a smaller"):
        ijepa().check(2, 2)


def test_views_of_several_modalities_have_shares_of_their_own() -> None:
    masker = EachItsOwn([RandomMask(0.75, views=[2]), RandomMask(0.5, views=[0])])
    masker.maskers[0].grids, masker.maskers[1].grids = {2: (4, 4)}, {0: (8, 8)}
    batch = Batch([torch.zeros(5, 3, 32, 32)] * 3, torch.arange(5))
    found = masker(batch, Clock(0, 0, 10), torch.Generator().manual_seed(0)).masks
    assert found[1] is None and [found[v].sum(dim=1).tolist() for v in (0, 2)] == [[32] * 5, [12] * 5]
    assert masker.even and masker.views == [2, 0]


@pytest.mark.parametrize(
    ("maskers", "words"),
    [
        ((RandomMask(0.5),), "give each its own views, none twice"),
        ((RandomMask(0.5, views=[0]), RandomMask(0.5, views=[0, 1])), "give each its own views, none twice"),
        (
            (MixtureMask(0.5, views=[0]),),
            "has MixtureMask, which does more than to hide: choose one such as RandomMask",
        ),
    ],
)
def test_maskers_that_do_not_go_together_are_refused(maskers: tuple[Masker, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EachItsOwn(maskers)
