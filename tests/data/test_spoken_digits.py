"""Spoken digits: what is spoken is what is said of it, the seed decides, and the ranges hold."""

import pytest
import torch

from ssl_framework.build import build
from ssl_framework.data.audio.spoken_digits import (
    SOUNDS,
    WINDOW,
    WORDS,
    SpokenDigits,
    SpokenWords,
    between,
    filtered,
    resonances,
    tracks,
)
from tests.small_runs import config


def digits(**changed: object) -> SpokenDigits:
    plain = {"num_train": 20, "num_test": 10, "rate": 8000, "length": 4096, "pitch": [110.0, 110.0]}
    plain |= {"tract": [1.0, 1.0], "pace": [0.8, 0.8], "echo": 0.0, "channel": [4000.0, 4000.0], "snr": [80.0, 80.0]}
    return SpokenDigits(**{**plain, "seed": 0, **changed})  # type: ignore[arg-type]


def test_splits_are_balanced_waveforms_of_a_seed_that_share_nothing() -> None:
    source = digits(snr=[0.0, 20.0], pitch=[90.0, 240.0], echo=0.3)
    train, test = source.load("train"), source.load("test")
    assert train.shape == (20, 4096) and train.rows.dtype == torch.int16 and source.load("pretrain") is train
    assert train.label.bincount().tolist() == [2] * 10 and train.classes == tuple(WORDS)  # type: ignore[union-attr]
    both = torch.cat([train.rows[torch.arange(20)], test.rows[torch.arange(10)]])
    assert len(both.unique(dim=0)) == 30 and (both.abs().amax(1) > 0.15 * 32767).all()
    again = digits(snr=[0.0, 20.0], pitch=[90.0, 240.0], echo=0.3).load("train")
    other = digits(snr=[0.0, 20.0], pitch=[90.0, 240.0], echo=0.3, seed=1).load("train")
    assert torch.equal(again.rows, train.rows) and not torch.equal(other.rows, train.rows)  # type: ignore[arg-type]
    assert train.numbers is not None and set(train.numbers) == {"pitch", "tract", "pace"}
    assert train.numbers["pitch"].min() >= 90 and train.numbers["pitch"].max() <= 240


def test_words_have_the_same_sounds_and_what_is_spoken_as_their_text() -> None:
    cfg = config("method=coconut_text", "data.source.num_train=20", "data.source.num_test=10")
    source, words = build(cfg.data.source), build(cfg.data.words)
    plain = config("data=spoken_digits", "data.source.num_train=20", "data.source.num_test=10")
    split = source.load("test")
    assert isinstance(source, SpokenWords) and torch.equal(split.rows, build(plain.data.source).load("test").rows)
    assert [words.decode(text) for (text,) in split.beside["text"]] == list(WORDS)
    assert split.label.tolist() == [*range(10)]
    assert split.beside["text"].shape == (10, 1, cfg.data.tokens) and len(words) == cfg.data.vocabulary


def test_every_word_is_made_of_known_sounds() -> None:
    assert {sound for word in WORDS.values() for sound in word.split()} <= set(SOUNDS)
    assert len(set(WORDS.values())) == len(WORDS) == 10


def test_windows_that_are_let_through_add_up_to_what_came_in() -> None:
    x = torch.randn(2, 1024, generator=torch.Generator().manual_seed(0))
    out = filtered(x, torch.ones(2, 9, WINDOW // 2 + 1))
    inside = slice(WINDOW // 2, 1024 - WINDOW // 2)
    assert torch.allclose(out[:, inside], x[:, inside], atol=1e-5)


def test_a_tract_resonates_at_its_formants() -> None:
    frequency = torch.arange(0, 4000.0, 5.0)
    gain = resonances(frequency, torch.tensor([[[500.0, 1500.0, 2500.0]]]))[0, 0] * (1 + frequency / 500)
    inner = gain[1:-1]
    peaks = frequency[1:-1][(inner > gain[:-2]) & (inner > gain[2:])]
    assert len(peaks) == 3 and torch.allclose(peaks, torch.tensor([500.0, 1500.0, 2500.0]), atol=15)
    assert gain[0].item() == pytest.approx(1.0)


def test_the_mouth_passes_through_the_sounds_of_its_word_and_is_silent_around_it() -> None:
    within = torch.linspace(-0.5, 1.5, 201)[None]  # [1, 201]
    formants, voice, hiss, centre = tracks(torch.tensor([2]), within)  # two: - T UW
    assert voice[0, :50].eq(0).all() and hiss[0, :50].eq(0).all() and voice[0, 151:].eq(0).all()
    assert hiss[0, 51:].max() == pytest.approx(SOUNDS["T"].hiss) and centre[0, 80] == SOUNDS["T"].centre
    assert formants[0, 149].tolist() == list(map(float, SOUNDS["UW"].formants))
    closed, burst = 0.4 / 1.75, 0.75 / 1.75  # ends of the first two sounds
    where = within[0][hiss[0] > 0]
    assert closed <= where.min() < closed + 0.011 and burst - 0.011 < where.max() <= burst


@pytest.mark.parametrize("tract", [1.0, 1.25])
def test_a_vowel_is_loud_at_its_first_formant_which_a_short_tract_raises(tract: float) -> None:
    wave = digits(num_train=10, tract=[tract, tract], pitch=[40.0, 40.0]).load("train").rows[torch.tensor([0, 4])]
    spectrum = torch.fft.rfft(wave.double()).abs()  # four: F AO R; zero: ... OW
    frequency = torch.fft.rfftfreq(4096, 1 / 8000).double()
    band = (frequency > 350) & (frequency < 1000)
    centre = (spectrum[1] * frequency)[band].sum() / spectrum[1][band].sum()
    assert (centre > 660) == (tract > 1)


def test_the_voice_has_its_pitch() -> None:
    """Without anything around it, the vowel of "four" repeats after 1 / pitch seconds."""
    wave = digits(num_train=10, pitch=[125.0, 125.0], length=8192).load("train").rows[torch.tensor([4])][0].double()
    loud = wave.unfold(0, 1024, 512).square().sum(1).argmax() * 512
    part = wave[loud : loud + 1024]
    spectrum = torch.fft.rfft(part * torch.hann_window(1024, dtype=torch.float64), 4096).abs().square()
    similar = torch.fft.irfft(spectrum)[40:120]  # lags of 5 to 15 ms
    assert 8000 / (40 + similar.argmax().item()) == pytest.approx(125 * 0.9, rel=0.12)  # it falls by a quarter


def test_the_shipped_mean_and_std_are_about_those_of_the_training_pictures() -> None:
    cfg = config("data=spoken_digits", "data.source.num_train=200")
    pictures = build(cfg.views).clean(build(cfg.data.source).load("train").rows)
    assert abs(pictures.mean()) < 0.15 and abs(pictures.std() - 1) < 0.1


@pytest.mark.parametrize(
    ("key", "value"),
    [("pitch", [240.0, 90.0]), ("pace", [0.5, 1.5]), ("snr", [0.0, 101.0]), ("channel", [10.0, 4001.0])],
)
def test_numbers_out_of_range_are_refused_by_their_key(key: str, value: list[float]) -> None:
    with pytest.raises(ValueError, match=rf"data\.source\.{key} is .*: give two numbers, lo <= hi, of at most"):
        digits(**{key: value})
    with pytest.raises(ValueError, match="There is no split"):
        digits().load("valid")


def test_draws_are_within_their_ends() -> None:
    drawn = between(1000, 2.0, 3.0, torch.Generator().manual_seed(0))
    assert 2 <= drawn.min() < 2.02 and 2.98 < drawn.max() <= 3
