import math

import pytest
import torch
from torch import Tensor

from ssl_framework.functional import positions
from ssl_framework.models.dense_heads import DenseHead, Prototypes
from ssl_framework.models.heads import built
from ssl_framework.objectives.slotcon import SlotCon, found, slots
from ssl_framework.types import Geometry
from ssl_framework.views.places import read_at, shared
from tests.golden import golden
from tests.objectives import loops, maps

X, Y = maps.sin_map(2, 3, 2, 2), maps.cos_map(2, 3, 2, 2)
PROTOTYPES = maps.cos_map(4, 3)


def cosines(x: Tensor) -> Tensor:
    head = built(Prototypes("x", 4), {"x": 3}).double()
    head.rows.data = PROTOTYPES.clone()
    return head({"x": x}).detach()


def objective(weight: float = 0.5) -> SlotCon:
    """The predictor is the identity."""
    made = SlotCon(0.1, 0.07, 0.2, weight, 0.9, DenseHead("slots", [], 3)).double()
    made.meet({"dense_projector": 3, "prototypes": 4})
    made.double()
    layer = made.predictor.layers[0]  # type: ignore[union-attr, index]
    torch.nn.init.eye_(layer.weight.data[:, :, 0, 0])
    torch.nn.init.zeros_(layer.bias)
    return made


def outputs(*views: Tensor) -> list:
    return [{"dense_projector": x, "prototypes": cosines(x)} for x in views]


def test_golden() -> None:
    s = cosines(X)
    found_slots = slots(positions(X), positions(s), 0.07)
    assert found_slots[0, 0].tolist() == pytest.approx(golden("slotcon: slot 0 of image 0"), abs=1e-7)
    expected = golden("slotcon: grouping cross entropy, student map sin, teacher map cos(.3+.45n), centre 0")
    everywhere = torch.tensor([True, True])
    value = objective().grouping(positions(s), positions(cosines(Y)), everywhere)
    assert value.item() == pytest.approx(expected, abs=1e-7)


def soft(values: list[float], tau: float) -> list[float]:
    total = loops.log_sum_exp([v / tau for v in values])
    return [math.exp(v / tau - total) for v in values]


def winners(scores: Tensor) -> list[int]:
    """Prototypes [K, h, w] that win a position."""
    return sorted({int(column.argmax()) for column in scores.flatten(1).T})


def slots_by_loop(x: Tensor, scores: Tensor) -> list[Tensor]:
    share = [[p + 1e-6 for p in soft(column.tolist(), 0.07)] for column in scores.flatten(1).T]
    rows = list(x.flatten(1).T)
    return [
        sum(share[p][k] * rows[p] for p in range(len(rows))) / sum(one[k] for one in share)  # type: ignore[misc]
        for k in range(len(scores))
    ]


def read_by_loop(scores: Tensor, geometry: Geometry, both: Geometry, b: int) -> list[list[float]]:
    """Scores [K, h, w] of image b's view, bilinear at the centres of an h x w grid over ``both``: [P][K]."""
    _, height, width = scores.shape
    x0, y0, x1, y1 = geometry.box[b].tolist()
    values = []
    for r in range(height):
        for c in range(width):
            x, y = maps.place(both, b, r, c, height, width)
            u, v = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
            u = 1 - u if geometry.flip[b] else u
            column, row = (min(max(t * n - 0.5, 0.0), n - 1.0) for t, n in ((u, width), (v, height)))
            left, top = int(column), int(row)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            across, down = column - left, row - top
            values.append(
                [
                    float(
                        (1 - down) * ((1 - across) * s[top, left] + across * s[top, right])
                        + down * ((1 - across) * s[bottom, left] + across * s[bottom, right])
                    )
                    for s in scores
                ]
            )
    return values


PLACES = [
    maps.cut((0.0, 0.1, 0.6, 0.8), (0.1, 0.0, 0.9, 0.7), (0.0, 0.0, 0.3, 0.3)),
    maps.cut((0.2, 0.0, 0.9, 0.6), (0.8, 0.2, 0.3, 1.0), (0.5, 0.5, 0.9, 0.8)),  # mirrored; nothing in common
]


@pytest.mark.parametrize("weight", [1.0, 0.0, 0.3])
def test_equals_the_loop(weight: float) -> None:
    x, y = ([maps.random_map(seed, 3, 3, 2, 3) for seed in pair] for pair in ((0, 1), (2, 3)))
    s, t = ([cosines(z) for z in side] for side in (x, y))
    made = objective(weight)
    made.center.copy_(torch.tensor([0.1, -0.2, 0.05, 0.0]))
    center = made.center.tolist()
    out = made(outputs(*x), outputs(*y), maps.batch(*PLACES), loops.CLOCK)
    both = shared(*PLACES)
    expected = 0.0
    for v in range(2):
        terms = []
        for b in range(2):  # the third image's views have nothing in common
            here, there = (read_by_loop(z[w][b], PLACES[w], both, b) for z, w in ((s, v), (t, 1 - v)))
            for own, other in zip(here, there, strict=True):
                target = soft([o - m for o, m in zip(other, center, strict=True)], 0.07)
                terms.append(-sum(p * math.log(q) for p, q in zip(target, soft(own, 0.1), strict=True)))
        expected += weight * sum(terms) / len(terms)
        keys = {}
        for b in range(3):
            made_of = slots_by_loop(y[1 - v][b], t[1 - v][b])
            keys |= {(b, k): made_of[k] / made_of[k].norm() for k in winners(t[1 - v][b])}
        terms = []
        for b in range(3):
            made_of = slots_by_loop(x[v][b], s[v][b])
            for k in winners(s[v][b]):
                if (b, k) in keys:
                    q = made_of[k] / made_of[k].norm()
                    logits = {key: loops.dot(q, row) / 0.2 for key, row in keys.items()}
                    terms.append(loops.log_sum_exp(list(logits.values())) - logits[b, k])
        assert 0 < len(terms) < 12
        expected += (1 - weight) * 2 * 0.2 * sum(terms) / len(terms)
    assert out["loss"].item() == pytest.approx(expected, abs=1e-7)
    assert out["overlapping"].item() == pytest.approx(2 / 3)
    mean = torch.stack(t).mean(dim=(0, 1, 3, 4))  # after the loss, of the maps as they are
    torch.testing.assert_close(made.center, 0.9 * torch.tensor(center).double() + 0.1 * mean)


def test_maps_are_read_where_both_views_lie() -> None:
    """The right half of a view, and of the mirrored one its left."""
    scores = torch.arange(8.0).view(1, 1, 2, 4)
    whole, right = maps.cut((0.0, 0.0, 1.0, 1.0)), maps.cut((0.5, 0.0, 1.0, 1.0))
    torch.testing.assert_close(read_at(whole, scores, whole)[0, :, 0], scores.flatten())
    expected = torch.tensor([1.75, 2.25, 2.75, 3.0, 5.75, 6.25, 6.75, 7.0])
    torch.testing.assert_close(read_at(right, scores, whole)[0, :, 0], expected)
    mirror = maps.cut((1.0, 0.0, 0.0, 1.0))
    torch.testing.assert_close(read_at(right, scores.flip(3), mirror)[0, :, 0], expected)
    assert shared(whole, right).box.tolist() == [[0.5, 0.0, 1.0, 1.0]]


def test_what_is_found_is_what_wins_a_position() -> None:
    s = torch.tensor([[[0.1, 0.5, 0.2], [0.3, 0.9, 0.4]], [[0.7, 0.5, 0.2], [0.3, 0.1, 0.4]]])
    assert found(s).tolist() == [[False, True, False], [True, False, True]]
