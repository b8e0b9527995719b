import math

import pytest
import torch
from torch import Tensor

from ssl_framework.functional import positions
from ssl_framework.models.dense_heads import PixelPropagation
from ssl_framework.models.heads import built
from ssl_framework.objectives.pixpro import PixPro, consistency, near
from ssl_framework.types import Geometry
from tests.golden import golden
from tests.objectives import loops, maps

Q, K = (maps.unit_channels(make(2, 3, 2, 2)) for make in (maps.sin_map, maps.cos_map))
OF_Q = maps.cut((0.0, 0.0, 0.5, 0.5), (0.1, 0.2, 0.9, 0.8))
OF_K = maps.cut((0.1, 0.1, 0.6, 0.6), (0.8, 0.3, 0.2, 0.9))


def one_way(q: Tensor, k: Tensor, of_q: Geometry, of_k: Geometry, threshold: float) -> float:
    close = near(of_q, of_k, tuple(q.shape[2:]), tuple(k.shape[2:]), threshold)  # type: ignore[arg-type]
    return consistency(positions(q), positions(k), close.double()).item()


def one_way_by_loop(q: Tensor, k: Tensor, of_q: Geometry, of_k: Geometry, threshold: float) -> float:
    total = 0.0
    for b in range(len(q)):
        cosines, diagonals = [], []
        for x, geometry in ((q, of_q), (k, of_k)):
            x0, y0, x1, y1 = geometry.box[b].tolist()
            diagonals.append(math.hypot((x1 - x0) / x.shape[3], (y1 - y0) / x.shape[2]))
        for r, c in ((r, c) for r in range(q.shape[2]) for c in range(q.shape[3])):
            for s, d in ((s, d) for s in range(k.shape[2]) for d in range(k.shape[3])):
                here, there = maps.place(of_q, b, r, c, *q.shape[2:]), maps.place(of_k, b, s, d, *k.shape[2:])
                if math.dist(here, there) / max(diagonals) < threshold:
                    cosines.append(loops.dot(q[b, :, r, c], k[b, :, s, d]))
        total += -2 * sum(cosines) / (len(cosines) + 1e-6)
    return total / len(q)


@pytest.mark.parametrize("threshold", [0.7, 1.0])
def test_golden(threshold: float) -> None:
    expected = golden(f"pixpro: one-way loss [threshold={threshold}]")
    assert one_way(Q, K, OF_Q, OF_K, threshold) == pytest.approx(expected, abs=1e-7)
    assert one_way_by_loop(Q, K, OF_Q, OF_K, threshold) == pytest.approx(expected, abs=1e-7)


def propagation(gamma: float, identity: bool = True) -> PixelPropagation:
    head = built(PixelPropagation("x", gamma), {"x": 3}).double()
    if identity:
        torch.nn.init.eye_(head.transform.weight.data[:, :, 0, 0])
        torch.nn.init.zeros_(head.transform.bias)
    return head


def test_golden_propagation() -> None:
    y = propagation(2.0)({"x": Q})
    expected = golden("pixpro: propagated vector of image 0, pixel 0 (identity transform, before normalisation)")
    assert y[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 4.0])
def test_propagation_equals_the_loop(gamma: float) -> None:
    x, head = maps.random_map(0, 2, 3, 2, 3), propagation(gamma, identity=False)
    y = head({"x": x})
    assert y.shape == x.shape
    value = maps.unit_channels(head.transform(x))
    for b in range(2):
        for i in range(6):
            total = torch.zeros(3, dtype=torch.float64)
            for j in range(6):
                u, v = x[b, :, i // 3, i % 3], x[b, :, j // 3, j % 3]
                alike = max(0.0, loops.dot(u, v) / float(u.norm() * v.norm()))
                total += (alike + (1e-6 if gamma < 1 else 0)) ** gamma * value[b, :, j // 3, j % 3]
            torch.testing.assert_close(y[b, :, i // 3, i % 3], total, rtol=1e-9, atol=1e-9)


def test_both_directions_are_added_and_positions_become_unit_vectors() -> None:
    p, k = [[maps.random_map(seed, 2, 3, *size) for size in ((2, 3), (3, 2))] for seed in (1, 2)]
    student = [{"propagation": x} for x in p]
    teacher = [{"dense_projector": x} for x in k]
    out = PixPro(1.3)(student, teacher, maps.batch(OF_Q, OF_K), loops.CLOCK)
    p, k = [[maps.unit_channels(x) for x in side] for side in (p, k)]
    expected = one_way_by_loop(p[0], k[1], OF_Q, OF_K, 1.3) + one_way_by_loop(p[1], k[0], OF_K, OF_Q, 1.3)
    assert out["loss"].item() == pytest.approx(expected, abs=1e-9)


def test_views_with_nothing_in_common_cost_nothing_and_count() -> None:
    """The same view twice, unflipped, is four matches of a position with itself."""
    apart = maps.cut((0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 1.0, 1.0)), maps.cut((0.6, 0.6, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0))
    out = PixPro(0.7)([{"propagation": Q}] * 2, [{"dense_projector": Q}] * 2, maps.batch(*apart), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(2 * (0 - 2) / 2, abs=1e-5)
    assert out["near_positions"].item() == 0.5
    mirror = maps.cut((1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0))
    whole = maps.cut((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0))
    flipped = torch.stack([Q[0].flip(2), Q[1]])
    student, teacher = ([{name: x} for x in (Q, flipped)] for name in ("propagation", "dense_projector"))
    out = PixPro(0.5)(student, teacher, maps.batch(whole, mirror), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(-4, abs=1e-5)
