"""Turned pictures and moved tiles: each sample's answer says what was done to it, and nothing else was."""

import itertools

import pytest
import torch

from ssl_framework.build import build
from ssl_framework.types import Batch, Samples
from ssl_framework.views.pretext import Jigsaw, Rotation, far_apart
from tests.small_runs import config


def batch_of(count: int = 40, side: int = 9) -> Batch:
    x = torch.rand(count, 2, side, side, generator=torch.Generator().manual_seed(0))
    return Batch([x, x + 1], torch.arange(count))


@pytest.mark.parametrize("side", [9, 8])
def test_a_rotation_is_that_of_its_answer(side: int) -> None:
    batch = batch_of(side=side)
    got = Rotation(1)(batch, torch.Generator().manual_seed(1))
    assert got.views[0] is batch.views[0] and got.targets is not None
    answer = got.targets[-1]
    assert answer.bincount(minlength=4).min() > 3
    for b in range(40):
        assert torch.equal(got.views[1][b], batch.views[1][b].rot90(int(answer[b]), (1, 2)))
    again, other = (Rotation(1)(batch, torch.Generator().manual_seed(n)).targets for n in (1, 2))
    assert torch.equal(again[-1], answer) and not torch.equal(other[-1], answer)


@pytest.mark.parametrize("side", [9, 11])
def test_tiles_lie_in_the_order_of_the_answer(side: int) -> None:
    batch = batch_of(side=side)
    got = Jigsaw(0, 35)(batch, torch.Generator().manual_seed(1))
    answer, orders = got.targets[-1], far_apart()
    assert answer.max() < 35 and len(answer.unique()) > 15
    for b, p in itertools.product(range(40), range(9)):
        tile = int(orders[answer[b], p])
        to, of = ((3 * (at // 3), 3 * (at % 3)) for at in (p, tile))
        shown = got.views[0][b, :, to[0] : to[0] + 3, to[1] : to[1] + 3]
        assert torch.equal(shown, batch.views[0][b, :, of[0] : of[0] + 3, of[1] : of[1] + 3])
    assert got.views[0][..., 9:, :].abs().sum() == 0 and got.views[0][..., 9:].abs().sum() == 0


def test_orders_are_permutations_that_agree_once_at_most() -> None:
    orders = far_apart()
    assert orders.shape == (72, 9) and torch.equal(orders.sort(dim=1).values, torch.arange(9).expand(72, 9))
    same = (orders[:, None] == orders).sum(dim=2)
    assert same.fill_diagonal_(0).max() == 1 and len(orders.unique(dim=0)) == 72
    assert torch.equal(orders[0], torch.arange(9))


def test_the_shipped_views_turn_the_third() -> None:
    views = build(config("method=scatsimclr").views)
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    got = views(Samples(images, torch.arange(5)), torch.Generator().manual_seed(0))
    assert [view.shape for view in got.views] == [(5, 3, 32, 32)] * 3 and got.targets[-1].shape == (5,)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"views\.noise\.view is 2, but the views are numbered 0 to 1"):
        Rotation(2)(batch_of(), None)
    with pytest.raises(ValueError, match=r"views\.noise\.permutations is 73: it must be between 2 and 72"):
        Jigsaw(0, 73)
