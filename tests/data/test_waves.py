"""Waves: what is drawn is what is said, the seed decides, and the form is not read off single values."""

import math

import pytest
import torch

from ssl_framework.build import build
from ssl_framework.data.series.waves import FORMS, Waves
from tests.small_runs import config


def waves(**changed: object) -> Waves:
    plain = {"num_train": 64, "num_test": 40, "length": 32, "cycles": [2.0, 3.0], "bend": 0.3}
    plain |= {"amplitude": [0.5, 1.5], "drift": 1.0, "noise": 0.5, "seed": 0}
    return Waves(**{**plain, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_mean_0_and_variance_1_over_a_period(form: str) -> None:
    x = FORMS[form](((torch.arange(100_000) + 0.5) / 100_000).double())
    assert abs(x.mean().item()) < 1e-4 and abs(x.var().item() - 1) < 1e-4


def test_splits_are_balanced_float32_series_that_share_nothing() -> None:
    source = waves()
    train, test = source.load("train"), source.load("test")
    assert train.shape == (64, 1, 32) and test.shape == (40, 1, 32) and train.values_each == 32
    assert train.rows.dtype == torch.float32 and train.label.bincount().tolist() == [8] * 8  # type: ignore[union-attr]
    assert train.classes == tuple(FORMS) and source.load("pretrain") is train
    both = torch.cat([train.rows[torch.arange(64)], test.rows[torch.arange(40)]]).flatten(1)
    assert len(both.unique(dim=0)) == 104


def test_the_seed_decides() -> None:
    assert torch.equal(waves().load("train").rows, waves().load("train").rows)  # type: ignore[arg-type]
    assert not torch.equal(waves(seed=1).load("train").rows, waves().load("train").rows)  # type: ignore[arg-type]


def test_without_bend_drift_and_noise_a_sine_is_a_sine_of_its_cycles() -> None:
    split = waves(bend=0.0, drift=0.0, noise=0.0, amplitude=[2.0, 2.0], cycles=[3.0, 3.0]).load("train")
    sines = split.rows[split.label == 0][:, 0].double()  # type: ignore[index]
    spectrum = torch.fft.rfft(sines).abs() * 2 / 32  # [n, 17]: amplitude of each number of cycles
    assert torch.allclose(spectrum[:, 3], torch.full((8,), 2 * math.sqrt(2), dtype=torch.float64), atol=1e-4)
    spectrum[:, 3] = 0
    assert spectrum.max() < 1e-4
    assert split.numbers["cycles"].tolist() == [3.0] * 64  # type: ignore[index]


def test_the_mean_of_a_class_says_nothing() -> None:
    """Phases are uniform: at every point the mean over a class is that of noise."""
    split = waves(num_train=8000, drift=0.0).load("train")
    for number in range(len(FORMS)):
        rows = split.rows[split.label == number]  # type: ignore[index]
        error = rows.std(0) / math.sqrt(len(rows))  # [1, T]
        assert (rows.mean(0).abs() < 4.5 * error).all()


def test_the_shipped_mean_and_std_are_those_of_the_training_values() -> None:
    cfg = config("data=waves").data
    rows = build(cfg.source).load("train").rows
    assert abs(rows.mean().item() - cfg.mean[0]) < 0.01 and abs(rows.std().item() - cfg.std[0]) < 0.01


@pytest.mark.parametrize(
    ("key", "value"),
    [("length", 8), ("cycles", [3.0, 99.0]), ("cycles", [0.1, 9.0]), ("bend", 1.0), ("noise", -1.0), ("num_test", 0)],
)
def test_numbers_out_of_range_are_refused_by_their_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{key} is .*: (it must be|give two numbers, lo <= hi <= data\.length / 4)"):
        waves(**{key: value})
    with pytest.raises(ValueError, match="There is no split"):
        waves().load("valid")
