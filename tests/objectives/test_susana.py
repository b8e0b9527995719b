"""Proto-triplet and the nearest neighbours' score, against loops and the values of the authors' code."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.susana import ICNN, ProtoTriplet, icnn_score, proto_triplet
from tests.golden import golden, mix_raw
from tests.objectives import loops

LABEL = torch.tensor([0, 0, 1, 1, 2, 2])


def away(a: Tensor, b: Tensor) -> float:
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)) + 1e-6)


def test_golden_proto_triplet() -> None:
    objective, batch = ProtoTriplet(0.5), loops.batch(6, LABEL)
    out = objective(loops.outputs(mix_raw(0), mix_raw(1)), None, batch, loops.CLOCK)
    assert out["loss"].item() == pytest.approx(golden("proto_triplet: loss"), abs=1e-7)


def test_proto_triplet_equals_the_loop() -> None:
    query, support, label, total, right = mix_raw(2), mix_raw(3), [3, 1, 1, 3, 3, 0], 0.0, 0
    for i in range(6):
        to = {}
        for c in set(label):
            members = [support[j] for j in range(6) if label[j] == c]
            to[c] = away(query[i], sum(members) / len(members))  # type: ignore[arg-type]
        other = min(d for c, d in to.items() if c != label[i])
        total += max(0.0, to[label[i]] - other + 0.2) / 6
        right += to[label[i]] < other
    batch = loops.batch(6, torch.tensor(label))
    out = ProtoTriplet(0.2)(loops.outputs(query, support), None, batch, loops.CLOCK)
    assert out["loss"].item() == pytest.approx(total, abs=1e-10) and 0 < right < 6
    assert out["accuracy"].item() == pytest.approx(right / 6)


def test_a_query_has_no_loss_where_there_is_no_other_class() -> None:
    one = torch.ones(6, dtype=torch.int64)
    assert proto_triplet(mix_raw(0), one, mix_raw(1), one, 0.5)[0].tolist() == [0.0] * 6


def test_golden_score() -> None:
    score, _ = icnn_score(mix_raw(0), LABEL, 3)
    assert score.item() == pytest.approx(golden("icnn: score, k = 3, p = q = r = 2 (the loss is -log of it)"), abs=1e-7)


def test_the_score_equals_the_loop() -> None:
    z, label, k = torch.cat([mix_raw(1), mix_raw(2)]), [0, 0, 1, 1, 2, 2] * 2, 4
    terms, shares = [], []
    for i in range(12):
        near = sorted((away(z[i], z[j]), label[j] == label[i]) for j in range(12) if j != i)[:k]
        low, high = near[0][0], near[-1][0]
        scaled = [((d - low) / (high - low + 1e-6), same) for d, same in near]
        terms.append(sum(1 - d if same else d for d, same in scaled))
        shares.append(sum(same for _, same in scaled) / k)
    score = sum(math.sqrt(t / (max(terms) + 1e-6)) + math.sqrt(s) for t, s in zip(terms, shares, strict=True)) / 24
    views, batch = (mix_raw(1), mix_raw(2)), loops.batch(6, LABEL)
    out = ICNN(k)(loops.outputs(*views), None, batch, loops.CLOCK)
    assert out["score"].item() == pytest.approx(score, abs=1e-10)
    assert out["loss"].item() == pytest.approx(-math.log(score), abs=1e-10)
    assert out["same_class"].item() == pytest.approx(sum(shares) / 12)


def test_a_score_of_nothing_has_a_finite_loss() -> None:
    z = mix_raw(0)[:2].requires_grad_()
    loss = ICNN(5)(loops.outputs(z), None, loops.batch(2, torch.arange(2)), loops.CLOCK)["loss"]
    loss.backward()
    assert z.grad is not None and z.grad.isfinite().all()
    assert loss.item() < -math.log(1e-6) + 1e-9


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="margin is -1: it must be at least 0"):
        ProtoTriplet(-1)
    with pytest.raises(ValueError, match="num_neighbours is 0: it must be at least 1"):
        ICNN(0)
