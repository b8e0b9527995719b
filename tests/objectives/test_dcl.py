import math

import pytest
import torch

from ssl_framework.feature_mixers.base import in_batch
from ssl_framework.objectives.dcl import DCL, dclw_weight
from ssl_framework.objectives.infonce import contrast, nt_xent
from tests.golden import core_view, golden
from tests.objectives import loops


def loss(z0: torch.Tensor, z1: torch.Tensor, tau: float = 0.5, sigma: float | None = None) -> torch.Tensor:
    objective = DCL(temperature=tau, weight_sigma=sigma)
    return objective(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)["loss"]


@pytest.mark.parametrize(("name", "sigma"), [("dcl", None), ("dclw", 0.5)])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_golden(name: str, sigma: float | None, tau: float) -> None:
    value = loss(core_view(0), core_view(1), tau, sigma).item()
    assert value == pytest.approx(golden(f"{name}: mean of both directions [tau={tau}]"), abs=1e-7)


def test_golden_one_way() -> None:
    per_anchor = contrast(
        in_batch(core_view(0), core_view(1)), 0.1, positive_in_denominator=False
    ).loss  # Z0, Z1, Z0 ...
    assert per_anchor[0::2].mean().item() == pytest.approx(golden("dcl: one-way loss, anchors Z0"), abs=1e-7)
    assert per_anchor[1::2].mean().item() == pytest.approx(golden("dcl: one-way loss, anchors Z1"), abs=1e-7)


def test_golden_weights() -> None:
    weight = dclw_weight(core_view(0), core_view(1), 0.5)
    assert weight.tolist() == pytest.approx(golden("dclw: weights"), abs=1e-7)
    assert weight.mean().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("sigma", [None, 0.3])
def test_equals_the_loop(sigma: float | None) -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    assert loss(z0, z1, 0.2, sigma).item() == pytest.approx(loops.dcl(z0, z1, 0.2, sigma), abs=1e-10)


def test_the_weight_carries_no_gradient() -> None:
    z0 = loops.random_unit(5, 7, 0).requires_grad_()
    assert not dclw_weight(z0, loops.random_unit(5, 7, 1), 0.5).requires_grad


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_invariances(sigma: float | None) -> None:
    loops.assert_invariant(lambda a, b: loss(a, b, 0.5, sigma))


def test_all_similarities_equal() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert loss(same, same).item() == pytest.approx(math.log(2 * 3), abs=1e-12)


def test_lies_below_nt_xent_by_the_coupling() -> None:
    z0, z1 = core_view(0), core_view(1)
    assert loss(z0, z1, 0.5) < nt_xent(z0, z1, 0.5)


def test_logs_the_multiplier_of_the_coupled_gradient() -> None:
    z0, z1 = core_view(0), core_view(1)
    logged = DCL(0.5, None)(loops.outputs(z0, z1), None, loops.batch(6), loops.CLOCK)["npc_multiplier"]
    expected = 0.0
    for a, b in ((z0, z1), (z1, z0)):
        for i in range(6):
            positive = loops.dot(a[i], b[i]) / 0.5
            others = [loops.dot(a[i], z[j]) / 0.5 for j in range(6) if j != i for z in (a, b)]
            expected += (1 - math.exp(positive) / (math.exp(positive) + sum(map(math.exp, others)))) / 12
    assert logged.item() == pytest.approx(expected, abs=1e-10)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature is -1: it must be above 0"):
        DCL(-1, None)
    with pytest.raises(ValueError, match=r"weight_sigma is 0\.0: it must be above 0, or null"):
        DCL(0.1, 0.0)
