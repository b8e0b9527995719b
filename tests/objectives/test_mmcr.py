import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.mmcr import MMCR
from tests.golden import golden, mix_rows
from tests.objectives import loops


def run(*views: Tensor, compression: float = 0.0) -> dict[str, Tensor]:
    return MMCR(compression)(loops.outputs(*views), None, loops.batch(len(views[0])), loops.CLOCK)


def nuclear(rows: Tensor) -> float:
    """The singular values are the roots of the eigenvalues of the Gram matrix, written as a loop."""
    gram = torch.tensor([[loops.dot(a, b) for b in rows] for a in rows], dtype=torch.float64)
    return sum(math.sqrt(max(0.0, float(x))) for x in torch.linalg.eigvalsh(gram))


def test_golden() -> None:
    views = [mix_rows(s) for s in range(4)]
    expected = golden("mmcr: loss, student views A B, teacher views C D")
    assert run(*views, compression=0.005)["loss"].item() == pytest.approx(expected, abs=1e-7)
    expected = golden("mmcr: minus the nuclear norm of the centroids of A and B")
    assert run(*views[:2])["loss"].item() == pytest.approx(expected, abs=1e-7)


def test_equals_the_loop_at_any_length() -> None:
    views = [loops.random_unit(5, 7, seed) for seed in range(3)]
    centroids = torch.stack([(views[0][i] + views[1][i] + views[2][i]) / 3 for i in range(5)])
    own = sum(nuclear(torch.stack([view[i] for view in views])) for i in range(5)) / 5
    out = run(2 * views[0], views[1], 0.3 * views[2], compression=0.4)
    assert out["loss"].item() == pytest.approx(-nuclear(centroids) + 0.4 * own, abs=1e-8)
    length = sum(math.sqrt(loops.dot(c, c)) for c in centroids) / 5
    assert out["centroid_length"].item() == pytest.approx(length, abs=1e-10)


def test_gradient() -> None:
    views = [loops.random_unit(4, 6, seed).requires_grad_() for seed in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: run(a, b, compression=0.1)["loss"], views)


def test_closed_cases_and_invariances() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    assert run(axes, axes)["loss"].item() == pytest.approx(-4, abs=1e-12)  # the least that four samples can have
    line = axes[:1].repeat(4, 1)
    assert run(line, line)["loss"].item() == pytest.approx(-2, abs=1e-12)  # collapsed: sqrt(4)
    assert run(axes, -axes)["centroid_length"].item() == pytest.approx(0, abs=1e-12)
    loops.assert_invariant(lambda a, b: run(a, b, compression=0.2)["loss"])
