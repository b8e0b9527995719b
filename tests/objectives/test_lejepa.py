import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.lejepa import LeJEPA, directions, prediction
from ssl_framework.types import Clock
from tests.golden import golden, mix_raw
from tests.objectives import loops


def objective(lam: float = 0.05, num_global: int = 2, num_directions: int = 3) -> LeJEPA:
    return LeJEPA(lam, num_global, num_directions, 17, 3.0)


def run(lejepa: LeJEPA, *views: Tensor, step: int = 0) -> dict[str, Tensor]:
    return lejepa(loops.outputs(*views), None, loops.batch(len(views[0])), Clock(step, 0, 10))


def statistic(values: list[float]) -> float:
    """Of one direction, the integral as a sum of trapezia."""
    n, knots = len(values), [3 * k / 16 for k in range(17)]
    heights = []
    for t in knots:
        real, imaginary = sum(math.cos(t * x) for x in values) / n, sum(math.sin(t * x) for x in values) / n
        phi = math.exp(-t * t / 2)
        heights.append(((real - phi) ** 2 + imaginary**2) * phi)
    return n * 2 * sum((a + b) / 2 * 3 / 16 for a, b in pairwise(heights))


def squares(views: list[Tensor], num_global: int) -> float:
    n, d = views[0].shape
    total = 0.0
    for i in range(n):
        for j in range(d):
            mean = sum(float(z[i, j]) for z in views[:num_global]) / num_global
            total += sum((float(z[i, j]) - mean) ** 2 for z in views)
    return total / (len(views) * n * d)


def test_golden() -> None:
    z, axes = torch.stack([mix_raw(s) for s in range(4)]), torch.eye(8, dtype=torch.float64)
    sigreg = objective().sigreg(z, axes)
    expected = golden("sigreg: statistic of raw0..raw3, slices = the 8 axes, 17 knots in [0, 3]")
    assert sigreg.item() == pytest.approx(expected, abs=1e-7)
    loss = 0.05 * sigreg + 0.95 * prediction(z, 2)
    expected = golden("lejepa: loss, global raw0 raw1, local raw2 raw3, lambda .05")
    assert loss.item() == pytest.approx(expected, abs=1e-7)


def test_equals_the_loop() -> None:
    views = [2 * loops.random_unit(6, 4, seed) + 0.3 for seed in range(3)]
    along = directions(3, views[0], Clock(0, 0, 10))
    each = [statistic([loops.dot(row, a) for row in z]) for z in views for a in along]
    expected = 0.2 * sum(each) / 9 + 0.8 * squares(views, 2)
    out = run(objective(0.2), *views)
    assert out["loss"].item() == pytest.approx(expected, abs=1e-10)
    assert out["sigreg"].item() == pytest.approx(sum(each) / 9, abs=1e-10)
    assert out["prediction"].item() == pytest.approx(squares(views, 2), abs=1e-10)


def test_directions_are_unit_and_those_of_the_step() -> None:
    z = torch.zeros(2, 5)
    first, again, later = (directions(7, z, Clock(step, 0, 10)) for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, later)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(7))


def test_gradient_and_no_stop() -> None:
    views = [loops.random_unit(5, 3, seed).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(lambda *z: run(objective(), *z)["loss"], views)


def test_a_gaussian_scores_low_and_a_point_high() -> None:
    gaussian = torch.special.ndtri(torch.arange(1, 400, dtype=torch.float64) / 400)[:, None]
    point = torch.zeros(399, 1, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    low, high = (objective().sigreg(z[None], one).item() for z in (gaussian, point))
    assert low < 0.01 and high > 100


def test_more_global_views_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"objective\.num_global is 3, but the student encodes only 2 views"):
        run(objective(num_global=3), torch.zeros(4, 2), torch.zeros(4, 2))
