import math

import pytest
import torch
from torch import Tensor

from ssl_framework.functional import alignment, uniformity
from ssl_framework.objectives.clip import CLIP
from ssl_framework.objectives.contrastive_gap import ContrastiveGap, log_potential
from tests.golden import golden, mix_rows
from tests.objectives import loops


def losses(z0: Tensor, z1: Tensor, *weights: float) -> dict[str, Tensor]:
    objective = ContrastiveGap(0.1, 100, *weights, t=2.0).double()
    return objective(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)


def by_loops(x: Tensor, y: Tensor) -> float:
    """log of the mean of exp(-2 |x_i - y_j|^2) over i != j."""
    n = len(x)
    each = [math.exp(-2 * sum(float(d) ** 2 for d in x[i] - y[j])) for i in range(n) for j in range(n) if i != j]
    return math.log(sum(each) / len(each))


def test_golden() -> None:
    found = losses(mix_rows(0), mix_rows(1), 1.0, 1.0, 1.0)
    expected = golden("contrastive_gap: uniform, cross-uniform and align terms of A, B")
    assert [found[name].item() for name in ("uniform", "cross", "align")] == pytest.approx(expected, abs=1e-7)


def test_equals_the_loop() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    clip = CLIP(0.1, 100).double()(loops.outputs(z0, z1), None, loops.batch(5), loops.CLOCK)["loss"].item()
    align = sum(float(d) ** 2 for d in (z0 - z1).flatten()) / 5
    uniform = (by_loops(z0, z0) + by_loops(z1, z1)) / 2
    expected = clip + 0.3 * uniform + 0.5 * by_loops(z0, z1) + 0.7 * align
    assert losses(z0, z1, 0.3, 0.5, 0.7)["loss"].item() == pytest.approx(expected, abs=1e-10)


def test_inside_a_modality_it_is_the_known_uniformity() -> None:
    x = loops.random_unit(6, 4, 3)
    torch.testing.assert_close(log_potential(x, x, 2.0), uniformity(x))
    assert alignment(x, x).item() == 0


def test_without_weights_it_is_clip_and_one_sample_is_refused() -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    found = losses(z0, z1, 0.0, 0.0, 0.0)
    assert found["loss"].item() == pytest.approx(found["clip_loss"].item())
    with pytest.raises(ValueError, match=r"the global batch has one: raise data\.batch_size"):
        losses(z0[:1], z1[:1], 1.0, 1.0, 1.0)
