"""Weights of pairs by what their maps have in common, and the host's loss under them: golden values and loops."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.memory import Queue
from ssl_framework.objectives.genview import GenView, likeness, places, weights
from ssl_framework.objectives.moco import MoCo
from ssl_framework.objectives.simclr import SimCLR
from tests.golden import core_view, golden
from tests.objectives import loops


def test_golden_weights() -> None:
    front, back = torch.tensor([0.9, 0.8, 0.6, 0.95]).double(), torch.tensor([0.7, 0.2, 0.5, 0.9]).double()
    expected = torch.tensor(golden("genview: sample weights")).double()
    torch.testing.assert_close(weights(front, back, 1.0), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(weights(front, back, 0.0), torch.ones(4).double())


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_likeness_against_loops() -> None:
    """The axis by an eigenvalue decomposition; levels, pooling and cosines place by place."""
    torch.manual_seed(0)
    a, b = torch.randn(3, 5, 4).double(), torch.randn(3, 6, 4).double()
    a[..., 0] *= 4  # a clear first axis
    b[..., 0] *= 4
    rows = [row for x in (a, b) for picture in x for row in picture]
    centre = sum(rows) / len(rows)
    spread = sum(torch.outer(row - centre, row - centre) for row in rows) / len(rows)
    axis = torch.linalg.eigh(spread).eigenvectors[:, -1]
    sizes = [float((row - centre).norm()) for row in rows]
    mean = sum(sizes) / len(sizes)
    sign = sum(float((row - centre) @ axis) * (size - mean) for row, size in zip(rows, sizes, strict=True))
    axis = axis * math.copysign(1, sign)
    front, back = likeness(a, b)
    for i in range(3):
        pooled = []
        for picture in (a[i], b[i]):
            level = [float((row - centre) @ axis) for row in picture]
            share = [(x - min(level)) / (max(level) - min(level)) for x in level]
            pooled.append(
                [
                    [sum(w * float(row[d]) for w, row in zip(ws, picture, strict=True)) for d in range(4)]
                    for ws in (share, [1 - s for s in share])
                ]
            )
        assert front[i].item() == pytest.approx(cosine(pooled[0][0], pooled[1][0]), abs=1e-6)
        assert back[i].item() == pytest.approx(cosine(pooled[0][1], pooled[1][1]), abs=1e-6)


def outputs(z: Tensor, maps: Tensor) -> dict[str, Tensor]:
    return {"projector": z, "map": maps}


def test_the_loss_is_that_of_the_host_under_the_weights() -> None:
    z0, z1 = core_view(0), core_view(1)
    torch.manual_seed(1)
    maps = [torch.randn(6, 4, 2, 3).double().requires_grad_() for _ in range(2)]
    student = [outputs(z0, maps[0]), outputs(z1, maps[1])]
    out = GenView(SimCLR(0.5), 1.0)(student, None, loops.batch(6), loops.CLOCK)
    weight = weights(*likeness(*(places(x.detach()) for x in maps)), 1.0)
    both = torch.cat([z0, z1])
    terms = []
    for i in range(6):
        for own, other in ((i, i + 6), (i + 6, i)):
            others = [float(both[own] @ both[k]) / 0.5 for k in range(12) if k != own]
            terms.append(float(weight[i]) * (loops.log_sum_exp(others) - float(both[own] @ both[other]) / 0.5))
    assert out["loss"].item() == pytest.approx(sum(terms) / 12, abs=1e-9)
    assert out["host_loss"].item() == pytest.approx(golden("ntxent: loss [tau=0.5]"), abs=1e-7)
    assert out["weight_max"] > 1 > out["weight_min"] and weight.mean().item() == pytest.approx(1)
    alike = GenView(SimCLR(0.5), 0.0)(student, None, loops.batch(6), loops.CLOCK)
    assert alike["loss"].item() == pytest.approx(golden("ntxent: loss [tau=0.5]"), abs=1e-7)
    assert out["loss"].requires_grad is False  # maps decide, and get no gradient


def test_shapes_of_places_and_maps_that_say_nothing() -> None:
    assert places(torch.zeros(2, 4, 3, 5)).shape == (2, 15, 4) and places(torch.zeros(2, 7, 4)).shape == (2, 7, 4)
    one = torch.ones(3, 5, 4)
    assert all(x.isfinite().all() for x in likeness(one, one))
    torch.testing.assert_close(weights(*likeness(one, one), 1.0), torch.ones(3))


def test_what_does_not_fit_is_refused() -> None:
    z = core_view(0)
    with pytest.raises(ValueError, match=r"GenView reads map of both views of the student, which this run lacks"):
        GenView(SimCLR(0.5), 1.0)(loops.outputs(z, z), None, loops.batch(6), loops.CLOCK)
    with pytest.raises(ValueError, match=r"objective\.host is MoCo"):
        GenView(MoCo(0.2, Queue(4, 4), class_oracle=True), 1.0)
