import pytest
import torch

from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.feature_mixers.hallucinator import Hallucinator
from ssl_framework.functional import SameClass
from ssl_framework.objectives.dcl import DCL
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.types import Clock
from tests.golden import core_queue, core_view
from tests.objectives import loops
from tests.objectives.test_moco import objective

CLOCK = Clock(step=50, epoch=5, total_steps=100)


def mixer(max_push: float = 0.1) -> Hallucinator:
    torch.manual_seed(0)
    return Hallucinator(4, [5, 3], max_push).double()


@torch.no_grad()
def by_hand(m: Hallucinator, q: torch.Tensor, k: torch.Tensor, push: float) -> torch.Tensor:
    """Row by row: linear, ReLU, linear, ReLU, linear of [q; (1 + l) q - l k], then length one."""
    out = []
    for a, b in zip(q, k, strict=True):
        x = torch.cat([a, (1 + push) * a - push * b])
        for layer in (0, 2, 4):
            linear = m.generator[layer]
            x = linear.weight @ x + linear.bias
            x = x.clamp(min=0) if layer < 4 else x
        out.append(x / x.norm())
    return torch.stack(out)


def push_of(m: Hallucinator) -> float:
    return m.max_push * torch.rand((), generator=CLOCK.generator(), dtype=torch.float64).item()


def test_queries_are_doubled_and_find_the_same_keys() -> None:
    q, k, m = core_view(0), core_view(1), mixer()
    features = m(MixedFeatures(q, k, core_queue()), CLOCK)
    torch.testing.assert_close(features.q, torch.cat([q, by_hand(m, q, k, push_of(m))]))
    assert torch.equal(features.k, torch.cat([k, k])) and torch.equal(features.negatives, core_queue())
    assert 0 < push_of(m) < 0.1
    assert not torch.equal(m(MixedFeatures(q, k, core_queue()), CLOCK._replace(step=51)).q, features.q)


def test_on_moco_it_is_the_mean_of_both_kinds_of_queries() -> None:
    q, k, m = core_view(0), core_view(1), mixer()
    moco = objective(core_queue())
    moco.feature_mixer = m
    got = moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(6), CLOCK)["loss"]
    hallucinated = by_hand(m, q, k, push_of(m))
    expected = (loops.moco(q, k, core_queue(), 0.2) + loops.moco(hallucinated, k, core_queue(), 0.2)) / 2
    assert got.item() == pytest.approx(expected, abs=1e-10)
    torch.testing.assert_close(moco.queue.read()[:6], k)  # each key once


@pytest.mark.parametrize("decoupled", [False, True])
def test_on_simclr_no_view_of_the_own_image_is_a_negative(decoupled: bool) -> None:
    z0, z1, m = core_view(0), core_view(1), mixer()
    host = DCL(0.5, None) if decoupled else SimCLR(0.5)
    host.feature_mixer = m
    got = host([{"projector": z0}, {"projector": z1}], None, loops.batch(6), CLOCK)["loss"]
    z = torch.stack([z0, z1], dim=1).flatten(0, 1)
    expected = 0.0
    for queries in (z, by_hand(m, z, torch.stack([z1, z0], dim=1).flatten(0, 1), push_of(m))):
        for a in range(12):
            positive = loops.dot(queries[a], z[a ^ 1]) / 0.5
            negatives = [loops.dot(queries[a], z[j]) / 0.5 for j in range(12) if j // 2 != a // 2]
            expected += (loops.log_sum_exp(negatives if decoupled else [positive, *negatives]) - positive) / 24
    assert got.item() == pytest.approx(expected, abs=1e-10)


def test_the_class_oracle_holds_for_hallucinated_queries_too() -> None:
    label, classes = torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(12) % 3
    features = mixer()(MixedFeatures(core_view(0), core_view(1), core_queue(), (SameClass(label, classes),)), CLOCK)
    (left_out,) = features.left_out
    assert isinstance(left_out, SameClass)
    assert torch.equal(left_out.anchor, torch.cat([label, label])) and torch.equal(left_out.key, classes)


def test_network_and_query_learn_and_the_key_of_moco_does_not() -> None:
    q, m = core_view(0).requires_grad_(), mixer()
    moco = objective(core_queue())
    moco.feature_mixer = m
    moco([{"projector": q}, None], [None, {"projector": core_view(1)}], loops.batch(6), CLOCK)["loss"].backward()
    assert q.grad is not None and all(p.grad is not None and p.grad.abs().sum() > 0 for p in m.parameters())


def test_without_a_push_the_network_sees_the_query_twice() -> None:
    q, k, m = core_view(0), core_view(1), mixer(max_push=0.0)
    torch.testing.assert_close(m(MixedFeatures(q, k, core_queue()), CLOCK).q[6:], by_hand(m, q, k, 0.0))
    with pytest.raises(ValueError, match=r"Hallucinator's max_push is -1"):
        mixer(max_push=-1)
