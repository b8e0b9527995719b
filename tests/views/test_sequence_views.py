"""Views of sequences: each operation against its words, shares, padding, the seed."""

import pytest
import torch
from torch import Tensor

from ssl_framework.types import Samples
from ssl_framework.views.sequence import SequenceViews

V, L = 30, 10
ROWS = torch.tensor([[0, 0, 0, 0, 0, 11, 12, 13, 14, 15], list(range(1, 11)), [0] * 9 + [7]])
"""Of 5, 10 and 1 items."""


def views(**changed: object) -> SequenceViews:
    return SequenceViews(**{"count": 2, "length": L, "items": V, **changed})  # type: ignore[arg-type]


def many(maker: SequenceViews, row: int, count: int = 500) -> Tensor:
    rows = ROWS[row].expand(count, -1)
    return maker(Samples(rows, torch.arange(count)), torch.Generator().manual_seed(0)).views[0]


def test_without_operations_a_view_is_the_sequence() -> None:
    batch = views(count=3)(Samples(ROWS.int(), torch.arange(3), torch.arange(3)))
    assert all(torch.equal(view, ROWS) and view.dtype == torch.int64 for view in batch.views) and len(batch.views) == 3


@pytest.mark.parametrize(("row", "size"), [(0, 2), (1, 5), (2, 1)])
def test_a_crop_is_a_run_of_neighbours_at_the_end_of_the_row(row: int, size: int) -> None:
    found = many(views(crop=0.5), row)
    assert (found[:, :-size] == 0).all() and (found[:, -size:] > 0).all()
    assert (found[:, -size:].diff(dim=1) == 1).all()
    items = ROWS[row][ROWS[row] > 0]
    assert found[:, -size].unique().tolist() == items[: len(items) - size + 1].tolist()  # begins anywhere


@pytest.mark.parametrize(("row", "count"), [(0, 2), (1, 5), (2, 0)])
def test_a_mask_hides_a_fixed_share_of_the_items_and_no_padding(row: int, count: int) -> None:
    found = many(views(mask=0.5), row)
    hidden = found == V + 1
    assert (hidden.sum(1) == count).all() and torch.equal(found.masked_fill(hidden, 0), ROWS[row] * ~hidden)
    places = hidden.float().mean(0)[ROWS[row] > 0]
    assert (places - count / len(places)).abs().max() < 0.1 and not hidden[:, ROWS[row] == 0].any()


@pytest.mark.parametrize(("row", "size"), [(0, 3), (1, 6), (2, 0)])
def test_a_reordered_part_has_the_same_items_and_the_rest_its_places(row: int, size: int) -> None:
    found = many(views(reorder=0.6), row)
    assert torch.equal(found.sort(1).values, ROWS[row].sort().values.expand_as(found))
    moved = found != ROWS[row]
    place = torch.arange(L)
    first = torch.where(moved, place, L).min(1).values
    last = torch.where(moved, place, -1).max(1).values
    assert ((last - first + 1).clamp(min=0) <= size).all() and (last - first + 1).max() == (size if size else -L)


def test_each_view_of_each_sample_takes_one_of_the_three() -> None:
    rows = ROWS[1].expand(3000, -1)
    first, second = views(crop=0.6, mask=0.3, reorder=0.6)(
        Samples(rows, torch.arange(3000)), torch.Generator().manual_seed(0)
    ).views
    kinds = [(view == 0).any(1) + 2 * (view == V + 1).any(1) for view in (first, second)]
    for kind in kinds:
        assert all(abs((kind == k).float().mean() - 1 / 3) < 0.03 for k in range(3))
    assert abs((kinds[0] == kinds[1]).float().mean() - 1 / 3) < 0.04
    again = views(crop=0.6, mask=0.3, reorder=0.6)(Samples(rows, torch.arange(3000)), torch.Generator().manual_seed(0))
    assert torch.equal(first, again.views[0])


def test_the_first_views_may_be_the_sequence_as_it_is() -> None:
    first, second = views(mask=1.0, untouched=1)(Samples(ROWS, torch.arange(3))).views
    assert torch.equal(first, ROWS) and torch.equal(second, torch.where(ROWS > 0, V + 1, 0))


def test_sequence_views_say_what_they_are() -> None:
    maker = views()
    assert maker.modality == ("sequence", "sequence") and maker.example(0) == (L,) and maker.channels is None
    assert maker.raw(ROWS[:1]).tolist() == [[float(i in range(11, 16)) for i in range(1, V + 1)]]
    assert maker.describe() == "the last 10 items as they are"
    picture = maker.picture(torch.tensor([0, 3, V + 1, 3, 4]))[:, 0, ::6]
    assert picture[:, 0].tolist() == [1, 1, 1] and picture[:, 2].tolist() == [0, 0, 0]  # padding and a hidden one
    assert torch.equal(picture[:, 1], picture[:, 3]) and (picture[:, 3] - picture[:, 4]).abs().max() > 0.3
    with pytest.raises(ValueError, match=r"views take sequences of 10 items, but the data have torch\.int64 samples"):
        maker.clean(ROWS[:, 1:])
    with pytest.raises(ValueError, match=r"mask is 1\.5: it must be between 0 and 1"):
        views(mask=1.5)
