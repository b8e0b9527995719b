import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.frossl import FroSSL, log_squared_norm
from tests.golden import golden, mix_raw
from tests.objectives import loops


def run(*views: Tensor, centre: bool = False, invariance: float = 1.0) -> dict[str, Tensor]:
    return FroSSL(invariance, centre)(loops.outputs(*views), None, loops.batch(len(views[0])), loops.CLOCK)


def reference(views: list[Tensor], centre: bool, invariance: float) -> float:
    (n, d), count = views[0].shape, len(views)
    columns = []
    for z in views:
        rows = [[float(z[i, j]) for i in range(n)] for j in range(d)]
        rows = [[x - sum(row) / n for x in row] if centre else row for row in rows]
        columns.append([[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows])  # d columns of n
    entropy = 0.0
    for view in columns:
        gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in view] for x in view]
        trace = sum(gram[j][j] for j in range(d))
        entropy += math.log(sum((x / trace) ** 2 for row in gram for x in row))
    total = 0.0
    for j in range(d):
        for i in range(n):
            mean = sum(view[j][i] for view in columns) / count
            total += sum((view[j][i] - mean) ** 2 for view in columns)
    return entropy + invariance * count * total / n  # for each view V * D times the mean over N and D


def test_golden() -> None:
    views = [mix_raw(s) for s in range(4)]
    expected = golden("frossl: multi-view form, raw0 raw1 (not centred)")
    assert run(*views[:2])["loss"].item() == pytest.approx(expected, abs=1e-7)
    expected = golden("frossl: multi-view form, four views")
    assert run(*views)["loss"].item() == pytest.approx(expected, rel=1e-7)
    expected = golden("frossl: two-view form of the authors (features standardised first)")
    assert run(*views[:2], centre=True)["loss"].item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_equals_the_loop(centre: bool, shape: tuple[int, int]) -> None:
    views = [3 * loops.random_unit(*shape, seed) + 0.5 for seed in range(3)]
    value = run(*views, centre=centre, invariance=0.7)["loss"].item()
    assert value == pytest.approx(reference(views, centre, 0.7), abs=1e-10)


def test_gradient() -> None:
    views = [loops.random_unit(5, 3, seed).requires_grad_() for seed in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: run(a, b, centre=True)["loss"], views)


def test_closed_cases_and_invariances() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    out = run(axes, axes)
    assert out["loss"].item() == pytest.approx(-2 * math.log(4), abs=1e-12)
    assert out["dimensions"].item() == pytest.approx(4, abs=1e-12)
    line = axes[:1].repeat(4, 1) + 1
    assert run(line, line)["dimensions"].item() == pytest.approx(1, abs=1e-10)
    z0, z1, order = loops.random_unit(6, 4, 0), loops.random_unit(6, 4, 1), torch.randperm(6)
    expected = run(z0, z1, centre=True)["loss"]
    torch.testing.assert_close(run(z0[order], z1[order], centre=True)["loss"], expected)
    torch.testing.assert_close(run(3 * z0 + 2, z1 - 1, centre=True)["loss"], expected)
    torch.testing.assert_close(log_squared_norm(z0), log_squared_norm(z0.T))  # whichever Gram matrix is smaller
