import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.vicreg import VIbCReg, VICReg
from tests.golden import golden, mix_raw
from tests.objectives import loops

PAPER = (25.0, 25.0, 1.0)


def run(z0: Tensor, z1: Tensor, weights: tuple[float, float, float] = PAPER, kind: type = VICReg) -> dict[str, Tensor]:
    return kind(*weights, 1e-4)(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)


def covariance(z: Tensor, i: int, j: int) -> float:
    a, b, n = [float(x) for x in z[:, i]], [float(x) for x in z[:, j]], len(z)
    return sum((x - sum(a) / n) * (y - sum(b) / n) for x, y in zip(a, b, strict=True)) / (n - 1)


def hinge(z: Tensor) -> float:
    d = z.shape[1]
    return sum(max(0.0, 1 - math.sqrt(covariance(z, i, i) + 1e-4)) for i in range(d)) / d


def redundancy(z: Tensor) -> float:
    d = z.shape[1]
    return sum(covariance(z, i, j) ** 2 for i in range(d) for j in range(d) if i != j) / d


def correlation(z: Tensor) -> float:
    d = z.shape[1]
    parts = [
        covariance(z, i, j) ** 2 / (covariance(z, i, i) * covariance(z, j, j))
        for i in range(d)
        for j in range(d)
        if i != j
    ]
    return sum(parts) / d**2


def test_golden() -> None:
    z0, z1 = mix_raw(0), mix_raw(1)
    out = run(z0, z1)
    paper = golden("vicreg: loss, paper (variance halved over the two views, covariance summed)")
    assert out["loss"].item() == pytest.approx(paper, rel=1e-7)
    parts = golden("vicreg: invariance; variance of raw0, raw1; covariance of raw0, raw1")
    assert out["invariance"].item() == pytest.approx(parts[0], abs=1e-7)
    assert out["variance"].item() == pytest.approx((parts[1] + parts[2]) / 2, abs=1e-7)
    assert out["covariance"].item() == pytest.approx(parts[3] + parts[4], abs=1e-7)
    released = golden("vicreg: as released in solo-learn (variance not halved)")
    assert run(z0, z1, (25.0, 50.0, 1.0))["loss"].item() == pytest.approx(released, rel=1e-7)


def test_golden_of_vibcreg() -> None:
    expected = golden("vibcreg: loss (correlation instead of covariance, variance not halved)")
    out = run(mix_raw(0), mix_raw(1), (25.0, 50.0, 200.0), VIbCReg)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("kind", [VICReg, VIbCReg])
def test_equals_the_loop(kind: type) -> None:
    z0, z1 = 3 * loops.random_unit(7, 5, 0) + 1, loops.random_unit(7, 5, 1)
    squares = sum((float(z0[i, d]) - float(z1[i, d])) ** 2 for i in range(7) for d in range(5)) / 35
    term = redundancy if kind is VICReg else correlation
    expected = 2 * squares + 3 * (hinge(z0) + hinge(z1)) / 2 + 5 * (term(z0) + term(z1))
    assert run(z0, z1, (2.0, 3.0, 5.0), kind)["loss"].item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("kind", [VICReg, VIbCReg])
def test_gradient(kind: type) -> None:
    z0, z1 = loops.random_unit(6, 3, 0).requires_grad_(), loops.random_unit(6, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: run(a, b, kind=kind)["loss"], (z0, z1))


def test_closed_cases() -> None:
    white = math.sqrt(3) * torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert run(white, white)["loss"].item() == pytest.approx(0, abs=1e-12)  # wide enough and uncorrelated
    constant = torch.full((4, 3), 7.0, dtype=torch.float64)
    assert run(constant, constant)["loss"].item() == pytest.approx(25 * (1 - 0.01), abs=1e-12)  # sqrt of eps
    twins = white[:, :1].repeat(1, 2)
    assert run(twins, twins)["covariance"].item() == pytest.approx(2 * 16, abs=1e-10)  # variance 4, squared, both views
    assert run(twins, twins, kind=VIbCReg)["covariance"].item() == pytest.approx(2 * 0.5, abs=1e-12)


def test_invariances() -> None:
    z0, z1, order = 2 * loops.random_unit(8, 4, 0), 2 * loops.random_unit(8, 4, 1), torch.randperm(8)
    for kind in (VICReg, VIbCReg):
        expected = run(z0, z1, kind=kind)["loss"]
        torch.testing.assert_close(run(z0[order], z1[order], kind=kind)["loss"], expected)
        torch.testing.assert_close(run(z0.flip(1) + 5, z1.flip(1) + 5, kind=kind)["loss"], expected)
        torch.testing.assert_close(run(z1, z0, kind=kind)["loss"], expected)
    alike = run(3 * z0, 3 * z1, kind=VIbCReg)["covariance"]
    torch.testing.assert_close(alike, run(z0, z1, kind=VIbCReg)["covariance"])


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="variance is -1: it must be at least 0"):
        VICReg(25.0, -1, 1.0, 1e-4)
    with pytest.raises(ValueError, match="eps is 0: it must be above 0"):
        VIbCReg(25.0, 25.0, 1.0, 0)
