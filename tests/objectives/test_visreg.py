from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.lejepa import directions
from ssl_framework.objectives.visreg import VISReg, regularisers
from ssl_framework.types import Clock
from tests.golden import golden, mix_raw
from tests.objectives import loops
from tests.objectives.test_lejepa import squares

CLOCK = Clock(0, 0, 10)


def run(*views: Tensor, lam: float = 0.6) -> dict[str, Tensor]:
    return VISReg(lam, 2, 3)(loops.outputs(*views), None, loops.batch(len(views[0])), CLOCK)


def moments(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, (sum((x - mean) ** 2 for x in values) / len(values)) ** 0.5


def test_golden() -> None:
    z = torch.stack([mix_raw(s) for s in range(4)])
    terms = regularisers(z, torch.eye(8, dtype=torch.float64))
    expected = golden("visreg: centre term; scale term of raw0..raw3")
    assert terms["centre"].item() == pytest.approx(expected[0], abs=1e-7)
    assert terms["scale"].item() == pytest.approx(expected[1], abs=1e-7)


def test_equals_the_loop() -> None:
    views = [2 * loops.random_unit(6, 4, seed) + 0.3 for seed in range(3)]
    along, quantile = directions(3, views[0], CLOCK), [NormalDist().inv_cdf(i / 7) for i in range(1, 7)]
    centre = scale = shape = 0.0
    for z in views:
        found = [moments([float(x) for x in z[:, j]]) for j in range(4)]
        centre += sum(mean**2 for mean, _ in found) / 12
        scale += sum((1 - deviation) ** 2 for _, deviation in found) / 12
        rows = [[(float(z[i, j]) - found[j][0]) / found[j][1] for j in range(4)] for i in range(6)]
        for a in along:
            ordered = sorted(sum(x * float(y) for x, y in zip(row, a, strict=True)) for row in rows)
            shape += sum((x - y) ** 2 for x, y in zip(ordered, quantile, strict=True)) / (6 * 9)
    out = run(*views)
    for name, value in {"centre": centre, "scale": scale, "shape": shape, "prediction": squares(views, 2)}.items():
        assert out[name].item() == pytest.approx(value, abs=1e-9), name
    expected = 0.6 * (centre + scale + shape) + 0.4 * squares(views, 2)
    assert out["loss"].item() == pytest.approx(expected, abs=1e-9)


def test_the_shape_does_not_pull_at_the_scale() -> None:
    """The deviation is a constant there: along the embedding itself the gradient is that of a fixed divisor."""
    z = loops.random_unit(8, 3, 0)
    z = ((z - z.mean(dim=0)) / z.std(dim=0, correction=0)).requires_grad_()
    shape = regularisers(z[None], torch.eye(3, dtype=torch.float64))["shape"]
    (gradient,) = torch.autograd.grad(shape, z)
    quantile = torch.special.ndtri(torch.arange(1, 9, dtype=torch.float64) / 9)
    aim = torch.empty_like(z).scatter_(0, z.detach().argsort(dim=0), quantile[:, None].expand(-1, 3))
    torch.testing.assert_close(gradient, 2 * (z.detach() - aim) / 24)


def test_invariances_and_refusal() -> None:
    z0, z1 = loops.random_unit(6, 4, 0), loops.random_unit(6, 4, 1)
    expected = run(z0, z1)
    torch.testing.assert_close(run(z0.flip(0), z1.flip(0))["loss"], expected["loss"])
    torch.testing.assert_close(run(3 * z0 + 1, z1)["shape"], expected["shape"])
    with pytest.raises(ValueError, match=r"objective\.num_global is 2, but the student encodes only 1 views"):
        run(z0)
