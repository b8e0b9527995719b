"""EDA does one of its four things to a text, to as many words as asked for."""

import pytest
import torch
from torch import Tensor

from ssl_framework.data.pairs.captioned_shapes import ShapeVocabulary
from ssl_framework.types import Samples
from ssl_framework.views.eda import EDA, swap
from ssl_framework.views.text import BEGIN, END, TextViews, Vocabulary

WORDS = Vocabulary(["big", "large", "huge", "cat", "feline", "the"], {
    "big": ("large", "huge"), "large": ("big", "huge"), "huge": ("big", "large"), "cat": ("feline",), "feline": ("cat",)
})  # fmt: skip
BIG, LARGE, HUGE, CAT, FELINE, THE = range(5, 11)
ALIKE = {BIG: {LARGE, HUGE}, LARGE: {BIG, HUGE}, HUGE: {BIG, LARGE}, CAT: {FELINE}, FELINE: {CAT}, THE: set()}


def text(*words: int, length: int = 10) -> Tensor:
    return torch.tensor([[BEGIN, *words, END] + [0] * (length - 2 - len(words))])


def inner(row: Tensor) -> list[int]:
    words = row[row != 0].tolist()
    assert words[0] == BEGIN and words[-1] == END and (row[len(words) :] == 0).all()
    return words[1:-1]


def test_synonyms_take_the_place_of_words_that_have_some() -> None:
    x, eda = text(THE, CAT, BIG, THE), EDA(0.3, WORDS)
    draws, choice = torch.tensor([[0, 0.9, 0.5, 0.4, 0.8, 0, 0, 0, 0, 0]]), torch.full((1, 10), 0.6)
    assert inner(eda.replace(x, torch.tensor([1]), draws, choice)[0]) == [THE, FELINE, BIG, THE]
    assert inner(eda.replace(x, torch.tensor([4]), draws, choice)[0]) == [THE, FELINE, HUGE, THE]


@pytest.mark.parametrize(
    ("choice", "expected"), [(0.0, [BIG, CAT, LARGE]), (0.4, [CAT, BIG, LARGE]), (0.99, [CAT, LARGE, HUGE])]
)
def test_a_synonym_is_put_in_anywhere(choice: float, expected: list[int]) -> None:
    draws = torch.tensor([[0, 0.1, 0.9, 0.0, 0, 0.0, 0, 0, 0, 0]])
    assert inner(EDA(0.3, WORDS).insert(text(CAT, LARGE), draws, torch.full((1, 10), choice))[0]) == expected


def test_a_full_text_and_one_without_synonyms_get_no_word() -> None:
    eda, draws = EDA(0.3, WORDS), torch.rand(1, 10)
    for x in (text(*[CAT] * 8), text(THE, THE)):
        assert torch.equal(eda.insert(x, draws, draws), x)


def test_two_words_change_places() -> None:
    draws = torch.tensor([[0.99, 0.1, 0.9, 0.8, 0.99, 0.99, 0, 0, 0, 0]])
    assert inner(swap(text(THE, CAT, BIG), draws)[0]) == [THE, BIG, CAT]
    assert torch.equal(swap(text(CAT), draws), text(CAT))


def test_each_of_the_four_comes_as_often_and_changes_a_tenth() -> None:
    x = text(THE, CAT, THE, BIG, THE, length=16).expand(4000, -1)
    found = EDA(0.1, WORDS)(x, torch.Generator().manual_seed(0))
    before = inner(x[0])
    kinds = dict.fromkeys(("inserted", "swapped or same", "deleted", "replaced"), 0)
    for row in found:
        after = inner(row)
        if len(after) > len(before):
            kinds["inserted"] += 1
        elif len(after) < len(before):
            kinds["deleted"] += 1
        elif sorted(after) == sorted(before):
            kinds["swapped or same"] += 1
        else:
            kinds["replaced"] += 1
            ((old, new),) = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
            assert new in ALIKE[old]
    kept = 0.9**5  # of a text of which words are left out, nothing is
    expected = {"inserted": 0.25, "replaced": 0.25, "deleted": 0.25 * (1 - kept), "swapped or same": 0.25 * (1 + kept)}
    for kind, share in expected.items():
        assert kinds[kind] / 4000 == pytest.approx(share, abs=0.03), kind


def test_captions_have_their_own_synonyms_and_the_first_view_stays() -> None:
    words = ShapeVocabulary()
    assert words.synonyms["disc"] == ("circle",) and "the" not in words.synonyms and len(words.synonyms) == 62
    x = words.encode(["a big red disc at the top left on a plain background"] * 30, 20)
    views = TextViews(20, words, num_views=2, wordings="first", unchanged=1, alter=EDA(0.1, words))
    first, second = views(Samples(x, torch.arange(30)), torch.Generator().manual_seed(0)).views
    assert torch.equal(first, x.long()) and (first != second).any(dim=1).float().mean() > 0.7


def test_words_without_synonyms_are_refused() -> None:
    with pytest.raises(
        ValueError, match="EDA replaces words by synonyms, but those of the data have none: choose data="
    ):
        EDA(0.1, Vocabulary(["a", "b"]))
    assert EDA(0.1, None).table.numel() == 0  # as texts without tokens: the run is refused for its data
