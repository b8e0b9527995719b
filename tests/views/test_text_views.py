"""Views of texts: wordings drawn alike, words deleted and masked as drawn, what is left in order."""

import pytest
import torch

from ssl_framework.types import Samples
from ssl_framework.views.text import BEGIN, END, MASK, PADDING, UNKNOWN, TextViews, Vocabulary, delete, piece


def texts(count: int = 3, wordings: int = 4, length: int = 12) -> torch.Tensor:
    """[B, K, L] int32, with word n of wording k of every text numbered 100 k + 10 + n; 3, 4, ... words."""
    x = torch.full((count, wordings, length), PADDING, dtype=torch.int32)
    for k in range(wordings):
        words = 3 + k
        x[:, k, 0] = BEGIN
        x[:, k, 1 : 1 + words] = 100 * k + 10 + torch.arange(words, dtype=torch.int32)
        x[:, k, 1 + words] = END
    return x


def samples(x: torch.Tensor) -> Samples:
    return Samples(x, torch.arange(len(x)), torch.arange(len(x)))


def one(x: torch.Tensor, seed: int = 0, **options: float) -> torch.Tensor:
    maker = TextViews(x.shape[-1], **options)  # type: ignore[arg-type]
    return maker(samples(x), torch.Generator().manual_seed(seed)).views[0]


def test_without_alteration_a_view_is_one_of_the_wordings_all_drawn_alike() -> None:
    x = texts(count=4000)
    view = one(x)
    assert view.dtype == torch.int64 and view.shape == (4000, 12)
    wording = (view[:, 1] - 10) // 100
    assert torch.equal(view, x[torch.arange(4000), wording].long())
    assert wording.bincount().tolist() == pytest.approx([1000] * 4, abs=110)  # four standard deviations


def test_the_seed_decides() -> None:
    x, options = texts(count=50), {"deletion": 0.3, "masking": 0.3}
    assert torch.equal(one(x, 1, **options), one(x, 1, **options))
    assert not torch.equal(one(x, 1, **options), one(x, 2, **options))


def test_words_are_deleted_at_the_rate_asked_for_and_the_rest_stays_in_order_between_begin_and_end() -> None:
    x = texts(count=4000, wordings=1, length=33)
    x[:, 0, 1:31] = 10 + torch.arange(30, dtype=torch.int32)
    x[:, 0, 31] = END
    view = one(x, deletion=0.3)
    left = (view >= 10).sum(dim=1)
    assert left.double().mean().item() == pytest.approx(21, abs=0.2)
    for row, count in zip(view[:200], left[:200].tolist(), strict=True):
        assert row[0] == BEGIN and row[count + 1] == END and (row[count + 2 :] == PADDING).all()
        assert (row[1 : count + 1].diff() > 0).all()


def test_at_least_one_word_stays() -> None:
    x = texts(count=500, wordings=1)
    view = one(x, deletion=0.99)
    assert (view >= 10).sum(dim=1).min() == 1 and (view >= 10).sum(dim=1).double().mean() < 1.2
    assert (view[:, 0] == BEGIN).all() and ((view == END).sum(dim=1) == 1).all()


def test_delete_closed_case() -> None:
    x = torch.tensor([[BEGIN, 7, 8, 9, END, PADDING], [BEGIN, 7, END, PADDING, PADDING, PADDING]])
    draws = torch.tensor([[0.0, 0.9, 0.1, 0.9, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0, 0.0, 0.0]])
    expected = [[BEGIN, 7, 9, END, PADDING, PADDING], [BEGIN, 7, END, PADDING, PADDING, PADDING]]
    assert delete(x, draws, 0.5).tolist() == expected


def test_masks_hide_words_in_place_and_nothing_else() -> None:
    x = texts(count=4000, wordings=1, length=12)
    view = one(x, masking=0.25)
    hidden = view == MASK
    assert torch.equal(view.masked_fill(hidden, 0), x[:, 0].long().masked_fill(hidden, 0))
    assert (x[:, 0][hidden] >= 10).all()
    assert hidden[:, 1:4].double().mean().item() == pytest.approx(0.25, abs=0.02)


def test_several_views_are_drawn_apart() -> None:
    batch = TextViews(12, num_views=2)(samples(texts(count=400)), torch.Generator().manual_seed(0))
    first, second = batch.views
    assert batch.modality == ("text", "text") and torch.equal(batch.label, torch.arange(400))
    assert (first == second).all(dim=1).double().mean().item() == pytest.approx(0.25, abs=0.1)


def test_texts_may_be_the_samples_themselves() -> None:
    x = texts(wordings=1)[:, 0]
    view = TextViews(12)(Samples(x, torch.arange(3)))
    assert torch.equal(view.views[0], x.long())


def test_a_text_in_words() -> None:
    words = Vocabulary(["a", "red", "star"])
    assert len(words) == 8
    x = words.encode(["a red star", "red moon"], 6)
    assert x.tolist() == [[BEGIN, 5, 6, 7, END, PADDING], [BEGIN, 6, UNKNOWN, END, PADDING, PADDING]]
    assert words.decode(x[1]) == "red <unknown>" == TextViews(6, words).picture(x[1])
    assert TextViews(6).picture(x[0]) == "1 5 6 7 2 0"


def test_what_evaluators_see() -> None:
    maker, x = TextViews(12, deletion=0.5), texts()
    assert torch.equal(maker.clean(x), x[:, 0].long()) and torch.equal(maker.clean(x[:, 1]), x[:, 1].long())
    bags = maker.raw(x)
    assert bags.shape == (3, 316) and bags.sum(dim=1).tolist() == [3] * 3 and bags[0, 10:13].tolist() == [1, 1, 1]
    assert maker.example(0) == (12,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"deletion": 1.0}, r"deletion is 1\.0: it must be at least 0 and below 1"),
        ({"masking": -0.1}, r"masking is -0\.1: it must be at least 0 and below 1"),
        ({"num_views": 0}, "num_views is 0: it must be at least 1"),
    ],
)
def test_bad_values(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TextViews(12, **options)


def test_data_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"take token ids \[B, K, 9\], but the data gave torch.int64 \[3, 4, 12\]"):
        TextViews(9)(samples(texts().long()))


def test_one_wording_for_all_views_tells_them_apart_by_what_is_done_to_them_alone() -> None:
    x = texts(count=200)
    views = TextViews(12, num_views=3, wordings="same")(samples(x), torch.Generator().manual_seed(0)).views
    assert torch.equal(views[0], views[1]) and torch.equal(views[0], views[2])
    assert len(((views[0][:, 1] - 10) // 100).unique()) == 4  # but another one for another sample
    changed = TextViews(12, num_views=2, wordings="same", masking=0.5)
    first, second = changed(samples(x), torch.Generator().manual_seed(0)).views
    assert not torch.equal(first, second)
    assert torch.equal((first > 0), (second > 0))


def test_all_views_may_be_the_first_wording() -> None:
    x = texts()
    for view in TextViews(12, num_views=2, wordings="first")(samples(x)).views:
        assert torch.equal(view, x[:, 0].long())


def test_wordings_take_turns_and_the_first_views_may_stay_as_they_are() -> None:
    x = texts(count=60, wordings=2)
    views = TextViews(12, num_views=4, wordings="turns", unchanged=2, masking=0.5)(samples(x)).views
    for v, view in enumerate(views):
        hidden = view == MASK
        assert hidden.any() == (v > 1)
        assert torch.equal(view.masked_fill(hidden, 0), x[:, v % 2].long().masked_fill(hidden, 0))


def test_two_wordings_are_never_the_same_one_and_every_pair_is_drawn() -> None:
    x = texts(count=600)
    views = TextViews(12, num_views=3, wordings="two", unchanged=2, masking=0.5)(samples(x)).views
    first, other = (((view[:, 1] - 10) // 100) for view in views[:2])
    assert (first != other).all()
    pairs = (4 * first + other).bincount(minlength=16).view(4, 4)
    assert (pairs.diagonal() == 0).all() and (pairs + 50 * torch.eye(4)).min() > 25  # 50 each are expected
    hidden = views[2] == MASK
    assert hidden.any() and torch.equal(views[2].masked_fill(hidden, 0), views[1].masked_fill(hidden, 0))
    with pytest.raises(ValueError, match="show two wordings of a sample, but the data have one"):
        TextViews(12, num_views=2, wordings="two")(samples(texts(wordings=1)))


def test_piece_closed_case() -> None:
    x = torch.tensor([[BEGIN, 7, 8, 9, 10, END], [BEGIN, 7, END, PADDING, PADDING, PADDING]])
    found = piece(x, torch.tensor([0.5, 0.1]), torch.tensor([0.99, 0.0]))
    assert found.tolist() == [[BEGIN, 9, 10, END, PADDING, PADDING], [BEGIN, 7, END, PADDING, PADDING, PADDING]]


def test_pieces_have_lengths_in_bounds_and_lie_anywhere_in_the_text() -> None:
    x = texts(count=3000, wordings=1, length=33)
    x[:, 0, 1:31] = 10 + torch.arange(30, dtype=torch.int32)
    x[:, 0, 31] = END
    view = one(x, span=(0.1, 0.5))  # type: ignore[arg-type]
    left = (view >= 10).sum(dim=1)
    assert left.min() == 3 and left.max() == 15
    inside = view[:, 1:16]
    assert ((inside.diff(dim=1) == 1) | (inside[:, 1:] < 10)).all()  # one after another
    assert view[:, 1].min() == 10 and (view >= 10).logical_and(view == 39).any()


@pytest.mark.parametrize("span", [[0.5, 0.2], [0.0, 0.5], [0.5, 1.2], [0.5]])
def test_wrong_shares_of_a_piece_are_refused(span: list[float]) -> None:
    with pytest.raises(ValueError, match="span"):
        TextViews(12, span=span)
