import math

import pytest
import torch

from ssl_framework.functional import nce
from ssl_framework.objectives.simclr import SimCLR
from tests.golden import core_view, golden
from tests.objectives import loops


def loss(z0: torch.Tensor, z1: torch.Tensor, tau: float = 0.5) -> torch.Tensor:
    return SimCLR(temperature=tau)(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)["loss"]


@pytest.mark.parametrize("tau", [0.5, 0.1])
def test_golden(tau: float) -> None:
    value = loss(core_view(0), core_view(1), tau).item()
    assert value == pytest.approx(golden(f"ntxent: loss [tau={tau}]"), abs=1e-7)


def test_one_way_golden() -> None:
    value = nce(core_view(0), core_view(1), torch.arange(6), 0.3).mean().item()
    assert value == pytest.approx(golden("infonce: one-way loss, anchors Z0, candidates Z1"), abs=1e-7)


def test_equals_the_loop() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    assert loss(z0, z1, 0.2).item() == pytest.approx(loops.nt_xent(z0, z1, 0.2), abs=1e-10)


def test_normalises_itself_exactly_once() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    torch.testing.assert_close(loss(3 * z0, 0.1 * z1), loss(z0, z1))


def test_invariances() -> None:
    loops.assert_invariant(loss)


def test_all_similarities_equal_gives_log_of_the_number_of_logits() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert loss(same, same).item() == pytest.approx(math.log(2 * 4 - 1), abs=1e-12)


def test_aligned_pairs_at_small_temperature_give_zero() -> None:
    z = torch.eye(4, dtype=torch.float64)
    assert loss(z, z, 0.02).item() == pytest.approx(0, abs=1e-12)


def test_batch_of_two_and_duplicated_rows_are_finite_numbers_of_the_formula() -> None:
    z = loops.random_unit(1, 3, 0).repeat(2, 1)
    assert loss(z, z, 0.07).item() == pytest.approx(math.log(3), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_stay_near_the_float64_value(dtype: torch.dtype) -> None:
    z0, z1 = core_view(0), core_view(1)
    assert loss(z0.to(dtype), z1.to(dtype), 0.1).item() == pytest.approx(loss(z0, z1, 0.1).item(), rel=0.05)


def test_zero_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
        SimCLR(temperature=0)


def test_soft_targets_excluded_columns_and_row_temperatures_equal_a_loop() -> None:
    q, k = loops.random_unit(3, 5, 0), loops.random_unit(4, 5, 1)
    targets = torch.rand(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    targets = targets / targets.sum(dim=1, keepdim=True)
    tau = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    exclude = torch.zeros(3, 4, dtype=torch.bool)
    exclude[1, 2] = True
    got = nce(q, k, targets, tau, exclude=exclude)
    for i in range(3):
        s = [loops.dot(q[i], k[j]) / float(tau[i]) for j in range(4)]
        allowed = [s[j] for j in range(4) if not exclude[i, j]]
        expected = loops.log_sum_exp(allowed) - sum(float(targets[i, j]) * s[j] for j in range(4))
        assert got[i].item() == pytest.approx(expected, abs=1e-10)
