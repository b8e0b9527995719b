"""Probes on features whose answer is known, against loops, closed forms and scikit-learn."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ssl_framework.build import build
from ssl_framework.evaluation.few_labels import FewShot, episode, nearest_mean, rows_by_class
from ssl_framework.evaluation.frozen import Frozen
from ssl_framework.main import CONFIGS


def clusters(n: int, classes: int, spread: float, seed: int) -> Frozen:
    """Gaussian clusters around fixed directions in 16 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    return Frozen(centres[y] + spread * torch.randn(n, 16, generator=generator), y)


def shuffled(part: Frozen, seed: int = 5) -> Frozen:
    return part._replace(y=part.y[torch.randperm(len(part.y), generator=torch.Generator().manual_seed(seed))])


def numbers(part: Frozen) -> Frozen:
    return part._replace(y=part.y.float())


EASY = clusters(300, 5, 0.05, 0), clusters(200, 5, 0.05, 1)
HARD = clusters(300, 5, 2.0, 0), clusters(200, 5, 2.0, 1)


# --- few-shot


def few_shot(shots: Any = 1, **change: int) -> FewShot:
    return FewShot(**{"ways": 3, "shots": shots, "queries": 10, "episodes": 60, "seed": 0, **change})


def test_few_shot_of_separable_classes_is_100_with_no_interval_and_of_shuffled_ones_chance() -> None:
    name = "few_shot[3-way,1-shot,episodes=60]"
    assert few_shot()(*EASY) == {f"{name}/top1": 100.0, f"{name}/interval": 0.0}
    got = few_shot()(EASY[0], shuffled(EASY[1]))
    assert got[f"{name}/top1"] == pytest.approx(100 / 3, abs=4)
    assert 0.3 < got[f"{name}/interval"] < 4


@pytest.mark.parametrize("shots", [1, 5])
def test_few_shot_equals_a_loop_over_episodes_and_queries(shots: int) -> None:
    test = HARD[1]._replace(x=HARD[1].x * torch.linspace(0.1, 10, 200)[:, None])  # lengths that must not count
    got = few_shot(shots)(HARD[0], test)
    z = test.x.double().numpy() / np.linalg.norm(test.x.double().numpy(), axis=1, keepdims=True)
    y, generator, shares = test.y.numpy(), torch.Generator().manual_seed(0), []
    for _ in range(60):
        rows = episode([torch.arange(c, 200, 5) for c in range(5)], 3, shots + 10, generator).numpy()
        known, asked = rows[:, :shots].ravel(), rows[:, shots:].ravel()
        assert len(set(y[known])) == 3 and not set(known) & set(asked) and len(set(asked)) == 30
        means = {c: z[known[y[known] == c]].mean(axis=0) for c in set(y[known])}
        answers = [min(means, key=lambda c: np.linalg.norm(z[row] - means[c])) for row in asked]
        shares.append(np.mean(answers == y[asked]))
    name = f"few_shot[3-way,{shots}-shot,episodes=60]"
    assert got[f"{name}/top1"] == pytest.approx(100 * np.mean(shares), abs=1e-4)
    assert got[f"{name}/interval"] == pytest.approx(100 * 1.96 * np.std(shares, ddof=1) / math.sqrt(60), abs=1e-4)
    assert 40 < got[f"{name}/top1"] < 95


def test_the_nearest_mean_of_one_episode_by_hand() -> None:
    first = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.4, 0.0], [1.6, 0.0]])  # mean (1, 0)
    second = torch.tensor([[2.0, 1.0], [2.0, -1.0], [2.0, 0.0], [0.0, 0.0]])  # mean (2, 0); half way is 1.5
    assert nearest_mean(torch.stack([first, second]), 2).item() == 0.5


def test_rows_by_class() -> None:
    got = rows_by_class(torch.tensor([7, 2, 7, 2, 5]))
    assert [rows.tolist() for rows in got] == [[1, 3], [4], [0, 2]]


def test_few_shot_leaves_small_classes_out_and_repeats() -> None:
    train, test = EASY
    part = Frozen(test.x[:-20], test.y[:-20].where(test.y[:-20] != 4, 3).index_fill(0, torch.arange(2), 9))
    with pytest.warns(UserWarning, match="few-shot with 1 shots: 1 classes of the test split are left out"):
        got = few_shot()(train, part)
    assert len(got) == 2
    with pytest.warns(UserWarning, match="with 60 shots skipped: 1 classes .* have 70 images .* takes 3"):
        assert few_shot([1, 60], queries=10)(train, Frozen(test.x, test.y.clamp(max=2))) == few_shot()(
            train, Frozen(test.x, test.y.clamp(max=2))
        )
    assert few_shot(seed=1)(*HARD) == few_shot(seed=1)(*HARD) != few_shot()(*HARD)


# --- every probe


PROBES: dict[str, Callable[[], Any]] = {"few_shot": few_shot}


@pytest.mark.parametrize("name", PROBES)
def test_numbers_are_skipped_with_one_line(name: str) -> None:
    with pytest.warns(UserWarning, match="skipped: it needs classes") as caught:
        assert PROBES[name]()(numbers(EASY[0]), numbers(EASY[1])) == {}
    assert len(caught) == 1


@pytest.mark.parametrize("name", PROBES)
def test_probes_read_bfloat16_repeat_and_give_finite_numbers_of_collapsed_features(name: str) -> None:
    half = [Frozen(part.x.bfloat16(), part.y) for part in EASY]
    probe = PROBES[name]()
    assert probe(*half) == probe(*half) != {}
    values = probe(*(Frozen(torch.zeros_like(part.x), part.y) for part in EASY)).values()
    assert all(math.isfinite(value) for value in values)


@pytest.mark.parametrize("name", PROBES)
def test_the_shipped_config_builds_the_probe(name: str) -> None:
    evaluation = build(OmegaConf.load(CONFIGS / "evaluation" / f"{name}.yaml"))
    assert list(evaluation.probes) == [name]
    assert type(evaluation.probes[name]) is type(PROBES[name]())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: few_shot([]), r"few_shot\.shots is \[\]: give one or more"),
        (lambda: few_shot(0), r"few_shot\.shots is 0"),
        (lambda: few_shot(ways=1), r"few_shot has ways=1, queries=10, episodes=60"),
    ],
)
def test_refused_settings(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
