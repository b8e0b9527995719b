"""MECO: the golden values, a loop, and a Gaussian whose mean is found."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from ssl_framework.objectives.meco import MECO, likelihood, moved
from tests.golden import golden, mix_raw
from tests.objectives import loops


def test_golden() -> None:
    noise = mix_raw(1)[:, 0].requires_grad_()
    log_weight = -noise - (-1.5 + 0.1 * mix_raw(2)[:, 0])
    log_u = moved(torch.zeros(()), log_weight.detach(), 0.5)
    name = "meco: partition estimate after one step from 1, gamma .5"
    assert log_u.exp().item() == pytest.approx(golden(name), abs=1e-7)
    value = likelihood(mix_raw(0)[:, 0], -log_weight, log_u)
    value.backward()
    assert noise.grad is not None
    expected = golden("meco: logged value mean(E_data) + log u; derivative by each noise energy")
    assert [value.item(), *noise.grad.tolist()] == pytest.approx(expected, abs=1e-7)


def test_three_steps_equal_the_loop() -> None:
    objective, u = MECO(0.3).double(), 1.0
    for step in range(3):
        data, noise = mix_raw(step)[:, :1].requires_grad_(), 3 * mix_raw(step)[:, 1:2].detach()
        noise.requires_grad_()
        w = [math.exp(-f) for f in noise[:, 0].tolist()]
        u = 0.7 * u + 0.3 * sum(w) / 6
        out = objective(loops.outputs(data, noise, head="energy"), None, loops.batch(6), loops.CLOCK)
        out["loss"].backward()
        assert out["loss"].item() == pytest.approx(sum(data[:, 0].tolist()) / 6 + math.log(u), abs=1e-10)
        assert data.grad is not None and noise.grad is not None
        assert data.grad[:, 0].tolist() == pytest.approx([1 / 6] * 6)
        assert noise.grad[:, 0].tolist() == pytest.approx([-each / u / 6 for each in w], abs=1e-10)
        assert objective.log_u.item() == pytest.approx(math.log(u), abs=1e-10)


def test_the_mean_of_a_gaussian_is_found() -> None:
    """Noise N(0, 2^2), data N(1, 1): f(x) = (x - theta)^2 / 2 - x^2 / 8, up to a constant."""
    torch.manual_seed(0)
    theta, objective = torch.zeros((), requires_grad=True), MECO(0.2)
    for _ in range(300):
        x = torch.stack([1 + torch.randn(64, 1), 2 * torch.randn(64, 1)])  # [2, 64, 1]
        f = (x - theta).square() / 2 - x.square() / 8
        loss = objective(loops.outputs(*f, head="energy"), None, loops.batch(64), loops.CLOCK)["loss"]
        (gradient,) = torch.autograd.grad(loss, theta)
        theta = (theta - 0.05 * gradient).detach().requires_grad_()
    assert theta.item() == pytest.approx(1, abs=0.15)
    assert objective.log_u.exp().item() == pytest.approx(math.sqrt(2 * math.pi) / (2 * math.sqrt(2 * math.pi)), abs=0.1)


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_the_mean_is_found_in_fewer_steps_than_by_noise_contrastive_estimation(rate: float) -> None:
    """The paper's claim, in one dimension: data N(4, 1), noise N(0, 4^2), the same samples and steps. NCE learns the
    logarithm of Z beside the mean."""

    def steps(with_meco: bool) -> int:
        torch.manual_seed(0)
        theta, log_z = (torch.zeros((), requires_grad=True) for _ in range(2))
        objective, solver = MECO(0.2), torch.optim.SGD([theta, log_z], rate)
        for step in range(1, 100):
            x = torch.stack([4 + torch.randn(64, 1), 4 * torch.randn(64, 1)])  # [2, 64, 1]
            f = (x - theta).square() / 2 - x.square() / 32
            if with_meco:
                loss = objective(loops.outputs(*f, head="energy"), None, loops.batch(64), loops.CLOCK)["loss"]
            else:
                loss = softplus(f[0] + log_z).mean() + softplus(-f[1] - log_z).mean()
            solver.zero_grad()
            loss.backward()
            solver.step()
            if abs(theta.item() - 4) < 0.2:
                return step
        raise AssertionError("not found")

    assert 1.5 * steps(True) < steps(False)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma is 0: it must be above 0 and at most 1"):
        MECO(0)
