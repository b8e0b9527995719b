"""A scene's sound says colour, shape and size, and nothing else; picture and caption are those of captioned shapes."""

import functools

import pytest
import torch

from ssl_framework.data.pairs.captioned_shapes import CaptionedShapes
from ssl_framework.data.pairs.scenes import BEATS, LOUDNESS, PITCH, Scenes, SoundScenes
from tests.data.test_captioned_shapes import PICTURES, WORDS

CAPTIONED = functools.partial(CaptionedShapes, PICTURES, num_captions=4, tokens=20, words=WORDS, vocabulary=96)


def scenes(noise: float = 0.0, detune: float = 0.0, seed: int = 0) -> Scenes:
    return Scenes(CAPTIONED, 60, 30, seed, "shape", 512, noise, detune)


def test_pictures_and_captions_are_those_of_captioned_shapes() -> None:
    whole = CAPTIONED(num_train=60, num_test=30, seed=0, label="shape")
    for name in ("train", "test"):
        found, expected = scenes().load(name), whole.load(name)
        assert torch.equal(found.rows, expected.rows) and torch.equal(found.label, expected.label)
        assert torch.equal(found.beside["text"], expected.beside["text"]) and found.prompts.keys()
        assert found.beside["series"].shape == (len(found.rows), 1, 512)


def test_a_sound_has_the_loudness_the_beat_and_the_pitch_of_its_factors() -> None:
    split = scenes().load("train")
    sounds, numbers = split.beside["series"][:, 0], split.numbers
    for sound, shape, colour, size in zip(
        sounds, *(numbers[name].tolist() for name in ("shape", "colour", "scale")), strict=True
    ):
        assert sound.abs().max() == pytest.approx(LOUDNESS[size], rel=0.1)
        assert (sound != 0).float().mean() == pytest.approx(BEATS[shape].count("1") / 8, abs=0.02)
        if set(BEATS[shape]) == {"1"}:  # of a short tone pitch is no single number
            spectrum = torch.fft.rfft(sound, 4096).abs()
            assert spectrum.argmax() / 4096 == pytest.approx(PITCH[colour], abs=1 / 500)
    assert len(set(BEATS)) == 10 and len({beat[i:] + beat[:i] for beat in BEATS for i in range(8)}) > 40
    turned = [{beat[i:] + beat[:i] for i in range(8)} for beat in BEATS]
    assert not any(a & b for n, a in enumerate(turned) for b in turned[:n])  # wherever it begins


def test_the_seed_decides() -> None:
    first, second = (scenes(0.3, 0.03, seed).load("test").beside["series"] for seed in (0, 0))
    assert torch.equal(first, second)
    assert not torch.equal(first, scenes(0.3, 0.03, 1).load("test").beside["series"])


def test_pictures_with_sounds_alone_are_the_same_without_words() -> None:
    whole, found = scenes(0.3).load("test"), SoundScenes(CAPTIONED, 60, 30, 0, "shape", 512, 0.3, 0.0).load("test")
    assert torch.equal(found.rows, whole.rows) and torch.equal(found.label, whole.label)
    assert found.beside.keys() == {"sound"} and torch.equal(found.beside["sound"], whole.beside["series"][:, 0])
    assert found.prompts is None and found.swapped is None and found.named is None
