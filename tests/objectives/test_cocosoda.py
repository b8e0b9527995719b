import math

import pytest
import torch
from torch import Tensor

from ssl_framework.memory import Queue
from ssl_framework.objectives.cocosoda import CoCoSoDa
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops

OTHER = {"code": 0, "query": 1, "masked code": 2, "masked query": 3}
NAME = "terms (mean) and two intra-modal terms (mean), scale with 1 / 0.07"


def objective(rows: list[Tensor], tau: float) -> CoCoSoDa:
    made = CoCoSoDa(tau, lambda: Queue(len(rows[0]), rows[0].shape[1]))
    for v, each in enumerate(rows):
        made.memory(v).rows = each.clone()
    return made


def test_golden() -> None:
    rows = [mix_raw(s, 4) for s in range(4, 8)]
    made = objective([each / each.norm(dim=1, keepdim=True) for each in rows], 0.07)
    for v in range(4):
        made.memory(v).push = lambda keys: keys  # type: ignore[method-assign]  # of a batch larger than these queues
    z = [mix_rows(s) for s in range(4)]
    out = made(loops.outputs(*z[:2]), loops.outputs(*z), loops.batch(6), loops.CLOCK)
    assert [out["inter"].item(), out["intra"].item()] == pytest.approx(
        golden(f"cocosoda: four inter-modal {NAME}"), rel=1e-7
    )
    assert out["loss"].item() == pytest.approx(
        golden("cocosoda: six terms together (mean over all 6 B rows), scale with 1 / 0.07"), rel=1e-7
    )


def test_equals_the_loop_and_keeps_the_teachers_keys() -> None:
    z, k = [loops.random_unit(3, 4, v) for v in range(2)], [loops.random_unit(3, 4, 2 + v) for v in range(4)]
    rows = [mix_rows(v, 5, 4) for v in range(4)]
    made = objective(rows, 0.5)
    total = 0.0
    for a, b in ((0, 1), (0, 3), (1, 0), (1, 2), (0, 2), (1, 3)):
        for i in range(3):
            logits = [float(z[a][i] @ key) / 0.5 for key in torch.cat([k[b], rows[b]])]
            total += (math.log(sum(map(math.exp, logits))) - logits[i]) / 18
    out = made(loops.outputs(*z), loops.outputs(*k), loops.batch(3), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(total, abs=1e-10)
    for v in range(4):
        torch.testing.assert_close(made.memory(v).rows[:3], k[v])
