"""DebCSE by its formula: which pairs are drawn, and the loss of those that are."""

import math

import pytest
import torch

from ssl_framework.objectives.debcse import DebCSE, shared_words
from ssl_framework.types import Clock
from tests.objectives import loops

TOKENS = torch.tensor([[1, 5, 6, 2, 0], [1, 6, 5, 2, 0], [1, 7, 8, 9, 2], [1, 5, 8, 2, 0], [1, 2, 0, 0, 0]])


def objective(**changed: float) -> DebCSE:
    settings = {"temperature": 0.2, "num_candidates": 3, "num_negatives": 2, "weight": 0.5, "first_word": 3, **changed}
    return DebCSE(**settings)  # type: ignore[arg-type]


def test_shared_words_are_a_share_of_those_of_both() -> None:
    third = 1 / 3
    expected = [
        [1, 1, 0, third, 0],
        [1, 1, 0, third, 0],
        [0, 0, 1, 0.25, 0],
        [third, third, 0.25, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    torch.testing.assert_close(shared_words(TOKENS, 3), torch.tensor(expected))


def test_positives_are_near_and_say_it_otherwise_and_negatives_share_words_and_mean_something_else() -> None:
    semantic = torch.full((5, 5), 0.1)
    semantic[0, 1:] = torch.tensor([0.9, 0.9, 0.0, 0.0])
    surface = torch.zeros(5, 5)
    surface[0, 1:] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    positives, negatives = [], []
    for step in range(200):
        positive, negative = objective(num_candidates=2, num_negatives=1).drawn(semantic, surface, Clock(step, 0, 1))
        positives.append(int(positive[0]))
        negatives.append(int(negative[0, 0]))
        assert (positive != torch.arange(5)).all() and (negative != torch.arange(5)[:, None]).all()
    assert set(positives) == {1, 2}  # of the two nearest
    assert positives.count(2) / 200 == pytest.approx((0.95 / 0.05) / (0.95 / 0.05 + 0.95 / 1.05), abs=0.05)
    odds = {1: 0.15 * 1.05, 3: 1.05 * 1.05, 4: 1.05 * 0.05}  # where 2 is the positive
    share = negatives.count(3) / 200
    assert share == pytest.approx(odds[3] / sum(odds.values()), abs=0.1)


def test_equals_the_loop() -> None:
    z0, z1, k = (loops.random_unit(5, 4, v) for v in range(3))
    batch = loops.batch(5)._replace(views=[TOKENS, TOKENS])
    made = objective()
    out = made(loops.outputs(z0, z1), loops.outputs(k, k), batch, loops.CLOCK)
    surface = shared_words(TOKENS, 3)
    positive, negative = made.drawn((1 + k @ k.T) / 2, surface, loops.CLOCK)
    total = 0.0
    for i in range(5):
        others = [math.exp(float(z0[i] @ z1[j]) / 0.2) for j in negative[i].tolist()]
        for j, weight in ((i, 1.0), (int(positive[i]), 0.5)):
            right = math.exp(float(z0[i] @ z1[j]) / 0.2)
            total -= weight * math.log(right / (right + sum(others))) / 5
    assert out["loss"].item() == pytest.approx(total, abs=1e-9)
    assert out["shared_words"].item() == pytest.approx(float(surface[torch.arange(5), positive].mean()))
