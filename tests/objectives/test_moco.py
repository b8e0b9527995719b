import math
from typing import Any

import pytest
import torch

from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.memory import Queue
from ssl_framework.objectives.infonce import contrast
from ssl_framework.objectives.moco import MoCo
from tests.golden import core_queue, core_view, golden
from tests.objectives import loops


def objective(rows: torch.Tensor, tau: float = 0.2, decoupled: bool = False, **options: Any) -> MoCo:
    queue = Queue(*rows.shape).to(rows.dtype)
    queue.rows.copy_(rows)
    return MoCo(tau, queue, positive_in_denominator=not decoupled, **options)


def loss(
    q: torch.Tensor, k: torch.Tensor, rows: torch.Tensor, tau: float = 0.2, decoupled: bool = False
) -> torch.Tensor:
    moco = objective(rows, tau, decoupled)
    return moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(len(q)), loops.CLOCK)["loss"]


def test_golden() -> None:
    value = loss(core_view(0), core_view(1), core_queue()).item()
    assert value == pytest.approx(golden("moco: loss, q=Z0, k=Z1, queue=Qu"), abs=1e-7)


@pytest.mark.parametrize("decoupled", [False, True])
def test_equals_the_loop(decoupled: bool) -> None:
    q, k, rows = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1), loops.random_unit(11, 7, 2)
    expected = loops.moco(q, k, rows, 0.3, decoupled=decoupled)
    assert loss(q, k, rows, 0.3, decoupled).item() == pytest.approx(expected, abs=1e-10)


def test_the_queue_is_read_before_it_is_written() -> None:
    """A key pushed first is its own negative, and the loss could not fall below log 2."""
    z = torch.eye(4, dtype=torch.float64)
    queue = -torch.ones(8, 4, dtype=torch.float64) / 2
    assert loss(z, z, queue, 0.05).item() < 1e-6


def test_keys_enter_the_queue_unchanged() -> None:
    rows, k = core_queue(), core_view(1)
    moco = objective(rows)
    moco([{"projector": core_view(0)}, None], [None, {"projector": 3 * k}], loops.batch(6), loops.CLOCK)
    torch.testing.assert_close(moco.queue.read(), torch.cat([k, rows[6:]]))


def test_gradient_reaches_the_query_and_not_the_key() -> None:
    q, k = core_view(0).requires_grad_(), core_view(1).requires_grad_()
    loss(q, k.detach(), core_queue()).backward()
    assert q.grad is not None and q.grad.abs().sum() > 0.1


def test_all_similarities_equal_gives_log_of_the_number_of_logits() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert loss(same, same, torch.ones(9, 3, dtype=torch.float64) / math.sqrt(3)).item() == pytest.approx(
        math.log(10), abs=1e-12
    )


def test_proxy_accuracy_counts_positives_that_rank_first() -> None:
    q, k, rows = loops.random_unit(8, 4, 0), loops.random_unit(8, 4, 1), loops.random_unit(12, 4, 2)
    moco = objective(rows)
    out = moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(8), loops.CLOCK)
    first = [loops.dot(q[i], k[i]) > max(loops.dot(q[i], row) for row in rows) for i in range(8)]
    assert out["proxy_accuracy"].item() == pytest.approx(sum(first) / 8)
    assert 0 < sum(first) < 8


def test_invariances() -> None:
    rotation = torch.linalg.qr(loops.random_unit(4, 4, 4)).Q
    q, k, rows = core_view(0), core_view(1), core_queue()
    expected = loss(q, k, rows)
    torch.testing.assert_close(loss(q @ rotation, k @ rotation, rows @ rotation), expected)
    torch.testing.assert_close(loss(q.flip(0), k.flip(0), rows.roll(5, 0)), expected)


def test_dclw_weighs_the_positives_of_the_queue_form() -> None:
    q, k, rows = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1), loops.random_unit(11, 7, 2)
    moco = objective(rows, 0.3, decoupled=True, weight_sigma=0.5)
    out = moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(5), loops.CLOCK)
    closeness = [math.exp(loops.dot(q[i], k[i]) / 0.5) for i in range(5)]
    expected = multiplier = 0.0
    for i in range(5):
        weight = 2 - closeness[i] / (sum(closeness) / 5)
        negatives = loops.log_sum_exp([loops.dot(q[i], row) / 0.3 for row in rows])
        expected += (negatives - weight * loops.dot(q[i], k[i]) / 0.3) / 5
        multiplier += 1 / (1 + math.exp(loops.dot(q[i], k[i]) / 0.3 - negatives)) / 5
    assert out["loss"].item() == pytest.approx(expected, abs=1e-10)
    assert out["npc_multiplier"].item() == pytest.approx(multiplier, abs=1e-10)


def test_the_class_oracle_leaves_out_the_query_s_own_class() -> None:
    q, k, rows = loops.random_unit(4, 5, 0), loops.random_unit(4, 5, 1), loops.random_unit(32, 5, 2)
    classes, label = torch.arange(32) % 3, torch.tensor([0, 1, 2, 7])
    moco = objective(rows, 0.2, class_oracle=True)
    assert moco.requires == {"teacher", "label"} and (moco.classes == -1).all()
    moco.classes.copy_(classes)
    out = moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(4, label), loops.CLOCK)
    expected = share = 0.0
    for i in range(4):
        others = rows[[j for j in range(32) if classes[j] != label[i]]]
        expected += loops.moco(q[i : i + 1], k[i : i + 1], others, 0.2) / 4
        near = sorted(range(32), key=lambda j: -loops.dot(q[i], rows[j]))[:2]  # a sixteenth of the queue
        share += sum(int(classes[j] == label[i]) for j in near) / 8
    assert out["loss"].item() == pytest.approx(expected, abs=1e-10)
    assert out["false_negatives"].item() == pytest.approx(share)
    assert torch.equal(moco.classes, torch.cat([label, classes[4:]]))
    assert "classes" in moco.state_dict()


def test_a_queue_of_the_query_s_class_alone_leaves_only_the_positive() -> None:
    q = core_view(0).requires_grad_()
    moco = objective(core_queue(), class_oracle=True)
    moco.classes.fill_(1)
    label = torch.ones(6, dtype=torch.long)
    loss = moco([{"projector": q}, None], [None, {"projector": core_view(1)}], loops.batch(6, label), loops.CLOCK)[
        "loss"
    ]
    loss.backward()
    assert loss.item() == 0 and q.grad is not None and q.grad.abs().max() < 1e-12


def test_score_statistics_equal_loops() -> None:
    q, k, rows = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1), loops.random_unit(11, 7, 2)
    out = objective(rows)([{"projector": q}, None], [None, {"projector": k}], loops.batch(5), loops.CLOCK)
    scores = [[loops.dot(q[i], row) for row in rows] for i in range(5)]
    means = [sum(s) / 11 for s in scores]
    variances = [sum((x - m) ** 2 for x in s) / 11 for s, m in zip(scores, means, strict=True)]
    assert out["positive_similarity"].item() == pytest.approx(sum(loops.dot(q[i], k[i]) for i in range(5)) / 5)
    assert out["negative_similarity"].item() == pytest.approx(sum(means) / 5)
    assert out["negative_variance"].item() == pytest.approx(sum(variances) / 5)


def test_the_age_of_the_queue_is_logged() -> None:
    z = core_view(0)
    moco = objective(core_queue())  # 12 rows, 6 keys a step
    for step, age in ((0, 0.0), (1, 1.0), (2, 1.5), (9, 1.5)):
        out = moco([{"projector": z}, None], [None, {"projector": z}], loops.batch(6), loops.CLOCK._replace(step=step))
        assert out["queue_age"].item() == age


def test_queries_whose_hardest_negative_was_made_by_a_mixer_are_counted() -> None:
    q, k, rows = loops.random_unit(8, 5, 0), loops.random_unit(8, 5, 1), loops.random_unit(6, 5, 2)
    extra = loops.random_unit(24, 5, 3).view(8, 3, 5)
    expected = [max(float(n @ q[i]) for n in extra[i]) > max(float(n @ q[i]) for n in rows) for i in range(8)]
    assert 0 < sum(expected) < 8
    found = contrast(MixedFeatures(q, k, rows, extra=extra), 0.2, positive_in_denominator=True)
    assert found.synthetic is not None and found.synthetic.tolist() == expected
    assert found.logged()["hardest_synthetic"].item() == sum(expected) / 8
    assert "hardest_synthetic" not in contrast(MixedFeatures(q, k, rows), 0.2, positive_in_denominator=True).logged()
