import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.mocov3 import MoCoV3, find_key
from ssl_framework.types import Outputs
from tests.golden import core_view, golden, mix_rows
from tests.objectives import loops
from tests.objectives.test_imix import batch as imix_batch
from tests.objectives.test_imix import mix as imix
from tests.objectives.test_imix import soft_cross_entropy


def loss(q: tuple[Tensor, Tensor], k: tuple[Tensor, Tensor], tau: float) -> Tensor:
    student = [{"predictor": x} for x in q]
    teacher = [{"projector": x} for x in k]
    return MoCoV3(tau)(student, teacher, loops.batch(len(q[0])), loops.CLOCK)["loss"]  # type: ignore[arg-type]


def one_way(q: Tensor, k: Tensor, tau: float) -> float:
    """Mean over queries, each against all keys of the batch."""
    total = 0.0
    for i in range(len(q)):
        logits = [loops.dot(q[i], key) / tau for key in k]
        total += loops.log_sum_exp(logits) - logits[i]
    return total / len(q)


def test_golden_one_way() -> None:
    value = find_key(core_view(0), core_view(1), 0.3).mean().item()
    assert value == pytest.approx(golden("infonce: one-way loss, anchors Z0, candidates Z1"), abs=1e-7)


@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_equals_the_loop(tau: float) -> None:
    q0, q1, k0, k1 = (loops.random_unit(6, 5, seed) for seed in range(4))
    expected = 2 * tau * (one_way(q0, k1, tau) + one_way(q1, k0, tau))
    assert loss((3 * q0, q1), (k0, 2 * k1), tau).item() == pytest.approx(expected, abs=1e-10)


def test_closed_cases() -> None:
    same = torch.ones(5, 3, dtype=torch.float64)
    assert loss((same, same), (same, same), 0.2).item() == pytest.approx(4 * 0.2 * math.log(5), abs=1e-12)
    apart = torch.eye(5, dtype=torch.float64)
    assert loss((apart, apart), (apart, apart), 0.02).item() == pytest.approx(0, abs=1e-10)


def test_no_gradient_reaches_the_keys() -> None:
    q, k = core_view(0).requires_grad_(), core_view(1).requires_grad_()
    find_key(q, k, 0.2).mean().backward()
    assert q.grad is not None and q.grad.abs().sum() > 0.1 and k.grad is None


def test_invariances() -> None:
    loops.assert_invariant(lambda a, b: loss((a, b), (a, b), 0.2))


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
        MoCoV3(0)


def test_a_mixed_view_has_to_find_the_keys_of_its_sources() -> None:
    """i-Mix: -lam log p_i - (1 - lam) log p_partner, of each view that is mixed."""
    q, k = [loops.random_unit(6, 5, seed) for seed in (0, 1)], [loops.random_unit(6, 5, seed) for seed in (2, 3)]
    student: list[Outputs | None] = [{"predictor": x} for x in q]
    for mixes in ([imix(), None], [None, imix()], [imix(), imix()]):
        got = MoCoV3(0.2)(student, loops.outputs(*k), imix_batch(*mixes), loops.CLOCK)["loss"].item()
        both = [
            one_way(q[v], k[1 - v], 0.2) if mix is None else soft_cross_entropy(q[v], k[1 - v], 0.2)
            for v, mix in enumerate(mixes)
        ]
        assert got == pytest.approx(2 * 0.2 * sum(both), abs=1e-10)


def test_golden_of_a_mixed_view() -> None:
    value = find_key(mix_rows(0), mix_rows(1), 0.2, imix()).mean().item()
    assert value == pytest.approx(golden("imix: one side, logits A B^T/tau"), abs=1e-7)
