import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.simsiam import SimSiam
from tests.golden import core_view, golden
from tests.objectives import loops


def run(p: tuple[Tensor, Tensor], z: tuple[Tensor, Tensor], stop_gradient: bool = True) -> dict[str, Tensor]:
    student = [{"predictor": a, "projector": b} for a, b in zip(p, z, strict=True)]
    return SimSiam(stop_gradient)(student, None, loops.batch(len(p[0])), loops.CLOCK)  # type: ignore[arg-type]


def test_golden() -> None:
    views = [core_view(v) for v in range(4)]
    value = run((views[0], views[1]), (views[2], views[3]))["loss"].item()
    assert value == pytest.approx(golden("simsiam: loss, predictions Z0 Z1, targets Z2 (view 0) Z3 (view 1)"), abs=1e-7)


def test_equals_the_loop_at_any_length() -> None:
    p0, p1, z0, z1 = (loops.random_unit(5, 4, seed) for seed in range(4))
    out = run((3 * p0, p1), (z0, 0.2 * z1))
    expected = -sum(loops.dot(p0[i], z1[i]) + loops.dot(p1[i], z0[i]) for i in range(5)) / 10
    assert out["loss"].item() == pytest.approx(expected, abs=1e-10)
    spread = [float(z[:, d].var()) ** 0.5 for z in (z0, z1) for d in range(4)]
    assert out["target_std"].item() == pytest.approx(sum(spread) / 8, abs=1e-10)


def test_gradient_reaches_projections_only_without_the_stop() -> None:
    for stop in (True, False):
        p, z = core_view(0).requires_grad_(), core_view(1).requires_grad_()
        run((p, p), (z, z), stop)["loss"].backward()
        assert p.grad is not None and p.grad.abs().sum() > 0.1
        assert (z.grad is None) == stop


def test_bounds_and_invariances() -> None:
    z = loops.random_unit(6, 4, 0)
    assert run((z, z), (z, z))["loss"].item() == pytest.approx(-1, abs=1e-12)
    assert run((z, z), (-z, -z))["loss"].item() == pytest.approx(1, abs=1e-12)
    assert run((z, z), (z[:1].repeat(6, 1),) * 2)["target_std"].item() == pytest.approx(0, abs=1e-12)
    everywhere = torch.cat([torch.eye(4, dtype=torch.float64), -torch.eye(4, dtype=torch.float64)])
    assert run((everywhere,) * 2, (everywhere,) * 2)["target_std"] == pytest.approx(0.5 * math.sqrt(8 / 7), abs=1e-12)
    loops.assert_invariant(lambda a, b: run((a, b), (b, a))["loss"])
