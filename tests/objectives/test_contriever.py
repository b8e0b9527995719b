import math

import pytest
import torch
from torch import Tensor

from ssl_framework.memory import Queue
from ssl_framework.objectives.contriever import Contriever
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops


def objective(rows: Tensor, tau: float) -> Contriever:
    made = Contriever(tau, Queue(len(rows), rows.shape[1]))
    made.queue.rows = rows.clone()
    return made


def loss(made: Contriever, q: Tensor, k: Tensor) -> float:
    return made(loops.outputs(q), loops.outputs(k), loops.batch(len(q)), loops.CLOCK)["loss"].item()


def test_golden() -> None:
    rows = mix_raw(2, 5)
    made = objective(rows / rows.norm(dim=1, keepdim=True), 0.05)
    made.queue.push = lambda keys: keys  # type: ignore[method-assign]  # of a batch larger than this queue
    expected = golden("contriever: loss, no normalisation of queries and keys")
    assert loss(made, mix_raw(0), mix_raw(1)) == pytest.approx(expected, rel=1e-7)


def test_equals_the_loop_and_pushes_keys_as_they_are() -> None:
    q, k, rows = 2 * loops.random_unit(3, 4, 0), 3 * loops.random_unit(3, 4, 1), mix_rows(0, 5, 4)
    made = objective(rows, 0.5)
    expected = 0.0
    for i in range(3):
        positive = float(q[i] @ k[i]) / 0.5
        others = [float(q[i] @ row) / 0.5 for row in rows]
        expected += (math.log(math.exp(positive) + sum(map(math.exp, others))) - positive) / 3
    assert loss(made, q, k) == pytest.approx(expected, abs=1e-10)
    assert torch.equal(made.queue.rows[:3], k) and torch.equal(made.queue.rows[3:], rows[3:])
