import math

import pytest
import torch
from torch import Tensor

from ssl_framework.memory import Queue
from ssl_framework.objectives.nnclr import NNCLR
from tests.golden import core_queue, core_view
from tests.objectives import loops


def objective(rows: Tensor, tau: float = 0.2, decoupled: bool = False, negatives: str = "predictions") -> NNCLR:
    queue = Queue(*rows.shape).to(rows.dtype)
    queue.rows.copy_(rows)
    return NNCLR(tau, queue, positive_in_denominator=not decoupled, negatives=negatives)  # type: ignore[arg-type]


def run(nnclr: NNCLR, z: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    student = [{"projector": a, "predictor": b} for a, b in zip(z, p, strict=True)]
    return nnclr(student, None, loops.batch(len(z[0])), loops.CLOCK)  # type: ignore[arg-type]


def nearest(z: Tensor, rows: Tensor) -> Tensor:
    """The row most similar to each z."""
    return torch.stack([rows[max(range(len(rows)), key=lambda j: loops.dot(x, rows[j]))] for x in z])


def reference(z: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor], rows: Tensor, tau: float, decoupled: bool) -> float:
    total = 0.0
    for a, b in ((z[0], p[1]), (z[1], p[0])):
        near = nearest(a, rows)
        for i in range(len(a)):
            logits = [loops.dot(near[i], x) / tau for x in b]
            denominator = [x for j, x in enumerate(logits) if not (decoupled and j == i)]
            total += (loops.log_sum_exp(denominator) - logits[i]) / (2 * len(a))
    return total


@pytest.mark.parametrize("decoupled", [False, True])
def test_equals_the_loop(decoupled: bool) -> None:
    z0, z1, p0, p1 = (loops.random_unit(6, 5, seed) for seed in range(4))
    rows = loops.random_unit(13, 5, 4)
    out = run(objective(rows, 0.3, decoupled), (z0, 2 * z1), (3 * p0, p1))
    assert out["loss"].item() == pytest.approx(reference((z0, z1), (p0, p1), rows, 0.3, decoupled), abs=1e-10)
    similarity = sum(loops.dot(a, b) for a, b in zip(z0, nearest(z0, rows), strict=True)) / 6
    assert out["neighbour_similarity"].item() == pytest.approx(similarity, abs=1e-10)


def both_ways(near: Tensor, p: Tensor, tau: float, decoupled: bool, kinds: bool) -> float:
    """Mean over the 2B anchors: each neighbour against the predictions, and each prediction against the neighbours;
    with ``kinds`` also against all others of its own kind."""
    total, count = 0.0, len(near)
    for anchors, others in ((near, p), (p, near)):
        for i in range(count):
            own = loops.dot(anchors[i], others[i]) / tau
            denominator = [loops.dot(anchors[i], x) / tau for j, x in enumerate(others) if not (decoupled and j == i)]
            denominator += [loops.dot(anchors[i], x) / tau for j, x in enumerate(anchors) if kinds and j != i]
            total += (loops.log_sum_exp(denominator) - own) / (2 * count)
    return total


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("negatives", ["columns", "all"])
def test_predictions_that_look_for_neighbours_equal_the_loop(negatives: str, decoupled: bool) -> None:
    z0, z1, p0, p1 = (loops.random_unit(6, 5, seed) for seed in range(4))
    rows = loops.random_unit(13, 5, 4)
    found = run(objective(rows, 0.3, decoupled, negatives), (z0, z1), (p0, p1))["loss"].item()
    near = nearest(z0, rows), nearest(z1, rows)
    kinds = negatives == "all"
    expected = both_ways(near[0], p1, 0.3, decoupled, kinds) + both_ways(near[1], p0, 0.3, decoupled, kinds)
    assert found == pytest.approx(expected / 2, abs=1e-10)


def test_of_equal_similarities_each_form_has_its_number_of_candidates() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    rows = torch.ones(9, 3, dtype=torch.float64) / math.sqrt(3)
    for negatives, candidates in (("predictions", 4), ("columns", 4), ("all", 7)):
        loss = run(objective(rows, negatives=negatives), (same, same), (same, same))["loss"].item()
        assert loss == pytest.approx(math.log(candidates), abs=1e-12)


def test_a_support_set_that_holds_the_batch_gives_its_own_samples_back() -> None:
    """Then the anchors are the projections themselves, and the loss is one of instance discrimination."""
    z0, z1 = core_view(0), core_view(1)
    value = run(objective(torch.cat([z0, z1])), (z0, z1), (z0, z1))["loss"].item()
    expected = 0.0
    for a, b in ((z0, z1), (z1, z0)):
        for i in range(6):
            logits = [loops.dot(a[i], x) / 0.2 for x in b]
            expected += (loops.log_sum_exp(logits) - logits[i]) / 12
    assert value == pytest.approx(expected, abs=1e-10)


def test_the_queue_is_read_before_the_first_views_projections_enter() -> None:
    rows, z0, z1 = core_queue(), core_view(0), core_view(1)
    nnclr = objective(rows)
    out = run(nnclr, (2 * z0, z1), (z0, z1))
    assert out["neighbour_similarity"] < 0.999  # a projection pushed first would be its own neighbour
    torch.testing.assert_close(nnclr.queue.read(), torch.cat([z0, rows[6:]]))


def test_gradient_reaches_predictions_and_not_projections() -> None:
    z, p = core_view(0).requires_grad_(), core_view(1).requires_grad_()
    run(objective(core_queue()), (z, z), (p, p))["loss"].backward()
    assert z.grad is None and p.grad is not None and p.grad.abs().sum() > 0.1


def test_all_similarities_equal() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    rows = torch.ones(9, 3, dtype=torch.float64) / math.sqrt(3)
    assert run(objective(rows), (same, same), (same, same))["loss"].item() == pytest.approx(math.log(4), abs=1e-12)
    decoupled = run(objective(rows, decoupled=True), (same, same), (same, same))["loss"].item()
    assert decoupled == pytest.approx(math.log(3), abs=1e-12)


def test_invariances() -> None:
    z0, z1, p0, p1 = (loops.random_unit(6, 4, seed) for seed in range(4))
    rotation = torch.linalg.qr(loops.random_unit(4, 4, 4)).Q
    rows = core_queue()
    expected = run(objective(rows), (z0, z1), (p0, p1))["loss"]
    turned = run(objective(rows @ rotation), (z0 @ rotation, z1 @ rotation), (p0 @ rotation, p1 @ rotation))["loss"]
    torch.testing.assert_close(turned, expected)
    mixed = run(objective(rows.roll(5, 0)), (z0.flip(0), z1.flip(0)), (p0.flip(0), p1.flip(0)))["loss"]
    torch.testing.assert_close(mixed, expected)


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="temperature is -1: it must be above 0"):
        objective(core_queue(), tau=-1)
    with pytest.raises(ValueError, match="size is 0: it must be at least 1"):
        NNCLR(0.2, Queue(0, 4))
