import math

import pytest
import torch
from torch import Tensor

from ssl_framework.memory import Queue
from ssl_framework.objectives.ressl import ReSSL
from tests.golden import core_queue, core_view, golden
from tests.objectives import loops


def objective(rows: Tensor, student: float = 0.1, teacher: float = 0.04) -> ReSSL:
    queue = Queue(*rows.shape).to(rows.dtype)
    queue.rows.copy_(rows)
    return ReSSL(student, teacher, queue)


def run(ressl: ReSSL, q: Tensor, k: Tensor) -> dict[str, Tensor]:
    return ressl([{"projector": q}, None], [None, {"projector": k}], loops.batch(len(q)), loops.CLOCK)


def reference(q: Tensor, k: Tensor, rows: Tensor, student: float, teacher: float) -> tuple[float, float]:
    loss = entropy = 0.0
    for a, b in zip(q, k, strict=True):
        targets = [loops.dot(b, row) / teacher for row in rows]
        guesses = [loops.dot(a, row) / student for row in rows]
        log_t = [x - loops.log_sum_exp(targets) for x in targets]
        log_s = [x - loops.log_sum_exp(guesses) for x in guesses]
        loss -= sum(math.exp(t) * s for t, s in zip(log_t, log_s, strict=True)) / len(q)
        entropy -= sum(math.exp(t) * t for t in log_t) / len(q)
    return loss, entropy


def test_golden() -> None:
    value = run(objective(core_queue()), core_view(0), core_view(1))["loss"].item()
    assert value == pytest.approx(golden("ressl: loss"), abs=1e-7)


def test_equals_the_loop() -> None:
    q, k, rows = loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1), loops.random_unit(13, 5, 2)
    out = run(objective(rows, 0.3, 0.2), 2 * q, 3 * k)
    loss, entropy = reference(q, k, rows, 0.3, 0.2)
    assert out["loss"].item() == pytest.approx(loss, abs=1e-10)
    assert out["target_entropy"].item() == pytest.approx(entropy, abs=1e-10)


def test_the_queue_is_read_before_the_keys_enter() -> None:
    rows, q, k = core_queue(), core_view(0), core_view(1)
    ressl = objective(rows)
    assert run(ressl, q, 2 * k)["loss"].item() == pytest.approx(reference(q, k, rows, 0.1, 0.04)[0], abs=1e-10)
    torch.testing.assert_close(ressl.queue.read(), torch.cat([k, rows[6:]]))


def test_closed_case_and_invariances() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    out = run(objective(torch.ones(9, 3, dtype=torch.float64) / math.sqrt(3)), same, same)
    for name in ("loss", "target_entropy"):
        assert out[name].item() == pytest.approx(math.log(9), abs=1e-12)
    rotation = torch.linalg.qr(loops.random_unit(4, 4, 4)).Q
    expected = run(objective(core_queue()), core_view(0), core_view(1))["loss"]
    turned = run(objective(core_queue() @ rotation), core_view(0) @ rotation, core_view(1) @ rotation)["loss"]
    torch.testing.assert_close(turned, expected)
    torch.testing.assert_close(run(objective(core_queue().flip(0)), core_view(0), core_view(1))["loss"], expected)


def test_targets_flatter_than_what_learns_them_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.teacher_temperature is 0\.2, above the student's 0\.1: .*lower"):
        objective(core_queue(), 0.1, 0.2)
