"""Pictures show as many things as captions say, and a counterfactual says another number and nothing else anew."""

import functools

import pytest
import torch

from ssl_framework.data.pairs.counted_shapes import CLASSES, LEVELS, NUMBERS, CountedShapes, CountVocabulary
from ssl_framework.types import Samples
from ssl_framework.views.text import UNKNOWN, TextViews

WORDS = CountVocabulary()


@functools.cache
def source(seed: int = 0, **changed: int) -> CountedShapes:
    settings = {"num_train": 80, "num_test": 40, "seed": seed, "image_size": 48, "tokens": 12, **changed}
    return CountedShapes(noise=0.0, words=WORDS, **settings)


def things(ink: torch.Tensor) -> int:
    """Connected parts of [S, S] bool, by flooding."""
    left, count = {tuple(place) for place in ink.nonzero().tolist()}, 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
    return count


def test_a_picture_shows_as_many_things_of_its_colour_as_it_should() -> None:
    split = source().load("train")
    assert split.rows.shape == (80, 3, 48, 48) and split.rows.dtype == torch.uint8 and split.classes == NUMBERS
    assert split.label.bincount().tolist() == [8] * 10
    for picture, number, colour in zip(split.rows, split.label, split.numbers["colour"], strict=True):
        level = (torch.tensor(LEVELS[colour]) * 255).round()[:, None, None]
        assert things((picture == level).all(dim=0)) == number + 1


def test_a_caption_says_number_form_and_colour_and_its_counterfactual_another_number() -> None:
    split = source().load("test")
    for text, other, *factors in zip(
        *split.beside["text"].unbind(1), *(split.numbers[name].tolist() for name in CLASSES), strict=True
    ):
        said, changed = WORDS.decode(text).split(), WORDS.decode(other).split()
        assert {CLASSES[name][n] for name, n in zip(CLASSES, factors, strict=True)} <= set(said)
        differ = [(a, b) for a, b in zip(said, changed, strict=True) if a != b]
        if factors[0] == 0:
            assert not differ
        else:
            ((a, b),) = differ
            assert a == NUMBERS[factors[0]] and b in NUMBERS[1:]
    assert torch.equal(split.swapped["number"], split.beside["text"][:, 1])
    assert not any((prompts == UNKNOWN).any() for prompts in split.prompts.values())
    assert {name: len(prompts) for name, prompts in split.prompts.items()} == {"number": 10, "form": 4, "colour": 6}


def test_the_seed_decides() -> None:
    again = CountedShapes(80, 40, 0, 48, 0.0, 12, WORDS).load("train")
    assert torch.equal(again.rows, source().load("train").rows)
    assert not torch.equal(source(1).load("train").rows, again.rows)


def test_each_view_is_one_wording() -> None:
    split = source().load("train")
    views = TextViews(12, WORDS, num_views=2, wordings="each")
    found = views(Samples(split.beside["text"], torch.arange(80))).views
    assert all(torch.equal(view, split.beside["text"][:, v].long()) for v, view in enumerate(found))
    with pytest.raises(ValueError, match="show 3 wordings of a sample, one a view, but the data have 2"):
        TextViews(12, WORDS, num_views=3, wordings="each")(Samples(split.beside["text"], torch.arange(80)))
    with pytest.raises(ValueError, match="wordings=all: choose one of random, each"):
        TextViews(12, WORDS, wordings="all")


def test_bad_values() -> None:
    with pytest.raises(ValueError, match=r"data\.tokens is 9, but captions have up to 11"):
        source(tokens=9)
    with pytest.raises(ValueError, match=r"data\.image_size is 16, too small to count in"):
        source(image_size=16)
