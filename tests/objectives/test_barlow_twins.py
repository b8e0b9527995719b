import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.barlow_twins import BarlowTwins, standardised
from tests.golden import core_view
from tests.objectives import loops


def run(z0: Tensor, z1: Tensor, weight: float = 0.0051, scale: float = 1.0) -> dict[str, Tensor]:
    return BarlowTwins(weight, scale)(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)


def columns(z: Tensor) -> list[list[float]]:
    """Standardised with the population's variance plus 1e-5."""
    out = []
    for d in range(z.shape[1]):
        values = [float(x) for x in z[:, d]]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in values) / len(values) + 1e-5)
        out.append([(x - mean) / deviation for x in values])
    return out


def reference(z0: Tensor, z1: Tensor, weight: float, scale: float) -> tuple[float, float, float]:
    a, b, n, d = columns(z0), columns(z1), len(z0), z0.shape[1]
    c = [[sum(x * y for x, y in zip(a[i], b[j], strict=True)) / n for j in range(d)] for i in range(d)]
    invariance = sum((1 - c[i][i]) ** 2 for i in range(d))
    redundancy = sum(c[i][j] ** 2 for i in range(d) for j in range(d) if i != j)
    diagonal = sum(c[i][i] for i in range(d)) / d
    return scale * (invariance + weight * redundancy), diagonal, math.sqrt(redundancy / (d * (d - 1)))


@pytest.mark.parametrize(("weight", "scale"), [(0.0051, 1.0), (0.3, 0.1), (0.0, 1.0)])
def test_equals_the_loop(weight: float, scale: float) -> None:
    z0, z1 = 3 * loops.random_unit(7, 5, 0) + 1, loops.random_unit(7, 5, 1)
    z1 = z1 + 0.5 * z0
    out = run(z0, z1, weight, scale)
    expected = reference(z0, z1, weight, scale)
    for name, value in zip(("loss", "diagonal", "off_diagonal"), expected, strict=True):
        assert out[name].item() == pytest.approx(value, abs=1e-10)


def test_gradient() -> None:
    z0, z1 = core_view(0).requires_grad_(), core_view(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: run(a, b, 0.2)["loss"], (z0, z1))


def test_closed_cases() -> None:
    white = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert run(white, white)["loss"].item() == pytest.approx(0, abs=1e-9)  # up to the 1e-5 in the variance
    assert run(white, -white)["loss"].item() == pytest.approx(2 * 4, abs=1e-3)
    twins = white[:, :1].repeat(1, 2)  # one dimension twice: both entries beside the diagonal are one
    assert run(twins, twins, 0.3)["loss"].item() == pytest.approx(0.3 * 2, abs=1e-4)
    constant = torch.full((4, 3), 7.0, dtype=torch.float64)  # correlates with nothing
    assert run(constant, constant)["loss"].item() == pytest.approx(3, abs=1e-12)


def test_two_samples_and_constant_columns_have_finite_gradients() -> None:
    z = torch.tensor([[1.0, 5.0, 2.0], [2.0, 5.0, 1.0]], requires_grad=True)
    run(z, z.flip(1))["loss"].backward()
    assert z.grad is not None and bool(z.grad.isfinite().all())


def test_invariances() -> None:
    """A permutation of the batch or of the dimensions, and a shift or scale of a dimension, change nothing."""
    z0, z1 = 10 * loops.random_unit(8, 4, 0), 10 * loops.random_unit(8, 4, 1)
    expected = run(z0, z1)["loss"]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(run(z0[order], z1[order])["loss"], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run(z0.flip(1), z1.flip(1))["loss"], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run(3 * z0 + 5, z1 - 2)["loss"], expected, rtol=1e-5, atol=1e-5)


def test_half_precision_is_standardised_in_float32() -> None:
    assert standardised(torch.randn(8, 3).to(torch.bfloat16)).dtype == torch.float32


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="off_diagonal_weight is -1: it must be at least 0"):
        BarlowTwins(-1, 1.0)
    with pytest.raises(ValueError, match="scale is 0: it must be above 0"):
        BarlowTwins(0.0051, 0)
