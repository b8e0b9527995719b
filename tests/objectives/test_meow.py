"""MEOW: golden values, a loop, rows without a negative, and what is clustered."""

import math

import pytest
import torch

from ssl_framework.objectives.meow import MEOW, disagreement, weighted_nce
from ssl_framework.objectives.pcl import proto_nce
from ssl_framework.types import Clock
from tests.golden import golden, mix_rows
from tests.objectives import loops

CLUSTERINGS = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]])


def test_golden() -> None:
    a, b = mix_rows(0), mix_rows(1)
    weight = disagreement(CLUSTERINGS, CLUSTERINGS, 0)
    expected = golden("meow: weighted InfoNCE, anchors A, keys B")
    assert weighted_nce(a, b, b, weight, 0.4).item() == pytest.approx(expected, abs=1e-7)
    terms = []
    for own, density in zip(CLUSTERINGS, (0.5, 0.4), strict=True):
        means = torch.stack([b[own == k].mean(0) for k in range(int(own.max()) + 1)])
        prototypes = means / means.norm(dim=1, keepdim=True)
        phi = torch.full((len(means),), density, dtype=torch.float64)
        terms.append(proto_nce(a, torch.arange(6), prototypes, phi, own).item())
    expected = golden("meow: ProtoNCE as plain cross entropy over prototypes")
    assert sum(terms) / 2 == pytest.approx(expected, abs=1e-7)
    constant = (math.log(6 / 3) + math.log(6 / 2)) / 2  # what the released code's denominator has beside it
    expected = golden("meow: ProtoNCE as released (denominator = N times the mean over prototypes)")
    assert sum(terms) / 2 + constant == pytest.approx(expected, abs=1e-7)


def test_weights_count_the_clusterings_that_put_two_apart() -> None:
    own = torch.tensor([[0, 0, -1], [0, 1, -1]])
    assert disagreement(own, own, 0).tolist() == [[0, 1, 2], [1, 0, 2], [2, 2, 0]]
    assert disagreement(own[:, 1:], own, 1).tolist() == [[1, 0, 2], [2, 2, 0]]  # of the second rank


def test_the_loss_equals_the_loop_and_leaves_out_rows_without_a_negative() -> None:
    a, b = loops.random_unit(4, 5, 0), loops.random_unit(4, 5, 1)
    weight = torch.tensor([[0, 2, 1, 0], [2, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    total = 0.0
    for i in (0, 1, 3):
        below = sum(int(weight[i, j]) * math.exp(loops.dot(a[i], b[j]) / 0.3) for j in range(4))
        total += math.log(below) - loops.dot(a[i], b[i]) / 0.3
    z = a.clone().requires_grad_()
    loss = weighted_nce(z, b, b, weight, 0.3)
    assert loss.item() == pytest.approx(total / 3, abs=1e-12)
    loss.backward()
    assert z.grad is not None and z.grad.isfinite().all() and z.grad[2].eq(0).all()


def test_keys_are_clustered_after_the_first_epoch() -> None:
    torch.manual_seed(0)
    made = MEOW([2, 3], 20, 0.4, 0.4, 10.0, 1.0, 1, 3)
    made.allocate(8)
    keys = torch.cat([torch.randn(4, 3) * 0.1 + 2, torch.randn(4, 3) * 0.1 - 2])
    first = made(loops.outputs(torch.randn(8, 3), keys), None, loops.batch(8), Clock(0, 0, 4))
    assert first["prototype_loss"] == 0 and made.get_buffer("assigned").eq(-1).all()
    made.on_epoch(Clock(1, 1, 4))
    coarse = made.get_buffer("assigned")[0]
    assert coarse[:4].unique().numel() == coarse[4:].unique().numel() == 1 and coarse[0] != coarse[4]
    second = made(loops.outputs(keys, keys), None, loops.batch(8), Clock(1, 1, 4))
    assert second["prototype_loss"] > 0
    assert second["loss"].item() == pytest.approx((second["instance_loss"] + second["prototype_loss"]).item())
