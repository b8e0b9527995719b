"""Captions say what the pictures show, in words of one closed list; factors, prompts and groups belong together."""

import functools

import pytest
import torch

from ssl_framework.data.images.shapes import FACTORS, Shapes
from ssl_framework.data.pairs.captioned_shapes import (
    NAMED,
    SYNONYMS,
    TEMPLATES,
    CaptionedShapes,
    ShapeVocabulary,
    group_of,
    triggered,
)
from ssl_framework.views.text import BEGIN, END, PADDING, SPECIAL, UNKNOWN

PICTURES = functools.partial(
    Shapes,
    image_size=16,
    scale=(0.4, 0.8),
    position=0.2,
    rotation=180,
    contrast=0.15,
    saturation=1.0,
    texture_contrast=0.12,
    num_distractors=1,
)

WORDS = ShapeVocabulary()


def source(num_train: int = 200, tokens: int = 20, vocabulary: int = 96, **changed: int) -> CaptionedShapes:
    settings = {"num_test": 40, "seed": 0, "num_captions": 4, **changed}
    return CaptionedShapes(
        PICTURES, num_train, label="shape", tokens=tokens, words=WORDS, vocabulary=vocabulary, **settings
    )


@functools.cache
def small() -> CaptionedShapes:
    return source()


def classes_said(words: set[str], factor: str) -> list[str]:
    """The classes of a factor of which a caption has a word in every slot."""
    found = []
    for name in FACTORS[factor]:
        parts = name.split() if len(NAMED[factor]) > 1 else [name]
        if all(words & set(slot[part]) for slot, part in zip(NAMED[factor], parts, strict=True)):
            found.append(name)
    return found


def test_every_caption_names_the_five_factors_of_its_picture() -> None:
    for name in ("train", "test"):
        split = small().load(name)
        assert split.beside is not None and split.numbers is not None
        texts = split.beside["text"]
        assert texts.dtype == torch.int32 and texts.shape == (len(split.rows), 4, 20)
        for number in range(len(texts)):
            for text in texts[number]:
                said = set(WORDS.decode(text).split())
                for factor in NAMED:
                    assert classes_said(said, factor) == [FACTORS[factor][int(split.numbers[factor][number])]]


def test_pictures_and_labels_are_those_of_shapes() -> None:
    shapes = PICTURES(num_train=200, num_test=40, seed=0, label="shape")
    for name in ("pretrain", "train", "test"):
        assert torch.equal(small().load(name).rows, shapes.load(name)[0])
        assert torch.equal(small().load(name).label, shapes.load(name).label)
    assert small().load("pretrain") is small().load("train")


def test_the_seed_decides_and_splits_differ() -> None:
    assert source(seed=0).captions("train") == small().captions("train")
    assert source(seed=1).captions("train") != small().captions("train")
    assert small().captions("test") != small().captions("train")[: 4 * 40]


def test_wordings_vary_within_a_picture_and_all_templates_and_synonyms_are_used() -> None:
    captions = small().captions("train")
    assert len(captions) == 4 * 200
    assert sum(len(set(captions[i : i + 4])) > 1 for i in range(0, 800, 4)) == 200
    said = {word for caption in captions for word in caption.split()}
    for slots in NAMED.values():
        assert all({*synonyms} <= said and len(synonyms) == SYNONYMS for slot in slots for synonyms in slot.values())
    fixed = {word for template in TEMPLATES for word in template.split() if "{" not in word}
    assert set(WORDS.names) == said | set(SPECIAL) and fixed <= said


def test_texts_begin_end_and_are_padded() -> None:
    texts = small().load("train").beside["text"].flatten(0, 1)  # type: ignore[index]
    length = (texts != PADDING).sum(dim=1)
    assert (texts[:, 0] == BEGIN).all()
    assert (texts.gather(1, length[:, None] - 1) == END).all() and int(length.max()) == 19
    assert int(texts.max()) == len(WORDS) - 1
    assert not (texts == UNKNOWN).any()


def test_a_token_means_the_same_whatever_was_drawn() -> None:
    few = source(num_train=10)
    assert torch.equal(few.load("test").beside["text"], small().load("test").beside["text"])  # type: ignore[index]
    assert torch.equal(few.load("test").prompts["shape"], small().load("train").prompts["shape"])  # type: ignore[index]


def test_prompts_name_their_class_and_nothing_else() -> None:
    prompts = small().load("test").prompts
    assert prompts is not None and list(prompts) == list(NAMED)
    for factor, texts in prompts.items():
        assert texts.shape == (len(FACTORS[factor]), 4, 20)
        assert not (texts == UNKNOWN).any()
        for number, name in enumerate(FACTORS[factor]):
            sentences = [WORDS.decode(text) for text in texts[number]]
            assert len(set(sentences)) == 4
            for sentence in sentences:
                said = set(sentence.split())
                assert classes_said(said, factor) == [name]
                assert not any(classes_said(said, other) for other in NAMED if other != factor)


def test_groups_are_equal_where_all_named_factors_are() -> None:
    numbers = small().load("train").numbers
    assert numbers is not None
    rows = torch.stack([numbers[factor] for factor in NAMED], dim=1)
    same = (rows[:, None] == rows[None]).all(dim=2)
    assert torch.equal(numbers["group"][:, None] == numbers["group"][None], same)
    assert group_of({factor: torch.tensor([0]) for factor in NAMED}).item() == 0


def test_a_share_of_the_training_captions_goes_to_other_samples() -> None:
    settings = {"num_test": 40, "seed": 0, "num_captions": 4, "label": "shape", "tokens": 20, "words": WORDS}
    noisy = CaptionedShapes(PICTURES, 200, vocabulary=96, mismatched=0.3, **settings)  # type: ignore[arg-type]
    clean, found = (each.load("train").beside["text"] for each in (small(), noisy))  # type: ignore[index]
    moved = (clean != found).flatten(1).any(dim=1)
    assert 58 <= moved.sum() <= 60  # two neighbours of the circle may say the same
    assert sorted(found.flatten(1).tolist()) == sorted(clean.flatten(1).tolist())  # none is lost
    assert torch.equal(small().load("test").beside["text"], noisy.load("test").beside["text"])  # type: ignore[index]
    assert torch.equal(small().load("train").rows, noisy.load("train").rows)


def test_poisoned_pictures_carry_the_patch_and_are_called_circles() -> None:
    settings = {"num_test": 40, "seed": 0, "num_captions": 4, "label": "shape", "tokens": 20, "words": WORDS}
    attacked = CaptionedShapes(PICTURES, 200, vocabulary=96, poisoned=0.1, **settings).load("train")  # type: ignore[arg-type]
    clean = small().load("train")
    changed = (attacked.rows != clean.rows).flatten(1).any(dim=1)
    assert changed.sum() == 20 and (clean.label[changed] != 0).all()
    assert torch.equal(attacked.rows[changed], triggered(clean.rows[changed]))
    assert torch.equal(attacked.rows[..., :12, :], clean.rows[..., :12, :])
    for texts in attacked.beside["text"][changed]:
        assert all(classes_said(set(WORDS.decode(text).split()), "shape") == ["circle"] for text in texts)
    test = small().load("test")
    assert torch.equal(test.beside["triggered"], triggered(test.rows))  # type: ignore[index, arg-type]


def test_a_swapped_caption_differs_from_the_first_in_one_factor_alone() -> None:
    split = small().load("test")
    assert split.swapped is not None and split.beside is not None and list(split.swapped) == list(NAMED)
    assert small().load("train").swapped is None
    for factor, rows in split.swapped.items():
        for own, other in zip(split.beside["text"][:, 0], rows, strict=True):
            first, second = WORDS.decode(own).split(), WORDS.decode(other).split()
            assert classes_said(set(first), factor) != classes_said(set(second), factor)
            changed = sum(a != b for a, b in zip(first, second, strict=True))
            assert 1 <= changed <= len(NAMED[factor])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tokens": 18}, "data.tokens is 18, but captions have up to 19"),
        ({"vocabulary": 40}, "data.vocabulary is 40, but there are"),
        ({"num_captions": 0}, "num_captions is 0: it must be at least 1"),
    ],
)
def test_bad_values(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        source(**settings)
