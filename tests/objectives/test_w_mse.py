import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.w_mse import WMSE
from ssl_framework.types import Clock
from tests.golden import core_view, golden
from tests.objectives import loops


def run(*views: Tensor, sub_batch: int = 128, iterations: int = 1, eps: float = 0.0, step: int = 0) -> Tensor:
    objective = WMSE(sub_batch, iterations, eps)
    return objective(loops.outputs(*views), None, loops.batch(len(views[0])), Clock(step, 0, 10))["loss"]


def cholesky(c: list[list[float]]) -> list[list[float]]:
    low = [[0.0] * len(c) for _ in c]
    for i in range(len(c)):
        for j in range(i + 1):
            rest = c[i][j] - sum(low[i][k] * low[j][k] for k in range(j))
            low[i][j] = rest**0.5 if i == j else rest / low[j][j]
    return low


def white(z: Tensor, eps: float) -> Tensor:
    """The inverse factor times each centred row, by forward substitution."""
    n, d = z.shape
    means = [sum(float(x) for x in z[:, j]) / n for j in range(d)]
    rows = [[float(z[i, j]) - means[j] for j in range(d)] for i in range(n)]
    c = [[sum(row[i] * row[j] for row in rows) / (n - 1) for j in range(d)] for i in range(d)]
    floor = eps * sum(c[i][i] for i in range(d)) / d
    low = cholesky([[(1 - eps) * c[i][j] + (floor if i == j else 0.0) for j in range(d)] for i in range(d)])
    out = []
    for row in rows:
        solved: list[float] = []
        for i in range(d):
            solved.append((row[i] - sum(low[i][k] * solved[k] for k in range(i))) / low[i][i])
        out.append(solved)
    return torch.tensor(out, dtype=torch.float64)


def cosines(views: list[Tensor], eps: float) -> float:
    """The loss of views that are one sub-batch."""
    rows = [white(z, eps) for z in views]
    rows = [x / x.norm(dim=1, keepdim=True) for x in rows]
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    return sum(2 - 2 * sum(loops.dot(x, y) for x, y in zip(a, b, strict=True)) / len(a) for a, b in pairs) / len(pairs)


def test_golden() -> None:
    z0, z1 = core_view(0), core_view(1)
    row = WMSE(6, 1, 0.0).whitened(z0)[0]
    expected = golden("w_mse: whitened row 0 of Z0 (Cholesky, batch of 6)")
    torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)
    assert run(z0, z1).item() == pytest.approx(golden("w_mse: loss, views whitened apart"), abs=1e-7)


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_equals_the_loop(eps: float) -> None:
    views = [3 * loops.random_unit(9, 4, seed) + 1 for seed in range(3)]
    assert run(*views, eps=eps).item() == pytest.approx(cosines(views, eps), abs=1e-9)


def test_sub_batches_are_drawn_anew_at_every_step_and_averaged_over_iterations() -> None:
    z0, z1 = loops.random_unit(13, 3, 0), loops.random_unit(13, 3, 1)

    def divided(step: int, iterations: int) -> float:
        generator, total = Clock(step, 0, 10).generator(), 0.0
        for _ in range(iterations):
            order = torch.randperm(13, generator=generator)
            parts = [order[:7], order[7:]]  # of six and more
            total += sum(len(part) * cosines([z0[part], z1[part]], 0.0) for part in parts) / 13
        return total / iterations

    values = {(step, count): run(z0, z1, sub_batch=6, iterations=count, step=step).item()
              for step in (0, 1) for count in (1, 2)}  # fmt: skip
    for (step, count), value in values.items():
        assert value == pytest.approx(divided(step, count), abs=1e-9)
    assert len(set(values.values())) == 4


def test_whitened_rows_and_invariance_to_scale_and_shift() -> None:
    z0, z1 = loops.random_unit(9, 4, 0), loops.random_unit(9, 4, 1)
    torch.testing.assert_close(WMSE(9, 1, 0.0).whitened(5 * z0 + 1).T.cov(), torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(run(7 * z0 - 2, z1), run(z0, z1))
    torch.testing.assert_close(run(z0.flip(0), z1.flip(0)), run(z0, z1))
    assert run(z0, z0).item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_reaches_both_views() -> None:
    z0, z1 = loops.random_unit(7, 3, 0).requires_grad_(), loops.random_unit(7, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: run(a, b), (z0, z1))
    run(z0, z1).backward()
    assert z0.grad is not None and z1.grad is not None and z1.grad.norm() > 0.1 * z0.grad.norm() > 0


def test_what_has_no_inverse_is_refused() -> None:
    z = loops.random_unit(4, 4, 0)
    with pytest.raises(ValueError, match=r"a sub-batch has 4 samples, not more than the 4 dimensions .*batch_size"):
        run(z, z)
    flat = loops.random_unit(9, 4, 0)
    flat[:, 3] = 1.0
    with pytest.raises(ValueError, match=r"covariance of 9 embeddings has no inverse: set obj"):
        run(flat, flat)
    assert torch.isfinite(run(flat, flat, eps=1e-3))
    assert torch.isnan(run(flat * float("nan"), flat, eps=1e-3))  # as a loss, which the run reports
