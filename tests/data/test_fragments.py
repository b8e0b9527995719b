"""Torn strips: closed contours, neighbours that share an edge, and what is the same on both sides of a tear."""

import math

import pytest
import torch

from ssl_framework.data.series.fragments import Fragments, Waves, behind, evenly, lying_on, turns

LENGTH = 64


def fragments(tear: float = 0.05, worn: float = 0.0, faded: float = 0.0) -> Fragments:
    return Fragments(6, 4, LENGTH, tear, worn, faded, 0)


def test_points_lie_evenly_on_the_polygon_and_turns_are_its_angles() -> None:
    square = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]])
    points = evenly(square, 16)
    expected = [(0.5 * k, 0.0) for k in range(4)] + [(2.0, 0.5 * k) for k in range(4)]
    torch.testing.assert_close(points[0, :8], torch.tensor(expected))
    assert torch.equal(points[0, 8:], 2 - points[0, :8])
    turned = turns(points)[0]
    assert turned[::4].tolist() == pytest.approx([math.pi / 2] * 4) and turned.sum().item() == pytest.approx(
        2 * math.pi
    )


def test_a_pair_has_two_closed_contours_the_second_as_seen_from_behind() -> None:
    rows = fragments().load("train").rows
    assert isinstance(rows, torch.Tensor) and rows.shape == (6, 2, 2, LENGTH) and rows.dtype == torch.float32
    whole = rows[:, :, 0].sum(dim=2) / (2 * math.pi)  # once around, to the left and to the right
    torch.testing.assert_close(whole, torch.tensor([[1.0, -1.0]]).expand(6, -1), atol=1e-4, rtol=0)
    assert torch.equal(behind(behind(rows[:, 0])), rows[:, 0])
    # The strip in the middle is the second of one pair and the first of the next one.
    assert torch.equal(behind(rows[0, 1][None])[0], rows[1, 0]) and torch.equal(behind(rows[4, 1][None])[0], rows[5, 0])


def test_straight_tears_leave_strips_of_equal_turns() -> None:
    rows = fragments(tear=0.0).load("train").rows
    assert isinstance(rows, torch.Tensor)
    torch.testing.assert_close(rows[0, 0, 0], rows[3, 0, 0], atol=1e-5, rtol=0)  # another sheet
    assert (rows[0, 0, 1] - rows[3, 0, 1]).abs().max() > 0.1  # with another pattern


def test_both_sides_of_a_tear_show_the_same_pattern() -> None:
    generator = torch.Generator().manual_seed(0)
    source = fragments()
    _, tear, second, _ = source.edges(3, generator)
    pattern = Waves(3, generator)
    backwards = pattern(tear.flip(1)).flip(1)
    torch.testing.assert_close(pattern(tear), backwards)
    assert (tear[..., 0] < second[..., 0]).all() and (tear[..., 0].std(dim=1) > 0.01).all()


def test_points_lie_on_each_other_along_a_common_edge_alone() -> None:
    left = evenly(torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]]), 16)  # points 4 to 8 go up
    right = evenly(torch.tensor([[[1.0, 0.1], [2.0, 0.1], [2.0, 1.1], [1.0, 1.1]]]), 16)  # 12 to 16 go down
    assert lying_on(left, right)[0].tolist() == [-1] * 4 + [0, 15, 14, 13, 12] + [-1] * 7
    assert lying_on(right, left)[0].tolist() == [4] + [-1] * 11 + [8, 7, 6, 5]


def test_of_a_pair_the_points_of_the_tear_have_partners_where_the_pattern_is_the_same() -> None:
    split = fragments().load("train")
    assert split.beside is not None and split.beside["partner"].dtype == torch.int16
    for (first, second), partner in zip(split.rows[:], split.beside["partner"].tolist(), strict=True):
        at = [i for i, j in enumerate(partner) if j >= 0]
        to = [partner[i] for i in at]
        assert len(at) > LENGTH // 4 and len(set(to)) == len(to)
        upwards = [(j + 2) % LENGTH for j in to]  # the second one begins about where the tear does
        assert upwards == sorted(upwards)
        apart = (first[1, at] - second[1, to]).abs().mean()
        assert apart < 0.5 * (first[1, at] - second[1].roll(LENGTH // 2)[to]).abs().mean()


def test_samples_follow_the_seed_and_splits_differ() -> None:
    split = fragments(worn=0.01, faded=0.3)
    assert torch.equal(split.load("train").rows[:], split.load("train").rows[:])
    test = split.load("test")
    assert test.shape == (4, 2, 2, LENGTH) and not torch.equal(test.rows[:], split.load("train").rows[:4])
    assert test.numbers is not None and test.numbers["group"].tolist() == [0, 1, 2, 3] and test.label is None
    with pytest.raises(ValueError, match="There is no split 'validation'"):
        split.load("validation")
