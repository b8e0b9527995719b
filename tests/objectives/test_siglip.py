import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.siglip import SigLIP
from ssl_framework.optim import parameter_groups
from tests.objectives import loops


def objective_of(scale: float, bias: float) -> SigLIP:
    objective = SigLIP(1 / scale, bias).double()
    with torch.no_grad():
        objective.log_scale.fill_(math.log(scale))  # which float32 had rounded
    return objective


def loss(z0: Tensor, z1: Tensor, scale: float = 5.0, bias: float = -1.0) -> Tensor:
    return objective_of(scale, bias)(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)["loss"]


def by_loops(z0: Tensor, z1: Tensor, scale: float, bias: float) -> float:
    """Algorithm 1 of the paper, pair by pair."""
    total = 0.0
    for i in range(len(z0)):
        for j in range(len(z1)):
            sign = 1 if i == j else -1
            total += math.log(1 + math.exp(-sign * (scale * loops.dot(z0[i], z1[j]) + bias)))
    return total / len(z0)


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (2.0, 0.5)])
def test_equals_the_loop(scale: float, bias: float) -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    assert loss(z0, z1, scale, bias).item() == pytest.approx(by_loops(z0, z1, scale, bias), abs=1e-10)


def test_gradients_of_scale_and_bias_are_those_of_finite_differences() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    objective, step = objective_of(4.0, -2.0), 1e-5
    objective(loops.outputs(z0, z1), None, loops.batch(5), loops.CLOCK)["loss"].backward()
    of_scale = by_loops(z0, z1, 4 * math.exp(step), -2.0) - by_loops(z0, z1, 4 * math.exp(-step), -2.0)
    of_bias = by_loops(z0, z1, 4.0, -2.0 + step) - by_loops(z0, z1, 4.0, -2.0 - step)
    assert objective.log_scale.grad is not None and objective.bias.grad is not None
    assert objective.log_scale.grad.item() == pytest.approx(of_scale / (2 * step), abs=1e-8)
    assert objective.bias.grad.item() == pytest.approx(of_bias / (2 * step), abs=1e-8)


def test_a_pair_does_not_depend_on_the_others() -> None:
    """Each decision stands alone: with one pair more the sum grows by that pair's decisions."""
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    row = sum(math.log(1 + math.exp(5.0 * loops.dot(z0[4], z1[j]) - 1)) for j in range(4))
    column = sum(math.log(1 + math.exp(5.0 * loops.dot(z0[j], z1[4]) - 1)) for j in range(4))
    own = math.log(1 + math.exp(-5.0 * loops.dot(z0[4], z1[4]) + 1))
    grown = 5 * loss(z0, z1).item() - 4 * loss(z0[:4], z1[:4]).item()
    assert grown == pytest.approx(row + column + own, abs=1e-10)


def test_invariances() -> None:
    loops.assert_invariant(loss)


def test_nothing_decays() -> None:
    decayed, spared = parameter_groups(SigLIP(0.1, -10), 0.1, exclude_bias_and_norm=True)
    assert not decayed["params"] and len(spared["params"]) == 2
