import math

import pytest
import torch

from ssl_framework.memory import Queue
from ssl_framework.objectives.moco import MoCo
from tests.golden import core_queue, core_view, golden
from tests.objectives import loops


def objective(rows: torch.Tensor, tau: float = 0.2, decoupled: bool = False) -> MoCo:
    queue = Queue(*rows.shape).to(rows.dtype)
    queue.rows.copy_(rows)
    return MoCo(tau, queue, positive_in_denominator=not decoupled)


def loss(
    q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, tau: float = 0.2, decoupled: bool = False
) -> torch.Tensor:
    moco = objective(rows, tau, decoupled)
    return moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(len(q)), loops.CLOCK)["loss"]


def test_golden() -> None:
    value = loss(core_view(0), core_view(1), core_queue()).item()
    assert value == pytest.approx(golden("moco: loss, q=Z0, k=Z1, queue=Qu"), abs=1e-7)


@pytest.mark.parametrize("decoupled", [False, True])
def test_equals_the_loop(decoupled: bool) -> None:
    q, k, rows = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1), loops.random_unit(11, 7, 2)
    expected = loops.moco(q, k, rows, 0.3, decoupled=decoupled)
    assert loss(q, k, rows, 0.3, decoupled).item() == pytest.approx(expected, abs=1e-10)


def test_the_queue_is_read_before_it_is_written() -> None:
    """A key pushed first is its own negative, and the loss could not fall below log 2."""
    z = torch.eye(4, dtype=torch.float64)
    queue = -torch.ones(8, 4, dtype=torch.float64) / 2
    assert loss(z, z, queue, 0.05).item() < 1e-6


def test_keys_enter_the_queue_unchanged() -> None:
    rows, k = core_queue(), core_view(1)
    moco = objective(rows)
    moco([{"projector": core_view(0)}, None], [None, {"projector": 3 * k}], loops.batch(6), loops.CLOCK)
    torch.testing.assert_close(moco.queue.read(), torch.cat([k, rows[6:]]))


def test_gradient_reaches_the_query_and_not_the_key() -> None:
    q, k = core_view(0).requires_grad_(), core_view(1).requires_grad_()
    loss(q, k.detach(), core_queue()).backward()
    assert q.grad is not None and q.grad.abs().sum() > 0.1


def test_all_similarities_equal_gives_log_of_the_number_of_logits() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert loss(same, same, torch.ones(9, 3, dtype=torch.float64) / math.sqrt(3)).item() == pytest.approx(
        math.log(10), abs=1e-12
    )


def test_proxy_accuracy_counts_positives_that_rank_first() -> None:
    q, k, rows = loops.random_unit(8, 4, 0), loops.random_unit(8, 4, 1), loops.random_unit(12, 4, 2)
    moco = objective(rows)
    out = moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(8), loops.CLOCK)
    first = [loops.dot(q[i], k[i]) > max(loops.dot(q[i], row) for row in rows) for i in range(8)]
    assert out["proxy_accuracy"].item() == pytest.approx(sum(first) / 8)
    assert 0 < sum(first) < 8


def test_invariances() -> None:
    rotation = torch.linalg.qr(loops.random_unit(4, 4, 4)).Q
    q, k, rows = core_view(0), core_view(1), core_queue()
    expected = loss(q, k, rows)
    torch.testing.assert_close(loss(q @ rotation, k @ rotation, rows @ rotation), expected)
    torch.testing.assert_close(loss(q.flip(0), k.flip(0), rows.roll(5, 0)), expected)
