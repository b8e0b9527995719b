import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.functional import sinkhorn, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.swav import SwAV
from ssl_framework.optim import LARS
from ssl_framework.types import Clock, Samples
from tests.golden import core_view, golden
from tests.objectives import loops
from tests.objectives.test_imix import LAM, PARTNER
from tests.objectives.test_imix import batch as imix_batch
from tests.objectives.test_imix import mix as imix
from tests.small_runs import small

PROTOTYPES = torch.cos(0.4 * torch.arange(4.0).double()[None] + 1.3 * torch.arange(3.0).double()[:, None])  # [3, 4]
SETTINGS: dict[str, Any] = {
    **{"temperature": 0.1, "epsilon": 0.05, "iterations": 3, "num_prototypes": 3, "dim": 4, "num_assign": 2},
    **{"frozen": 0.0, "queue": None, "queue_start": 0.0},
}


def objective(**changes: Any) -> SwAV:
    swav = SwAV(**(SETTINGS | changes)).double()
    swav.prototypes.data = PROTOTYPES.clone()
    return swav


def loss(swav: SwAV, *views: Tensor, clock: Clock = loops.CLOCK) -> Tensor:
    return swav(loops.outputs(*views), None, loops.batch(len(views[0])), clock)["loss"]


def codes_by_loop(scores: list[list[float]], epsilon: float, iterations: int) -> list[list[float]]:
    """Sinkhorn-Knopp, entry by entry, with the authors' divisions by K and by the number of samples."""
    n, k = len(scores), len(scores[0])
    q = [[math.exp(s / epsilon) for s in row] for row in scores]
    for _ in range(iterations):
        for j in range(k):
            total = sum(q[i][j] for i in range(n)) * k
            for i in range(n):
                q[i][j] /= total
        for i in range(n):
            total = sum(q[i]) * n
            q[i] = [x / total for x in q[i]]
    return [[x * n for x in row] for row in q]


def loss_by_loop(views: list[Tensor], prototypes: Tensor, num_assign: int, queues: list[Tensor] | None = None) -> float:
    unit_prototypes = [p / p.norm() for p in prototypes]
    scores = [[[loops.dot(x, p) for p in unit_prototypes] for x in view] for view in views]
    total = 0.0
    for a in range(num_assign):
        old = [[loops.dot(x, p) for p in unit_prototypes] for x in queues[a]] if queues else []
        codes = codes_by_loop(old + scores[a], 0.05, 3)[len(old) :]
        for v in range(len(views)):
            if v == a:
                continue
            for i, code in enumerate(codes):
                logits = [s / 0.1 for s in scores[v][i]]
                cross_entropy = -sum(c * (x - loops.log_sum_exp(logits)) for c, x in zip(code, logits, strict=True))
                total += cross_entropy / len(codes) / (len(views) - 1) / num_assign
    return total


def test_golden_assignments() -> None:
    q = sinkhorn(core_view(0) @ unit(PROTOTYPES).T, 0.05, 3)
    assert q[0].tolist() == pytest.approx(golden("swav: assignment Q_0 row 0"), abs=1e-7)
    assert q[2].tolist() == pytest.approx(golden("swav: assignment Q_0 row 2"), abs=1e-7)
    assert q.sum(dim=0).tolist() == pytest.approx(golden("swav: column sums of Q_0"), abs=1e-7)


@pytest.mark.parametrize("num_views", [2, 4])
def test_golden(num_views: int) -> None:
    value = loss(objective(), *map(core_view, range(num_views))).item()
    assert value == pytest.approx(golden(f"swav: loss, {num_views} views, assign views 0 and 1"), abs=1e-7)


def test_sinkhorn_keeps_float32_and_carries_no_gradient() -> None:
    """exp(s / epsilon) itself would be infinite."""
    scores = (200 + core_view(0) @ unit(PROTOTYPES).T).float().requires_grad_()
    q = sinkhorn(scores, 0.05, 3)
    assert q.dtype == torch.float32 and not q.requires_grad
    torch.testing.assert_close(q, sinkhorn(scores.double() - 200, 0.05, 3).float(), rtol=1e-3, atol=1e-4)


def test_many_iterations_balance_the_prototypes() -> None:
    q = sinkhorn(core_view(0) @ unit(PROTOTYPES).T, 0.3, 500)
    torch.testing.assert_close(q.sum(dim=0), torch.full((3,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(q.sum(dim=1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(("num_views", "num_assign"), [(2, 1), (3, 2), (3, 3)])
def test_equals_the_loop(num_views: int, num_assign: int) -> None:
    views = [loops.random_unit(5, 4, v) for v in range(num_views)]
    value = loss(objective(num_assign=num_assign), *views).item()
    assert value == pytest.approx(loss_by_loop(views, PROTOTYPES, num_assign), abs=1e-10)


@pytest.mark.parametrize("num_assign", [1, 2])
def test_a_mixture_predicts_the_assignments_of_its_sources_in_the_other_views(num_assign: int) -> None:
    """Two clean views, a mixture of each."""
    views = [loops.random_unit(6, 4, v) for v in range(4)]
    mixes = [None, None, imix(), imix()._replace(of=1)]
    swav = objective(num_assign=num_assign)
    got = swav(loops.outputs(*views), None, imix_batch(*mixes), loops.CLOCK)["loss"].item()
    prototypes = [p / p.norm() for p in PROTOTYPES]
    scores = [[[loops.dot(x, p) for p in prototypes] for x in view] for view in views]
    costs = []
    for a in range(num_assign):
        codes = codes_by_loop(scores[a], 0.05, 3)
        for v in range(4):
            if v % 2 == a:
                continue
            for i in range(6):
                lam, other = (LAM[i], PARTNER[i]) if v > 1 else (1.0, i)
                target = [lam * mine + (1 - lam) * its for mine, its in zip(codes[i], codes[other], strict=True)]
                logits = [s / 0.1 for s in scores[v][i]]
                costs.append(-sum(c * (x - loops.log_sum_exp(logits)) for c, x in zip(target, logits, strict=True)))
    assert got == pytest.approx(sum(costs) / len(costs), abs=1e-10)


def test_a_mixer_may_stand_beside_the_views_but_not_in_their_place() -> None:
    beside = ("mixer=mixup", "mixer.add=true", "mixer.views=[0,1]")
    data = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    losses = []
    for overrides in ((), beside):
        torch.manual_seed(0)
        module = build_module(small("swav", *overrides), has_labels=True)
        losses.append(module.losses(Samples(data, torch.arange(8)), Clock(0, 0, 10))["loss"])
    assert losses[0] != losses[1] and all(torch.isfinite(x) for x in losses)
    with pytest.raises(ValueError, match=r"SwAV reads mixtures beside the clean views.*set mixer\.add=true"):
        build_module(small("swav", "mixer=mixup"), has_labels=True)


def test_a_full_queue_of_each_view_is_assigned_together_with_the_batch() -> None:
    swav = objective(queue=lambda: Queue(7, 4).double())
    queues = [queue.read() for queue in swav.queues]
    views = [loops.random_unit(5, 4, v) for v in range(2)]
    assert loss(swav, *views).item() == pytest.approx(loss_by_loop(views, PROTOTYPES, 2, queues), abs=1e-10)
    for queue, old, view in zip(swav.queues, queues, views, strict=True):  # after it was read
        torch.testing.assert_close(queue.read(), torch.cat([view, old[5:]]))


def test_the_queue_is_read_once_it_is_full_and_due() -> None:
    views = [loops.random_unit(5, 4, v) for v in range(2)]
    without = loss(objective(), *views)

    def with_queue(size: int, start: float, step: int) -> Tensor:
        torch.manual_seed(0)
        swav = objective(queue=lambda: Queue(size, 4).double(), queue_start=start)
        return loss(swav, *views, clock=Clock(step, 0, 10))

    assert with_queue(10, 0.0, 1) == without  # five of ten rows
    assert with_queue(10, 0.0, 2) != without
    assert with_queue(10, 0.3, 2) == without
    assert with_queue(10, 0.3, 3) != without


def test_prototypes_are_of_unit_length_in_the_loss_and_after_it() -> None:
    views = core_view(0), core_view(1)
    swav, longer = objective(), objective()
    longer.prototypes.data *= torch.tensor([[3.0], [0.1], [7.0]])
    torch.testing.assert_close(loss(longer, *views), loss(swav, *views))
    torch.testing.assert_close(longer.prototypes.detach(), unit(PROTOTYPES))


def test_gradient_reaches_views_and_prototypes_but_not_through_the_assignments() -> None:
    """A view whose only part is to be assigned gets none."""
    swav = objective(num_assign=1)
    z0, z1 = core_view(0).requires_grad_(), core_view(1).requires_grad_()
    loss(swav, z0, z1).backward()
    assert z0.grad is None
    assert z1.grad is not None and z1.grad.abs().sum() > 0.1
    assert swav.prototypes.grad is not None and swav.prototypes.grad.abs().sum() > 0.1


@pytest.mark.parametrize("build", [
    lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.1, fused=True),
    lambda p: torch.optim.AdamW(p, lr=0.5, weight_decay=0.1),
    lambda p: LARS(p, lr=0.5, weight_decay=0.1),
])  # fmt: skip
def test_frozen_prototypes_stay_whatever_the_optimizer(build: Any) -> None:
    """Beside them a weight that has a gradient and momentum from the first step on."""
    views = [core_view(0), core_view(1)]
    swav, other, start = objective(frozen=0.5), torch.nn.Parameter(loops.random_unit(4, 4, 3)), unit(PROTOTYPES)
    optimizer = build([*swav.parameters(), other])
    for step in range(4):
        optimizer.zero_grad()
        clock = Clock(step, 0, 4)
        loss(swav, *(z @ other for z in views), clock=clock).backward()
        if step <= 2:  # as it was in this forward pass
            torch.testing.assert_close(swav.prototypes.detach(), start)
        assert swav.prototypes.grad is not None and swav.prototypes.grad.abs().max() > 1e-3
        swav.after_backward(clock)
        optimizer.step()
    assert (unit(swav.prototypes.detach()) - start).abs().max() > 1e-4


def test_closed_case_and_invariances() -> None:
    same = torch.ones(4, 4, dtype=torch.float64)
    alike = objective()
    alike.prototypes.data = torch.ones(3, 4, dtype=torch.float64)
    assert loss(alike, same, same).item() == pytest.approx(math.log(3), abs=1e-12)

    views, order = [core_view(0), core_view(1)], torch.tensor([3, 0, 5, 1, 4, 2])
    rotation = torch.linalg.qr(loops.random_unit(4, 4, 4)).Q
    turned = objective()
    turned.prototypes.data = PROTOTYPES @ rotation
    torch.testing.assert_close(loss(turned, *(z @ rotation for z in views)), loss(objective(), *views))
    torch.testing.assert_close(loss(objective(), *(z[order] for z in views)), loss(objective(), *views))


def test_refused_settings() -> None:
    for key, value in {
        "epsilon": 0.02,
        "iterations": 0,
        "num_prototypes": 1,
        "num_assign": 0,
        "temperature": 0,
    }.items():
        with pytest.raises(ValueError, match=f"{key} is {value}: it must be "):
            objective(**{key: value})
    for key in ("frozen", "queue_start"):
        with pytest.raises(ValueError, match=rf"{key} is 1\.5: it must be between 0 and 1"):
            objective(**{key: 1.5})
    with pytest.raises(ValueError, match=r"objective\.num_assign is 3, but the student encodes only 2 views"):
        loss(objective(num_assign=3), core_view(0), core_view(1))
