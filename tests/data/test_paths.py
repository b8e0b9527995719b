"""Paths: what the label says, and that the seed decides."""

import pytest
import torch

from ssl_framework.data.series.paths import PLACES, Paths
from tests.small_runs import config


def paths(**changed: object) -> Paths:
    plain = {"num_train": 40, "num_test": 20, "length": 16, "swing": 0.5, "noise": 0.0, "label": "person", "seed": 0}
    return Paths(**{**plain, **changed})  # type: ignore[arg-type]


def test_the_label_is_the_mean_distance() -> None:
    split = paths().load("train")
    assert split.shape == (40, 2, 16) and split.label is not None and split.numbers is not None
    rows = split.rows[torch.arange(40)]
    for name, (x, y) in PLACES.items():
        for row, found in zip(rows, split.numbers[name].tolist(), strict=True):
            away = [((row[0, t] - x) ** 2 + (row[1, t] - y) ** 2) ** 0.5 for t in range(16)]
            assert found == pytest.approx(float(sum(away)) / 16, abs=1e-6)
    assert torch.equal(split.label, split.numbers["person"]) and split.label.dtype == torch.float32
    assert (rows[:, 0, 0] == 0).all() and torch.allclose(rows[:, 0, -1], torch.ones(40))  # from edge to edge


def test_the_seed_decides_and_splits_differ() -> None:
    same = [paths(noise=0.1).load("train").rows for _ in range(2)]
    assert torch.equal(same[0], same[1])  # type: ignore[arg-type]
    assert not torch.equal(same[0][:20], paths(noise=0.1).load("test").rows)  # type: ignore[index,arg-type]
    with pytest.raises(ValueError, match="it must be one of laptop, person"):
        paths(label="table")


def test_the_config_knows_the_values() -> None:
    cfg = config("data=paths").data
    rows = paths(num_train=4000, length=32, noise=0.02).load("train").rows[torch.arange(4000)]
    assert rows.mean(dim=(0, 2)).tolist() == pytest.approx(list(cfg.mean), abs=0.01)
    assert rows.std(dim=(0, 2)).tolist() == pytest.approx(list(cfg.std), abs=0.01)
