"""Dances: beats are heard and seen at one time, and the seed decides."""

import pytest
import torch

from ssl_framework.build import build
from ssl_framework.data.pairs.dances import TEMPI, Dances
from tests.small_runs import config


def dances(**changed: object) -> Dances:
    plain = {"num_train": 30, "num_test": 20, "rate": 1000, "length": 2048, "points": 64, "tempo": [1.5, 4.0]}
    plain |= {"rest": 0.3, "sound_noise": 0.0, "motion_noise": 0.0, "seed": 0}
    return Dances(**{**plain, **changed})  # type: ignore[arg-type]


def test_a_beat_is_heard_where_the_motion_is_lowest() -> None:
    split = dances(rest=0.0).load("train")
    assert split.beside is not None and split.numbers is not None
    sounds, motions = split.rows[torch.arange(30)], split.beside["series"][:, 0]  # [N, T], [N, P]
    for sound, motion, tempo in zip(sounds, motions, split.numbers["tempo"].tolist(), strict=True):
        quiet = sound.abs() < 1e-3
        onsets = [t for t in range(20, 2048) if not quiet[t] and quiet[t - 15 : t].all()]
        expected = torch.tensor(onsets).diff().tolist()
        assert expected == pytest.approx([1000 / tempo] * len(expected), abs=2) and expected
        inner = [t for t in onsets if 100 < t < 1950]
        for t in inner:
            near = motion[max(0, t // 32 - 2) : t // 32 + 3]
            assert near.min() < -0.9


def test_labels_are_thirds_of_the_tempo_and_rests_leave_beats_out() -> None:
    split = dances(num_train=600).load("train")
    assert split.label is not None and split.numbers is not None and split.classes == TEMPI
    third = ((split.numbers["tempo"] - 1.5) / 2.5 * 3).long()
    assert (split.label == third).float().mean() > 0.99 and split.label.bincount().min() > 150
    energy = [dances(rest=rest).load("train").rows[torch.arange(30)].square().sum() for rest in (0.0, 0.5)]
    assert 0.35 < energy[1] / energy[0] < 0.65


def test_the_seed_decides_and_the_config_knows_the_values() -> None:
    first, second, other = (dances(seed=seed, sound_noise=0.1).load("test") for seed in (0, 0, 1))
    assert torch.equal(first.rows, second.rows) and not torch.equal(first.rows, other.rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.source\.tempo is \[4\.0, 2\.0\]: give two numbers, lo < hi"):
        dances(tempo=[4.0, 2.0])
    cfg = config("data=dances", "data.source.num_train=200")
    pictures = build(cfg.views).clean(build(cfg.data.source).load("train").rows[torch.arange(200)])
    assert abs(pictures.mean()) < 0.05 and abs(pictures.std() - 1) < 0.05
