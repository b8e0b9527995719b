import math

import pytest
import torch
from scipy.stats import pearsonr, rankdata
from torch import Tensor

from ssl_framework.objectives.codiemb import CoDiEmb, retrieval, similarity_terms
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops

GOLD = torch.tensor([0.2, 0.9, 0.5, 0.5, 1.0, 0.0], dtype=torch.float64)
ALL = torch.ones(6, dtype=torch.bool)


def objective(positives: int = 1, middle: float = 0.0) -> CoDiEmb:
    return CoDiEmb(0.05, positives, 0.05, 2.0, 0.5, 5.0, middle)


def loss(model: CoDiEmb, label: Tensor, *views: Tensor) -> dict[str, float]:
    batch = loops.batch(len(label))._replace(label=label)
    return {name: x.item() for name, x in model(loops.outputs(*views), None, batch, loops.CLOCK).items()}


def test_golden_of_similarity() -> None:
    pearson, divergence, order, total = golden(
        "codiemb: Pearson loss; rank KL loss; PRO loss; 2 Pearson + 0.5 PRO + 5 KL"
    )
    found = similarity_terms((mix_rows(0) * mix_rows(1)).sum(dim=1), GOLD, ALL, 0.05)
    assert [x.item() for x in found] == pytest.approx([pearson, order, divergence], rel=1e-7)
    assert loss(objective(), GOLD, mix_rows(0), mix_rows(1))["loss"] == pytest.approx(total, rel=1e-7)


def test_golden_of_retrieval() -> None:
    passages = mix_raw(1, 18).view(6, 3, 8)
    views = [mix_rows(0), *passages.unbind(dim=1)]
    found = loss(objective(positives=2), torch.full((6,), -1.0), *views)
    wanted = golden("codiemb: IR loss, two positives and one hard negative a query")
    assert found["loss"] == pytest.approx(wanted, rel=1e-7) and found["similarity"] == 0


def by_loops(s: list[float], y: list[float], tau: float) -> tuple[float, float, float]:
    """Pearson's, PRO's and the divergence of a batch, as the authors' code: scipy's ranks and a loop over pairs."""
    n = len(s)
    rank = rankdata([-value for value in y], method="average") - 1
    height = [(n - 1 - r) / (n - 1) / tau for r in rank]
    target = [math.exp(h - loops.log_sum_exp(height)) for h in height]
    logs = [value / tau - loops.log_sum_exp([x / tau for x in s]) for value in s]
    divergence = sum(t * (math.log(t) - q) for t, q in zip(target, logs, strict=True)) / n
    each = []
    for k in range(n):
        below = [j for j in range(n) if y[j] < y[k]]
        if below:
            own = s[k] * max(y[k] - y[j] for j in below) / tau
            each.append(loops.log_sum_exp([own, *(s[j] * (y[k] - y[j]) / tau for j in below)]) - own)
    return 1 - float(pearsonr(s, y).statistic), sum(each) / len(each), divergence


def test_similarity_equals_the_loop_over_the_pairs_that_have_a_score() -> None:
    generator = torch.Generator().manual_seed(0)
    s = 2 * torch.rand(9, generator=generator, dtype=torch.float64) - 1
    y = torch.tensor([0.4, -1, 0.4, 0.8, 0.8, 0.8, -1, 0.0, 1.0], dtype=torch.float64)
    found = similarity_terms(s, y, y >= 0, 0.3)
    wanted = by_loops(s[y >= 0].tolist(), y[y >= 0].tolist(), 0.3)
    assert [x.item() for x in found] == pytest.approx(wanted, abs=1e-10)


def test_retrieval_equals_the_loop_over_those_that_ask() -> None:
    z = [loops.random_unit(5, 4, seed) for seed in range(5)]  # texts, two answers, two negatives
    asks = torch.tensor([True, False, True, True, False])
    rows = [row for row in range(5) if asks[row]]
    wanted = []
    for i in rows:
        for answers in z[1:3]:
            own = loops.dot(z[0][i], answers[i]) / 0.3
            keys = [answers[j] for j in rows] + [view[j] for view in z[3:] for j in rows]
            wanted.append(loops.log_sum_exp([loops.dot(z[0][i], key) / 0.3 for key in keys]) - own)
    found = retrieval(z, asks, asks, 2, 0.3)
    assert found.item() == pytest.approx(sum(wanted) / len(wanted), abs=1e-10)


def test_alike_pairs_look_for_each_other_in_the_middle_among_all_pairs_with_a_score() -> None:
    label = torch.tensor([1.0, 0.4, -1.0, 1.0, 0.8])
    z, m = [loops.random_unit(5, 4, seed) for seed in (0, 1)], [loops.random_unit(5, 3, seed) for seed in (2, 3)]
    keys = [row for row in range(5) if label[row] >= 0]
    logits = {i: [loops.dot(m[0][i], m[1][j]) / 0.05 for j in keys] for i in (0, 3)}
    wanted = [loops.log_sum_exp(row) - row[keys.index(i)] for i, row in logits.items()]
    outputs = [{"projector": a, "middle": 2 * b} for a, b in zip(z, m, strict=True)]
    batch = loops.batch(5)._replace(label=label)
    model = objective(middle=0.5)
    assert model.reads == ("projector", "middle")
    found = model(outputs, None, batch, loops.CLOCK)["loss"].item()
    assert found - loss(objective(), label, *z)["loss"] == pytest.approx(0.5 * sum(wanted) / 2, abs=1e-10)


def test_a_batch_of_both_tasks_costs_the_sum_and_the_gradient_is_finite_where_a_task_is_missing() -> None:
    z = [loops.random_unit(6, 4, seed).requires_grad_() for seed in range(3)]
    mixed = torch.tensor([-1.0, 0.2, -1.0, 0.6, 1.0, -1.0], dtype=torch.float64)
    found = loss(objective(), mixed, *z)
    scored = loss(objective(), mixed[mixed >= 0], *(view[mixed >= 0] for view in z))
    asking = loss(objective(), mixed[mixed < 0], *(view[mixed < 0] for view in z))
    assert found["loss"] == pytest.approx(scored["loss"] + asking["loss"], abs=1e-10)
    assert scored["retrieval"] == 0 and asking["similarity"] == 0
    for label in (GOLD, -torch.ones(6), torch.full((6,), 0.5)):  # the last: nothing is above anything
        batch = loops.batch(6)._replace(label=label)
        objective()(loops.outputs(*z), None, batch, loops.CLOCK)["loss"].backward()
        assert all(view.grad is None or view.grad.isfinite().all() for view in z)


def test_pairs_in_their_order_cost_less_than_in_the_opposite_one() -> None:
    for right, wrong in zip(*(similarity_terms(s, GOLD, ALL, 0.05) for s in (GOLD, -GOLD)), strict=True):
        assert right < wrong - 0.9


def test_more_answers_than_texts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.positives is 2, but a sample has 2 views"):
        loss(objective(positives=2), GOLD, mix_rows(0), mix_rows(1))
