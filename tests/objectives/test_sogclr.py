import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_framework import functional
from ssl_framework.objectives.dcl import DCL
from ssl_framework.objectives.sogclr import ISogCLR, SogCLR
from ssl_framework.types import Batch
from tests.golden import core_view, golden
from tests.objectives import loops

LIBRARY: dict[str, Any] = dict(max_temperature=0.7, gamma=0.9, rho=0.3, eta=0.01, beta=0.9)
AUTHORS: dict[str, Any] = dict(max_temperature=1.0, gamma=0.8, rho=0.4, eta=0.03, beta=0.5)
NAMES = {
    "library": "[gamma=0.9, rho=0.3, eta=0.01, beta=0.9, tau_max=0.7]",
    "authors": "[gamma=0.8, rho=0.4, eta=0.03, beta=0.5, tau_max=1.0]",
}


def sogclr(num_samples: int, tau: float = 0.1, gamma: float = 0.9) -> SogCLR:
    objective = SogCLR(tau, gamma)
    objective.allocate(num_samples)
    return objective.double()


def isogclr(num_samples: int, **options: Any) -> ISogCLR:
    objective = ISogCLR(temperature=0.1, min_temperature=0.05, **options)
    objective.allocate(num_samples)
    objective.double().bank.get_buffer("tau").fill_(0.1)  # not the float32 number nearest to it
    return objective


def step(objective: SogCLR | ISogCLR, z0: Tensor, z1: Tensor, index: list[int] | None = None) -> dict[str, Tensor]:
    where = torch.arange(len(z0)) if index is None else torch.tensor(index)
    return objective(loops.outputs(z0, z1), None, Batch(views=[], index=where), loops.CLOCK)


def test_golden_sogclr_in_two_steps() -> None:
    objective = sogclr(6)
    z0 = core_view(0).requires_grad_()
    loss = step(objective, z0, core_view(1))["loss"]
    loss.backward()
    assert z0.grad is not None
    assert loss.item() == pytest.approx(golden("sogclr: step 0 loss, views Z0 Z1"), abs=1e-7)
    gradient = golden("sogclr: gradient of the step 0 loss w.r.t. Z_0[0], through the normalisation")
    assert z0.grad[0].tolist() == pytest.approx(gradient, abs=1e-7)
    u = objective.bank.column("log_u").exp().tolist()
    assert u == pytest.approx(golden("sogclr: u after step 0"), abs=1e-7)
    loss = step(objective, core_view(2), core_view(3))["loss"]
    assert loss.item() == pytest.approx(golden("sogclr: step 1 loss, views Z2 Z3"), abs=1e-7)
    u = objective.bank.column("log_u").exp().tolist()
    assert u == pytest.approx(golden("sogclr: u after step 1"), abs=1e-7)


@pytest.mark.parametrize(("which", "options"), [("library", LIBRARY), ("authors", AUTHORS)])
def test_golden_isogclr_in_two_steps(which: str, options: dict[str, Any]) -> None:
    objective = isogclr(6, **options)
    loss = step(objective, core_view(0), core_view(1))["loss"].item()
    assert loss == pytest.approx(golden(f"isogclr: step 0 loss, views Z0 Z1 {NAMES[which]}"), abs=1e-7)
    tau = objective.bank.column("tau").tolist()
    assert tau == pytest.approx(golden(f"isogclr: tau after step 0 {NAMES[which]}"), abs=1e-7)
    loss = step(objective, core_view(2), core_view(3))["loss"].item()
    assert loss == pytest.approx(golden(f"isogclr: step 1 loss, views Z2 Z3 {NAMES[which]}"), abs=1e-7)


class Loop:
    """The algorithm sample by sample, view by view."""

    def __init__(self, tau: float, gamma: float, options: dict[str, Any] | None = None) -> None:
        self.start, self.gamma, self.options = tau, gamma, options
        self.u: dict[int, float] = {}
        self.tau: dict[int, float] = {}
        self.momentum: dict[int, float] = {}

    def step(self, views: list[Tensor], index: list[int]) -> tuple[float, float]:
        """The surrogate and the global contrastive loss."""
        n, loss, gcl, fresh = len(index), 0.0, 0.0, {}
        for i, sample in enumerate(index):
            tau, gradient, new = self.tau.get(sample, self.start), [], []
            attraction = loops.dot(views[0][i], views[1][i])
            for a in range(2):
                s = [loops.dot(views[a][i], views[b][j]) for b in range(2) for j in range(n) if j != i]
                g = sum(math.exp(x / tau) for x in s) / len(s)
                u = g if sample not in self.u else (1 - self.gamma) * self.u[sample] + self.gamma * g
                repulsion = sum(math.exp(x / tau) / u * x for x in s) / len(s)
                loss += (repulsion - attraction) / n
                gcl += (tau * math.log(u) - attraction) / (2 * n)
                new.append(u)
                if self.options is not None:
                    gradient.append(math.log(u) + self.options["rho"] - repulsion / tau)
            fresh[sample] = sum(new) / 2
            if self.options is not None:
                beta, bounds = self.options["beta"], (0.05, self.options["max_temperature"])
                m = (1 - beta) * self.momentum.get(sample, 0.0) + beta * sum(gradient) / 2
                self.momentum[sample] = m
                self.tau[sample] = min(max(tau - self.options["eta"] * m, bounds[0]), bounds[1])
        self.u |= fresh
        return loss, gcl


@pytest.mark.parametrize("tile", [2**24, 12])
@pytest.mark.parametrize("learnt", [False, True])
def test_equals_the_loop_where_new_samples_come_among_old_ones(
    learnt: bool, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps, the second with two old and two new samples; in tiles of one anchor as well."""
    monkeypatch.setattr(functional, "TILE", tile)
    options = {**AUTHORS, "eta": 0.2, "max_temperature": 0.25}  # both bounds are met
    objective = isogclr(9, **options) if learnt else sogclr(9, gamma=0.8)
    loop = Loop(0.1, 0.8, options if learnt else None)
    for number, index in enumerate(([8, 1, 4, 2], [4, 0, 1, 7], [8, 0, 1, 2])):
        views = [loops.random_unit(4, 5, 10 * number + v) for v in range(2)]
        out = step(objective, *views, index)
        loss, gcl = loop.step(views, index)
        assert out["loss"].item() == pytest.approx(loss, abs=1e-10)
        assert out["gcl"].item() == pytest.approx(gcl, abs=1e-10)
    bank = objective.bank
    assert bank.visited.nonzero().flatten().tolist() == sorted(loop.u)
    for sample, u in loop.u.items():
        assert bank.column("log_u")[sample].item() == pytest.approx(math.log(u), abs=1e-10)
    for sample, tau in loop.tau.items():
        assert bank.column("tau")[sample].item() == pytest.approx(tau, abs=1e-10)
    if learnt:
        assert min(loop.tau.values()) == 0.05 and max(loop.tau.values()) == 0.25
        last = [loop.tau[sample] for sample in (8, 0, 1, 2)]  # of the batch
        expected = {"tau_min": min(last), "tau_mean": sum(last) / 4, "tau_max": max(last)}
        assert {key: out[key].item() for key in expected} == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("tile", [2**24, 12])
def test_the_gradient_weighs_every_negative_by_its_share_of_u(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """d loss / d s is p / count for a negative, -1 for the positive: reaches anchors and candidates."""
    monkeypatch.setattr(functional, "TILE", tile)
    raw = [torch.randn(4, 5, generator=torch.Generator().manual_seed(v), dtype=torch.float64) for v in range(2)]
    objective = sogclr(4)
    step(objective, loops.random_unit(4, 5, 5), loops.random_unit(4, 5, 6))
    u_before = objective.bank.column("log_u").exp()
    views = [x.clone().requires_grad_() for x in raw]
    step(objective, *views)["loss"].backward()
    direct = [x.clone().requires_grad_() for x in raw]
    z = [x / x.norm(dim=1, keepdim=True) for x in direct]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(4):
        for a in range(2):
            s = torch.stack([z[a][i] @ z[b][j] for b in range(2) for j in range(4) if j != i])
            g = torch.exp(s.detach() / 0.1)
            total += (g / (0.1 * u_before[i] + 0.9 * g.mean()) * s).mean() - z[a][i] @ z[1 - a][i]
    (total / 4).backward()
    for got, expected in zip(views, direct, strict=True):
        assert got.grad is not None and expected.grad is not None
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-9, atol=1e-12)


def test_with_gamma_one_the_gradient_is_that_of_the_decoupled_loss() -> None:
    """Without a moving average it is DCL times tau, summed over both views instead of averaged."""
    views = [loops.random_unit(5, 4, v).requires_grad_() for v in range(2)]
    step(sogclr(5, 0.3, 1.0), *views)["loss"].backward()
    again = [loops.random_unit(5, 4, v).requires_grad_() for v in range(2)]
    (0.6 * DCL(0.3, None)(loops.outputs(*again), None, loops.batch(5), loops.CLOCK)["loss"]).backward()
    for got, expected in zip(views, again, strict=True):
        assert got.grad is not None and expected.grad is not None
        torch.testing.assert_close(got.grad, expected.grad)


@pytest.mark.parametrize("build", [lambda: sogclr(6), lambda: isogclr(6, **AUTHORS)])
def test_invariances(build: Any) -> None:
    """On first visits; the indices stay with their rows because every sample starts alike."""
    loops.assert_invariant(lambda a, b: step(build(), a, b)["loss"])


def test_all_similarities_equal() -> None:
    """u is exp(1 / tau), every weight is one: the surrogate is 0 for each view, and so is the global loss."""
    same = torch.ones(4, 3, dtype=torch.float64)
    out = step(sogclr(4), same, same)
    assert out["loss"].item() == pytest.approx(0, abs=1e-12) and out["gcl"].item() == pytest.approx(0, abs=1e-12)


def test_small_temperatures_do_not_overflow_in_float32() -> None:
    objective = SogCLR(0.005, 0.9)
    objective.allocate(4)
    z = torch.ones(4, 3, requires_grad=True)
    for _ in range(2):
        out = step(objective, z, z)
    out["loss"].backward()
    assert out["loss"].item() == pytest.approx(0, abs=1e-4)
    assert z.grad is not None and bool(z.grad.isfinite().all())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
        SogCLR(0, 0.9)
    with pytest.raises(ValueError, match="gamma is 0: it must be above 0 and at most 1"):
        SogCLR(0.1, 0)
    good = {"temperature": 0.1, "min_temperature": 0.05, **LIBRARY}
    with pytest.raises(ValueError, match=r"gamma is 1\.5: it must be above 0 and at most 1"):
        ISogCLR(**{**good, "gamma": 1.5})
    with pytest.raises(ValueError, match="beta is -1: it must be above 0 and at most 1"):
        ISogCLR(**{**good, "beta": -1})
    with pytest.raises(ValueError, match="min_temperature is 0: it must be above 0"):
        ISogCLR(**{**good, "min_temperature": 0})
    with pytest.raises(ValueError, match=r"objective\.temperature is 0\.8: it must lie between .*=0\.05 and .*=0\.7$"):
        ISogCLR(**{**good, "temperature": 0.8})
