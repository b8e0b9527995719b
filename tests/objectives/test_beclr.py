import math

import pytest
import torch
from torch import Tensor

from ssl_framework.functional import unit
from ssl_framework.memory import DyCE
from ssl_framework.objectives.beclr import BECLR
from ssl_framework.types import Clock
from tests.golden import core_view, golden
from tests.objectives import loops

LATER = Clock(9, 0, 10)


def memory(size: int = 24) -> DyCE:
    return DyCE(size, 4, 3, 5, 0.05, 3)


def objective(neighbours: int = 2, start: float = 0.0, size: int = 24) -> BECLR:
    torch.manual_seed(0)
    return BECLR(0.1, 2.0, neighbours, start, lambda: memory(size)).double()


def step(beclr: BECLR, p: list[Tensor], z: list[Tensor], k: list[Tensor], clock: Clock) -> dict[str, Tensor]:
    student = [{"predictor": a, "projector": b} for a, b in zip(p, z, strict=True)]
    return beclr(student, [{"projector": x} for x in k], loops.batch(len(p[0])), clock)


def by_loop(p: list[Tensor], z: list[Tensor], k: list[Tensor]) -> tuple[float, float]:
    """Both terms of two views of the same number of rows."""
    n = len(p[0])
    positive = -sum(loops.dot(p[a][i], k[1 - a][i]) for a in (0, 1) for i in range(n)) / (2 * n)
    rows, total = [*z[0], *z[1]], 0.0
    for i, x in enumerate(rows):
        others = [math.exp(loops.dot(x, y) / 2.0) for j, y in enumerate(rows) if j not in (i, (i + n) % (2 * n))]
        total += sum(others) / (2 * n - 2) / (2 * n)
    return positive, math.log(total)


def test_golden() -> None:
    z = [core_view(v) for v in range(4)]
    out = step(objective(), z[:2], z[:2], z[2:], loops.CLOCK._replace(step=0))
    assert out["positive_loss"].item() == pytest.approx(golden("beclr: positive term"), abs=1e-7)
    assert out["negative_loss"].item() == pytest.approx(golden("beclr: negative term before the weight"), abs=1e-7)
    assert out["loss"].item() == pytest.approx(golden("beclr: loss"), abs=1e-7)


def test_neighbours_of_each_memory_join_the_batch_and_enter_it_only_afterwards() -> None:
    beclr = objective()
    outputs = [[loops.random_unit(5, 4, 10 * m + v) for v in range(2)] for m in range(3)]
    joined: list[list[Tensor]] = []
    for own, views in zip(beclr.memories, outputs, strict=True):
        assert isinstance(own, DyCE)
        own.begin(torch.Generator().manual_seed(1))
        rows, prototypes, joined_views = own.queue.read(), unit(own.prototypes), []
        for z in views:
            near = []
            for x in z:
                cluster = max(range(3), key=lambda c: loops.dot(x, prototypes[c]))
                order = sorted(range(24), key=lambda r: (own.assigned[r] != cluster, -loops.dot(x, rows[r])))
                near.append(rows[order[:2]])
            joined_views.append(torch.cat([z, torch.cat(near)]))
        joined.append(joined_views)
    out = step(beclr, *outputs, LATER)
    positive, negative = by_loop(*joined)
    assert out["positive_loss"].item() == pytest.approx(positive, abs=1e-10)
    assert out["negative_loss"].item() == pytest.approx(negative, abs=1e-10)
    last = beclr.memories[2]
    assert isinstance(last, DyCE)
    torch.testing.assert_close(last.queue.read()[:10], torch.cat(outputs[2]))


def test_neighbours_come_once_the_memory_is_full_and_due() -> None:
    """Twelve rows a step fill 24 in two."""
    z = [core_view(v) for v in range(4)]

    def enhanced(neighbours: int, start: float, clock: Clock) -> bool:
        plain = step(objective(0), z[:2], z[:2], z[2:], clock)["loss"]
        return bool(step(objective(neighbours, start), z[:2], z[:2], z[2:], clock)["loss"] != plain)

    assert not enhanced(2, 0.0, Clock(1, 0, 10)) and enhanced(2, 0.0, Clock(2, 0, 10))
    assert not enhanced(2, 0.5, Clock(4, 0, 10)) and enhanced(2, 0.5, Clock(5, 0, 10))
    assert not enhanced(0, 0.0, LATER)


def test_neighbours_carry_no_gradient_and_the_teacher_none() -> None:
    p, z, k = ([loops.random_unit(5, 4, 10 * m + v).requires_grad_() for v in range(2)] for m in range(3))
    beclr = objective()
    step(beclr, p, z, [x.detach() for x in k], LATER)["loss"].backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 1e-3 for x in (*p, *z))
    assert not list(beclr.parameters())


def test_rows_belong_to_prototypes_that_are_their_means() -> None:
    """Twelve new rows in three directions are spread over three prototypes, four each."""
    own, truth = memory(12).double(), torch.arange(12) % 3
    own.prototypes.copy_(torch.eye(4)[:3])
    rows = unit(torch.eye(4).double()[truth] + 0.1 * loops.random_unit(12, 4, 0))
    own.push(rows)
    assert torch.equal(own.assigned, truth)
    for c in range(3):
        torch.testing.assert_close(own.prototypes[c], rows[truth == c].mean(dim=0))
    crowd = rows[:1].repeat(12, 1) + 0.01 * loops.random_unit(12, 4, 1)  # all near the first prototype
    own.push(unit(crowd))
    assert own.assigned.unique().numel() > 1, "not all rows may choose the same prototype"
    with pytest.raises(ValueError, match="the global batch has 13 keys but the queue holds 12"):
        own.push(unit(torch.ones(13, 4).double()))
