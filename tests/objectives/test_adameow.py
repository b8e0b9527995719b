"""AdaMEOW: the loop over pairs, equal weights, and that it is MEOW's composition with another objective."""

import math

import pytest
import torch

from ssl_framework.objectives.adameow import AdaMEOW
from tests.objectives import loops
from tests.small_runs import config


def objective() -> AdaMEOW:
    torch.manual_seed(0)
    return AdaMEOW(0.4, 5, 3).double()


def test_the_loss_equals_the_loop_over_pairs() -> None:
    made, a, b = objective(), loops.random_unit(4, 5, 0), loops.random_unit(4, 5, 1)
    total, weights = 0.0, []
    for i in range(4):
        below = 0.0
        for j in range(4):
            score = made.second(torch.tanh(made.first(a[i] + b[j]))).item()
            weights.append(1 / (1 + math.exp(-score)))
            below += weights[-1] * math.exp(loops.dot(a[i], b[j]) / 0.4)
        total += math.log(below) - loops.dot(a[i], b[i]) / 0.4
    out = made(loops.outputs(2 * a, 3 * b), None, loops.batch(4), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(total / 4, abs=1e-12)
    assert out["mean_weight"].item() == pytest.approx(sum(weights) / 16, abs=1e-12)
    out["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


def test_weights_that_are_alike_leave_the_info_nce_of_the_keys() -> None:
    made, a, b = objective(), loops.random_unit(4, 5, 0), loops.random_unit(4, 5, 1)
    torch.nn.init.zeros_(made.second.weight)
    torch.nn.init.constant_(made.second.bias, -200.0)  # whose sigmoid float32 has not
    plain = torch.nn.functional.cross_entropy(a @ b.T / 0.4, torch.arange(4)).item()
    assert made.float().loss_of(a.float(), b.float()).item() == pytest.approx(plain - 200, abs=1e-4)


def test_it_is_meow_with_another_objective() -> None:
    assert config("method=meow", "objective=adameow").objective == config("method=adameow").objective
    assert config("method=meow", "objective=adameow").student == config("method=adameow").student
