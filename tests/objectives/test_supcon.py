import math

import pytest
import torch

from ssl_framework.objectives.infonce import nt_xent
from ssl_framework.objectives.supcon import SupCon, supcon
from tests.golden import core_view, golden
from tests.objectives import loops

LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


def loss(z0: torch.Tensor, z1: torch.Tensor, label: torch.Tensor, tau: float, base: float) -> torch.Tensor:
    objective = SupCon(temperature=tau, base_temperature=base)
    return objective(loops.outputs(z0, z1), None, loops.batch(len(z0), label), loops.CLOCK)["loss"]


@pytest.mark.parametrize("base", [0.1, 0.07])
def test_golden(base: float) -> None:
    expected = golden(f"supcon: loss, labels [0,0,0,0,1,1] [base_tau={base}]")
    assert loss(core_view(0), core_view(1), LABELS, 0.1, base).item() == pytest.approx(expected, abs=1e-6)


def test_golden_every_sample_its_own_class_is_nt_xent() -> None:
    value = loss(core_view(0), core_view(1), torch.arange(6), 0.5, 0.5)
    assert value.item() == pytest.approx(golden("supcon: loss without labels (equals NT-Xent)"), abs=1e-7)
    torch.testing.assert_close(value, nt_xent(core_view(0), core_view(1), 0.5))


def test_equals_the_loop() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    label = torch.tensor([2, 0, 2, 2, 1])
    expected = loops.supcon(torch.cat([z0, z1]), label.repeat(2).tolist(), 0.2)
    assert loss(z0, z1, label, 0.2, 0.2).item() == pytest.approx(expected, abs=1e-10)


def test_one_view_leaves_out_anchors_without_a_positive() -> None:
    z = loops.random_unit(5, 7, 0)
    label = torch.tensor([0, 0, 1, 2, 2])  # row 2 has no positive
    assert supcon(z, label, 0.3).item() == pytest.approx(loops.supcon(z, label.tolist(), 0.3), abs=1e-10)


def test_no_positive_at_all_is_zero_not_nan() -> None:
    z = loops.random_unit(3, 7, 0).requires_grad_()
    value = supcon(z, torch.arange(3), 0.3)
    value.backward()
    assert value.item() == 0
    assert z.grad is not None and z.grad.abs().max() == 0


def test_invariances() -> None:
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))  # the permutation of loops.assert_invariant

    def permuted_alike(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        moved = torch.equal(a, loops.random_unit(6, 4, 1)[order])
        return loss(a, b, LABELS[order] if moved else LABELS, 0.5, 0.5)

    loops.assert_invariant(permuted_alike)


def test_all_similarities_equal_gives_log_of_the_number_of_logits() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert loss(same, same, torch.tensor([0, 0, 1, 1]), 0.5, 0.5).item() == pytest.approx(math.log(7), abs=1e-12)
