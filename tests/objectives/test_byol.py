import pytest
import torch

from ssl_framework.objectives.byol import BYOL
from tests.golden import core_view, golden
from tests.objectives import loops


def loss(p0: torch.Tensor, p1: torch.Tensor, k0: torch.Tensor, k1: torch.Tensor) -> torch.Tensor:
    student, teacher = loops.outputs(p0, p1, head="predictor"), loops.outputs(k0, k1)
    return BYOL()(student, teacher, loops.batch(len(p0)), loops.CLOCK)["loss"]


def test_golden_through_alignment() -> None:
    """2 - 2 cos of unit vectors is their squared distance, so the golden value of alignment is one direction's."""
    z0, z1 = core_view(0), core_view(1)
    expected = 2 * golden("alignment: mean squared distance Z0, Z1")
    assert loss(z0, z1, z0, z1).item() == pytest.approx(expected, abs=2e-7)


def test_each_prediction_meets_the_other_view() -> None:
    z0, z1 = loops.random_unit(5, 4, 0), loops.random_unit(5, 4, 1)
    p0, p1 = loops.random_unit(5, 4, 2), loops.random_unit(5, 4, 3)
    expected = sum(4 - 2 * loops.dot(p0[i], z1[i]) - 2 * loops.dot(p1[i], z0[i]) for i in range(5)) / 5
    assert loss(p0, p1, z0, z1).item() == pytest.approx(expected, abs=1e-10)


def test_bounds() -> None:
    z = loops.random_unit(5, 4, 0)
    assert loss(z, z, z, z).item() == pytest.approx(0, abs=1e-12)
    assert loss(z, z, -z, -z).item() == pytest.approx(8, abs=1e-12)


def test_scale_of_the_inputs_does_not_matter() -> None:
    z0, z1 = loops.random_unit(5, 4, 0), loops.random_unit(5, 4, 1)
    torch.testing.assert_close(loss(z0, z1, z0, z1), loss(5 * z0, z1, 0.1 * z0, 7 * z1))


def test_invariances() -> None:
    loops.assert_invariant(lambda a, b: loss(a, b, b, a))
