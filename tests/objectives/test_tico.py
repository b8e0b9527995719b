import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.tico import TiCo
from tests.golden import core_view, golden
from tests.objectives import loops


def objective(rho: float = 8.0, beta: float = 0.9, dim: int = 4) -> TiCo:
    return TiCo(rho, beta, dim).double()


def run(tico: TiCo, z: tuple[Tensor, Tensor], k: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return tico(loops.outputs(*z), loops.outputs(*k), loops.batch(len(z[0])), loops.CLOCK)


def reference(z: Tensor, k: Tensor, c: list[list[float]], rho: float, beta: float) -> float:
    """The loss of one direction; changes ``c``."""
    n, d = z.shape
    for i in range(d):
        for j in range(d):
            c[i][j] = beta * c[i][j] + (1 - beta) * sum(float(z[b, i]) * float(z[b, j]) for b in range(n)) / n
    quadratic = [sum(float(z[b, i]) * c[i][j] * float(z[b, j]) for i in range(d) for j in range(d)) for b in range(n)]
    return 1 - sum(loops.dot(z[b], k[b]) for b in range(n)) / n + rho * sum(quadratic) / n


def test_golden() -> None:
    tico = objective()
    first = tico.direction(core_view(0), core_view(1)).item()
    assert first == pytest.approx(golden("tico: loss, first step"), abs=1e-7)
    second = tico.direction(core_view(2), core_view(3)).item()
    assert second == pytest.approx(golden("tico: loss, second step on Z2 Z3"), abs=1e-7)


def test_equals_the_loop_over_two_steps() -> None:
    tico, c = objective(3.0, 0.7, 5), [[0.0] * 5 for _ in range(5)]
    for step in range(2):
        z0, z1, k0, k1 = (loops.random_unit(6, 5, 4 * step + seed) for seed in range(4))
        expected = (reference(z0, k1, c, 3.0, 0.7) + reference(z1, k0, c, 3.0, 0.7)) / 2
        assert run(tico, (2 * z0, z1), (k0, 3 * k1))["loss"].item() == pytest.approx(expected, abs=1e-10)
        torch.testing.assert_close(tico.covariance, torch.tensor(c, dtype=torch.float64))


def test_the_gradient_does_not_go_through_the_covariance() -> None:
    z, k = core_view(0).requires_grad_(), core_view(1)
    tico = objective()
    tico.direction(z, k).backward()
    expected = (-k + 2 * 8.0 * z.detach() @ tico.covariance) / 6
    torch.testing.assert_close(z.grad, expected)


def test_a_loss_seen_through_a_gradient_step_keeps_the_covariance_it_had() -> None:
    """The second direction changes the buffer before the first one's backward pass."""
    z, k = core_view(0).requires_grad_(), core_view(1)
    tico = objective()
    first = tico.direction(z, k)
    before = tico.covariance.clone()
    tico.direction(core_view(2), k)
    first.backward()
    torch.testing.assert_close(z.grad, (-k + 16.0 * z.detach() @ before) / 6)


def test_dimensions_and_invariances() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    assert run(objective(), (axes, axes), (axes, axes))["dimensions"].item() == pytest.approx(4, abs=1e-10)
    line = axes[:1].repeat(4, 1)
    out = run(objective(beta=0.0), (line, line), (line, line))
    assert out["dimensions"].item() == pytest.approx(1, abs=1e-10)
    assert out["loss"].item() == pytest.approx(8, abs=1e-10)  # views agree; all rows in the one direction there is
    loops.assert_invariant(lambda a, b: run(objective(), (a, b), (b, a))["loss"])
