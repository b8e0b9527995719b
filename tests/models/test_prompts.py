"""Texts of classes by a frozen tower: what is learnt of them, and what stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.data.pairs.captioned_shapes import ClassNames, ShapeVocabulary
from ssl_framework.models.heads import MLPHead, built
from ssl_framework.models.prompts import ClassTexts, FrozenHead, PromptTuning, StylePrompt, TextScores, scores
from ssl_framework.models.text import TextTransformer
from ssl_framework.training.parts import begin_with_weights
from tests.objectives import loops
from tests.small_runs import run_in, small

NAMES = ClassNames("shape", ShapeVocabulary(), "a picture of a")


def head(source: str = "pooled", weights: str | None = None, tower: str = "text") -> FrozenHead:
    return FrozenHead(source, MLPHead(source, [], 6, norm=False), "projector", tower, weights)


def texts(learnt: bool, prompt: Any = None, source: str = "pooled", width: int = 5) -> ClassTexts:
    torch.manual_seed(0)
    text = TextTransformer(96, 20, 8, 2, 2, dropout=0.1)
    return built(ClassTexts(source, text, head(), NAMES, learnt, prompt), {source: width})


def test_names_of_classes_stand_behind_the_context() -> None:
    assert [ShapeVocabulary().decode(row) for row in NAMES.tokens[:2]] == [
        f"a picture of a {x}" for x in ("circle", "square")
    ]
    assert (NAMES.count, *NAMES.tokens.shape) == (4, 10, 7)
    places = ClassNames("position", ShapeVocabulary(), "at the")
    assert (places.count, places.tokens.shape[1]) == (2, 6)
    for factor, words in ((None, ShapeVocabulary()), ("rotation", ShapeVocabulary()), ("shape", None)):
        with pytest.raises(
            ValueError, match=r"have no names that a text could call them by: choose data=captioned_shapes"
        ):
            ClassNames(factor, words, "a")


@pytest.mark.parametrize("prompt", [None, lambda layers, width, dim: torch.nn.Linear(width, dim)])
def test_texts_are_those_of_the_frozen_tower_with_other_words_before_the_name(prompt: Any) -> None:
    made, x = texts(True, prompt).train(), torch.randn(3, 5)
    net, plain = made.text.net, made.words.weight
    found = made({"pooled": x})
    for b in range(3):
        shift = made.prompt(x)[b] if prompt else torch.zeros(8)
        for c in (0, 7):
            words = plain[NAMES.tokens[c]].clone()
            words[1:5] = made.context + shift
            tokens = words + net.places[:7]
            for block in net.blocks:
                tokens = block(tokens[None])[0]
            torch.testing.assert_close(found[b, c], made.projector.head.layers(net.norm(tokens).mean(dim=0)))
    if not prompt:
        torch.testing.assert_close(made.context, plain[NAMES.tokens[0, 1:5]])
    found.square().sum().backward()
    learns = {name for name, p in made.named_parameters() if p.grad is not None}
    assert learns == ({"context", "prompt.weight", "prompt.bias"} if prompt else {"context"})
    assert not any(p.requires_grad for p in texts(False).parameters())


def test_scores_are_cosines() -> None:
    pictures, own = torch.randn(3, 5).double(), torch.randn(3, 4, 5).double()
    found = built(TextScores("texts", "embedding", 4, 0.5), {"texts": 5})({"texts": own, "embedding": pictures})
    torch.testing.assert_close(found, scores(pictures, own, 0.5))
    for i in range(3):
        for c in range(4):
            lengths = loops.dot(pictures[i], pictures[i]) * loops.dot(own[i, c], own[i, c])
            assert found[i, c].item() == pytest.approx(loops.dot(pictures[i], own[i, c]) / lengths**0.5 / 0.5)


def test_tuning_begins_as_the_frozen_towers_and_learns_what_they_cannot_tell() -> None:
    """The frozen texts of two classes are alike; the places tell them apart."""
    torch.manual_seed(0)
    tuning, label = built(PromptTuning("texts", "embedding", "places", 2, 2, 0.1), {"texts": 8}), torch.arange(32) % 2
    own = torch.randn(8) + 0.01 * torch.randn(2, 8)
    places = torch.randn(32, 4, 8) + 2 * torch.eye(8)[label][:, None]
    seen = {"texts": own.expand(32, -1, -1), "places": places, "embedding": places.mean(dim=1)}
    frozen = scores(seen["embedding"], seen["texts"], 0.1)
    torch.testing.assert_close(tuning(seen), frozen)
    optimizer = torch.optim.Adam(tuning.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(tuning(seen), label).backward()
        optimizer.step()
    assert (frozen.argmax(dim=1) == label).float().mean() < 0.8
    assert (tuning(seen).argmax(dim=1) == label).float().mean() > 0.9


def test_prompts_that_follow_from_the_pictures_style_learn_its_class() -> None:
    """The class is the deviation of the tokens, which no mean shows; the frozen texts alone cannot name it."""
    torch.manual_seed(0)
    label = torch.arange(32) % 2
    tokens = torch.randn(32, 2, 16, 4) * (1 + 2 * label)[:, None, None, None]
    prompt, shared, picture = StylePrompt(2, 4, 3), torch.randn(2, 3), torch.randn(3)
    assert not prompt(tokens).any()  # the words of the context, at first
    optimizer = torch.optim.Adam(prompt.parameters(), 0.05)
    for _ in range(60):
        own = shared + prompt(tokens)[:, None] * torch.tensor([[1.0], [-1.0]])  # [32, 2, 3]
        loss = torch.nn.functional.cross_entropy(own @ picture, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((own @ picture).argmax(dim=1) == label).float().mean() > 0.9
    torch.testing.assert_close(prompt(tokens), prompt(tokens.flip(2)))  # whatever the order of the tokens


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two towers."""
    folder = tmp_path_factory.mktemp("clip")
    one = ("backbone=vit_nano", "trainer.max_steps=1", "trainer.max_epochs=1")
    assert run_in(folder, small("clip", *one)) is None
    return folder


@pytest.mark.parametrize("method", ["gopro", "ctp_tft"])
def test_at_first_a_run_answers_as_the_frozen_one(method: str, clip: Path) -> None:
    module = build_module(small(method, f"backbone.weights={clip}"), True, 48)
    said = begin_with_weights(module)
    assert sum("the head projector of the tower for" in line for line in said) == 2 and len(said) == 4
    from ssl_framework.loading import load_run

    towers: Any = load_run(clip, [])[1].eval().student
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        names = towers.tower("text").encode(torch.nn.functional.pad(NAMES.tokens, (0, 13)))["projector"]
        pictures = towers.tower("image").encode(x)["projector"]
        found = module.eval().student.encode(x)["classifier"]
    expected: Tensor = scores(pictures, names.expand(3, -1, -1), 0.07)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", ["gopro", "ctp_tft"])
def test_pictures_whose_classes_have_no_names_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"^the classes of these data have no names that a text could call"):
        build_module(small(method, "data=cifar10"), True, 48)


def test_what_is_no_such_run_is_refused(clip: Path, tmp_path: Path) -> None:
    def refuses(said: str, *overrides: str, method: str = "ctp_tft") -> None:
        module = build_module(small(method, *overrides), True, 48)
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            begin_with_weights(module)

    refuses(r"student\.tuning keeps the weights of vit_tiny_patch16_224 as they begin, but none are named")
    refuses(r"stays as a finished run left it, but none is named", "tuning=none")
    refuses(
        r"is not the one that student\.heads names", f"backbone.weights={clip}", "student.heads.embedding.head.out=64"
    )
    assert run_in(tmp_path, small("simclr", "backbone=vit_nano", "trainer.max_steps=1", "trainer.max_epochs=1")) is None
    refuses(r"a run without a head projector of a tower for image", f"backbone.weights={tmp_path}")
    refuses(
        r"a file of a backbone alone",
        f"backbone.weights={clip}",
        f"student.heads.embedding.weights={clip / 'config.yaml'}",
    )
