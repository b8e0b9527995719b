import pytest
import torch

from ssl_framework.objectives.mnr import MNR
from tests.golden import golden, mix_raw
from tests.objectives import loops


def loss(z0: torch.Tensor, z1: torch.Tensor, scale: float, symmetric: bool) -> float:
    found = MNR(scale, symmetric)(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)
    return found["loss"].item()


def test_golden() -> None:
    found = [loss(mix_raw(0), mix_raw(1), 1.0, symmetric) for symmetric in (False, True)]
    wanted = golden(
        'mnr: one direction; "plus" variant (targets are argmaxima of in-modal similarity, '
        "always the diagonal for unit rows)"
    )
    assert found == pytest.approx(wanted, rel=1e-7)


def one_way(z0: torch.Tensor, z1: torch.Tensor, scale: float) -> float:
    each = [[scale * loops.dot(a, b) for b in z1] for a in z0]
    return sum(loops.log_sum_exp(row) - row[i] for i, row in enumerate(each)) / len(z0)


def test_equals_the_loop() -> None:
    z0, z1 = (loops.random_unit(5, 3, seed) for seed in (0, 1))
    assert loss(3 * z0, z1, 7.0, False) == pytest.approx(one_way(z0, z1, 7.0), abs=1e-10)
    both = (one_way(z0, z1, 7.0) + one_way(z1, z0, 7.0)) / 2
    assert loss(z0, z1, 7.0, True) == pytest.approx(both, abs=1e-10)
