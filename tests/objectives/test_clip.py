import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.clip import CLIP
from ssl_framework.optim import parameter_groups
from tests.golden import golden, mix_rows
from tests.objectives import loops


def loss(z0: Tensor, z1: Tensor, scale: float = 5.0, smoothing: float = 0.0) -> Tensor:
    objective = CLIP(1 / scale, 100, smoothing).double()
    with torch.no_grad():
        objective.log_scale.fill_(math.log(scale))  # which float32 had rounded
    return objective(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)["loss"]


def by_loops(z0: Tensor, z1: Tensor, scale: float, smoothing: float) -> float:
    """Softmax cross-entropy with smoothed targets, row by row and column by column, the mean of both."""
    n, total = len(z0), 0.0
    for a, b in ((z0, z1), (z1, z0)):
        for i in range(n):
            logits = [scale * loops.dot(a[i], b[j]) for j in range(n)]
            denominator = loops.log_sum_exp(logits)
            for j in range(n):
                target = smoothing / n + (1 - smoothing) * (i == j)
                total -= target * (logits[j] - denominator)
    return total / (2 * n)


def test_golden() -> None:
    a, b = mix_rows(0), mix_rows(1)
    assert loss(a, b, 10.0).item() == pytest.approx(golden("clip: loss of raw0, raw1 (normalised inside)"), abs=1e-7)
    smoothed = golden("align: loss with label smoothing, both directions")
    assert loss(a, b, 10.0, 0.1).item() == pytest.approx(smoothed, abs=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_equals_the_loop(smoothing: float) -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    got = loss(z0, z1, 3.0, smoothing).item()
    assert got == pytest.approx(by_loops(z0, z1, 3.0, smoothing), abs=1e-10)


def test_both_directions_count_alike() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    assert loss(z0, z1).item() == pytest.approx(loss(z1, z0).item(), abs=1e-12)


def test_normalises_itself_and_does_not_change_under_permutation_and_rotation() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    torch.testing.assert_close(loss(3 * z0, 0.1 * z1), loss(z0, z1))
    loops.assert_invariant(loss)


def test_closed_cases() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert loss(same, same).item() == pytest.approx(math.log(4), abs=1e-12)
    aligned = torch.eye(4, dtype=torch.float64)
    assert loss(aligned, aligned, 50.0).item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_of_the_scale_is_that_of_finite_differences() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    objective = CLIP(0.2, 100, 0.1).double()
    objective(loops.outputs(z0, z1), None, loops.batch(5), loops.CLOCK)["loss"].backward()
    at, step = objective.log_scale.item(), 1e-5
    rise = by_loops(z0, z1, math.exp(at + step), 0.1) - by_loops(z0, z1, math.exp(at - step), 0.1)
    assert objective.log_scale.grad is not None
    assert objective.log_scale.grad.item() == pytest.approx(rise / (2 * step), abs=1e-8)


def test_the_scale_grows_to_its_bound_can_come_back_and_has_no_weight_decay() -> None:
    z = torch.eye(4)
    objective = CLIP(0.1, 12, 0.0)
    optimizer = torch.optim.SGD(objective.parameters(), lr=1e4)

    def step(z1: Tensor) -> float:
        optimizer.zero_grad()
        out = objective(loops.outputs(z, z1), None, loops.batch(4), loops.CLOCK)
        out["loss"].backward()
        optimizer.step()
        return out["scale"].item()

    assert step(z) == pytest.approx(10)
    assert step(z) == pytest.approx(12)  # aligned pairs ask for more
    assert step(z.roll(1, dims=0)) == pytest.approx(12)
    assert step(z) < 12  # pairs that are wrong ask for less, also at the bound
    decayed, spared = parameter_groups(objective, 0.1, exclude_bias_and_norm=True)
    assert not decayed["params"] and spared["params"] == [objective.log_scale] and spared["weight_decay"] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((0, 100), "temperature is 0: it must be above 0"),
        ((0.07, 10), "objective.largest_scale is 10, less than the scale at the beginning"),
        ((0.07, 100, 1.0), "label_smoothing is 1.0: it must be at least 0 and below 1"),
        ((0.07, 100, 0.0, "global", "projector", 2), "objective.groups is 2, but objective.gather is global"),
        ((0.07, 100, 0.0, "node"), "objective.gather is node: choose one of global, group, none"),
    ],
)
def test_bad_values(settings: tuple, words: str) -> None:
    with pytest.raises(ValueError) as error:
        CLIP(*settings)
    assert words in str(error.value)


def grouped(groups: int, smoothing: float = 0.0) -> CLIP:
    objective = CLIP(0.1, 100, smoothing, "group", groups=groups).double()
    with torch.no_grad():
        objective.log_scale.fill_(math.log(10))
    return objective


def test_golden_of_groups() -> None:
    a, b = mix_rows(0), mix_rows(1)
    found = grouped(2)(loops.outputs(a, b), None, loops.batch(6), loops.CLOCK)["loss"]
    assert found.item() == pytest.approx(golden("grouped_gather: two groups of three rows"), abs=1e-7)
    three = sum(loss(a[i : i + 2], b[i : i + 2], 10.0, 0.3).item() for i in (0, 2, 4)) / 3
    found = grouped(3, 0.3)(loops.outputs(a, b), None, loops.batch(6), loops.CLOCK)["loss"]
    assert found.item() == pytest.approx(three)


def test_towers_of_different_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one has 7 values and the other 4: choose a head .* \(head=linear\)"):
        loss(loops.random_unit(5, 7, 0), loops.random_unit(5, 4, 1))
