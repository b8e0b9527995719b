"""LARS against its formula written as a loop, schedules against closed forms, and who gets weight decay."""

import math

import pytest
import timm.optim
import torch
from torch import nn

from ssl_framework.build import build
from ssl_framework.optim import LARS, OptimizerRecipe, parameter_groups, warmup_cosine
from ssl_framework.types import Clock, step_seed
from tests.small_runs import config


def test_lars_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0, "adapt": False}]
    optimizer = LARS(groups, lr=0.3, momentum=0.9, weight_decay=0.01, trust=0.001)
    expected = {"weight": weight.detach().clone(), "bias": bias.detach().clone()}
    velocity = {"weight": torch.zeros(3, 4, dtype=torch.float64), "bias": torch.zeros(3, dtype=torch.float64)}
    for _ in range(4):
        for p in (weight, bias):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        update = weight.grad + 0.01 * expected["weight"]  # type: ignore[operator]
        update = update * 0.001 * expected["weight"].norm() / update.norm()
        velocity["weight"] = 0.9 * velocity["weight"] + update
        velocity["bias"] = 0.9 * velocity["bias"] + bias.grad  # type: ignore[operator]
        for name in expected:
            expected[name] = expected[name] - 0.3 * velocity[name]
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected["weight"])
        torch.testing.assert_close(bias.detach(), expected["bias"])


def test_a_clipped_rate_is_the_smaller_of_the_adapted_and_the_own() -> None:
    for trust, rate in ((0.02, 0.02 * 5 / 10), (0.5, 0.1)):  # |weight| is 5, |gradient| 10
        weight = torch.tensor([[3.0, 4.0]], requires_grad=True)
        weight.grad = torch.tensor([[6.0, -8.0]])
        LARS([weight], lr=0.1, momentum=0.0, trust=trust, clip_rate=True).step()
        torch.testing.assert_close(weight.detach(), torch.tensor([[3.0 - 6 * rate, 4.0 + 8 * rate]]))


@pytest.mark.parametrize("clip_rate", [False, True])
def test_lars_of_many_parameters_equals_one_after_another(clip_rate: bool) -> None:
    """Of every shape at once, zero weights and zero gradients among them, over steps in float32."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, 3, 3, 3), (5, 4), (2, 2), (2, 2)]
    params = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    params[2].data.zero_(), params[3].data.zero_()
    expected, speed = [p.detach().clone() for p in params], [torch.zeros_like(p) for p in params]
    optimizer = LARS(params, lr=0.2, momentum=0.9, weight_decay=0.01, trust=0.3, clip_rate=clip_rate)
    for _ in range(5):
        for i, p in enumerate(params):
            p.grad = torch.randn(shapes[i], generator=generator) if i != 3 else torch.zeros(shapes[i])
            update = p.grad + 0.01 * expected[i]
            rate = 1.0
            if expected[i].norm() > 0 and update.norm() > 0:
                rate = float(0.3 * expected[i].norm() / update.norm())
                rate = min(rate / 0.2, 1.0) if clip_rate else rate
            speed[i] = 0.9 * speed[i] + rate * update
            expected[i] = expected[i] - 0.2 * speed[i]
        optimizer.step()
        for p, wanted in zip(params, expected, strict=True):
            torch.testing.assert_close(p.detach(), wanted, rtol=1e-6, atol=1e-6)


def test_lars_leaves_the_rate_of_a_zero_weight() -> None:
    weight = torch.zeros(2, 2, requires_grad=True)
    weight.grad = torch.ones(2, 2)
    LARS([weight], lr=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.5))


def test_biases_and_norms_are_excluded() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    net[3].requires_grad_(False)
    decayed, free = parameter_groups(net, 0.1, exclude_bias_and_norm=True)
    assert [p.shape for p in decayed["params"]] == [(4, 3, 3, 3)] and decayed["weight_decay"] == 0.1
    assert [p.shape for p in free["params"]] == [(4,), (4,), (4,)] and free["weight_decay"] == 0.0
    assert len(parameter_groups(net, 0.1, exclude_bias_and_norm=False)[0]["params"]) == 4


def test_the_rate_scales_with_the_global_batch_and_follows_the_schedule() -> None:
    recipe = OptimizerRecipe(torch.optim.SGD, lr_per_256=0.1, weight_decay=0.0, exclude_bias_and_norm=False, warmup=0.1)
    optimizer, schedule = recipe.build(nn.Linear(2, 2), global_batch=1024, total_steps=100)
    seen = []
    for _ in range(100):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen[0] == pytest.approx(0.4 / 10) and seen[9] == seen[10] == pytest.approx(0.4)
    assert seen[55] == pytest.approx(0.4 * (1 + math.cos(math.pi / 2)) / 2)
    assert seen[99] == pytest.approx(0.4 * (1 + math.cos(math.pi * 89 / 90)) / 2)


def test_warmup_longer_than_nothing_and_steps_beyond_the_end() -> None:
    assert warmup_cosine(0, 10, 0.0) == 1.0
    assert warmup_cosine(10, 10, 0.0) == warmup_cosine(25, 10, 0.5) == 0.0


def test_step_seeds_differ_for_step_rank_and_seed_and_repeat() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(8) for step in range(64) for rank in range(-1, 4)}
    assert len(seeds) == 8 * 64 * 5 and all(0 <= s < 2**63 for s in seeds)
    a = torch.rand(3, generator=Clock(5, 0, 9, seed=1).generator())
    assert torch.equal(a, torch.rand(3, generator=Clock(5, 7, 99, seed=1).generator()))
    assert not torch.equal(a, torch.rand(3, generator=Clock(6, 0, 9, seed=1).generator()))


def test_the_weight_decay_follows_half_a_cosine_to_its_end_and_none_stays_none() -> None:
    """DINO's schedule as a loop; a run that is resumed with more steps goes along the curve of all of them."""
    recipe = OptimizerRecipe(torch.optim.SGD, 0.1, 0.04, exclude_bias_and_norm=True, warmup=0.2, final_weight_decay=0.4)
    net = nn.Linear(3, 2)
    optimizer, schedule = recipe.build(net, global_batch=256, total_steps=10)
    for step in range(11):
        decayed, free = optimizer.param_groups
        expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * step / 10))
        assert decayed["weight_decay"] == pytest.approx(expected, abs=1e-12) and free["weight_decay"] == 0.0
        assert decayed["lr"] == pytest.approx(0.1 * warmup_cosine(step, 10, 0.2))
        optimizer.step()
        schedule.step()
    longer, again = recipe.build(net, global_batch=256, total_steps=40)
    longer.load_state_dict(optimizer.state_dict())
    again.load_state_dict(schedule.state_dict())
    longer.step()
    again.step()
    assert longer.param_groups[0]["weight_decay"] == pytest.approx(0.22 - 0.18 * math.cos(math.pi * 12 / 40))


@pytest.mark.skipif(not hasattr(timm.optim, "Muon"), reason="timm before 1.0.21")
def test_muon_turns_matrices_and_leaves_the_rest_to_adamw() -> None:
    """The update of a matrix has nearly equal singular values, 0.2 sqrt(longer side) of the rate (arXiv:2502.16982,
    eq. 4); a convolution is the matrix of its filters; biases take NAdamW's step."""
    cfg = config("method=simclr", "optimizer=muon", "optimizer.warmup=0", "optimizer.weight_decay=0")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 6))
    optimizer, _ = build(cfg.optimizer).build(net, 256, 10)
    assert isinstance(optimizer, timm.optim.Muon)
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    changes = [(old - p.detach()) / cfg.optimizer.lr_per_256 for old, p in zip(before, net.parameters(), strict=True)]
    for change, longest in ((changes[0].flatten(1), 36), (changes[2], 32)):
        values = torch.linalg.svdvals(change) / (0.2 * math.sqrt(longest))
        assert values.min() > 0.6 and values.max() < 1.3  # of Newton-Schulz with Jordan's coefficients
    for change, p in ((changes[1], net[0].bias), (changes[3], net[2].bias)):  # as Adam's first step: by the sign
        assert p.grad is not None
        torch.testing.assert_close(change / change.abs().mean(), p.grad.sign(), rtol=1e-3, atol=1e-3)


def test_the_last_step_has_the_rate_before_zero() -> None:
    """As the code of SimCLR, BYOL, SwAV and DINO: step t of T has the cosine of t / T, which never comes to 1."""
    rates = [warmup_cosine(step, 10, 0.2) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5, abs=1e-15)
    assert rates[9] == pytest.approx((1 - math.cos(math.pi / 8)) / 2, abs=1e-15)
