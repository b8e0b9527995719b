"""Balanced MSE: the golden value, the loop over views, and numbers that occur twice."""

import math

import pytest
import torch

from ssl_framework.objectives.balanced_mse import BalancedMSE, balanced_mse
from tests.golden import golden, mix_raw
from tests.objectives import loops

NAME = "balanced_mse: batch Monte-Carlo form, sigma^2 .25 (intended: N x N logits, target i)"


def test_golden() -> None:
    loss = balanced_mse(mix_raw(0)[:, 0], mix_raw(1)[:, 0], torch.tensor(0.25, dtype=torch.float64))
    assert loss.item() == pytest.approx(golden(NAME), abs=1e-7)


def test_the_mean_over_views_equals_the_loop_and_the_noise_is_learnt() -> None:
    label = [0.0, 1.5, 1.5, -2.0]
    views = [mix_raw(v, 4, 1) for v in range(2)]
    total = 0.0
    for view in views:
        for i in range(4):
            each = [-((float(view[i]) - y) ** 2) / (2 * 0.5) for y in label]
            total += loops.log_sum_exp(each) - each[i]
    made = BalancedMSE(0.5).double()
    target = torch.tensor(label, dtype=torch.float64)
    out = made(loops.outputs(*views, head="regressor"), None, loops.batch(4, target), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(total / 8, abs=1e-7)
    assert out["noise_variance"].item() == pytest.approx(0.5) and made.log_variance.item() == pytest.approx(
        math.log(0.5)
    )
    out["loss"].backward()
    assert made.log_variance.grad is not None and made.log_variance.grad != 0
