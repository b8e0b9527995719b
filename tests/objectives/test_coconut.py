"""COCONUT's term of rehearsal: the golden value, a loop with classes of its own, and what it is for."""

import pytest
import torch

from ssl_framework.objectives.coconut import COCONUT, nspt
from tests.golden import golden, mix_rows
from tests.objectives import loops

LABEL = torch.tensor([0, 1, 0, 1, 2, 2])


def test_golden() -> None:
    each, counts = nspt(mix_rows(0), mix_rows(1), LABEL, 0.1)
    assert counts.all()
    name = "coconut: negative-student positive-teacher term"
    assert each.mean().item() == pytest.approx(golden(name), abs=1e-7)


def test_the_loss_equals_a_loop_over_the_samples_of_old_classes() -> None:
    z, before, logits = loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1), 3 * loops.random_unit(6, 4, 2)
    label, tau = [0, 3, 0, 1, 3, 0], 0.5  # class 1 is old and alone, class 3 is new
    terms = []
    for k in (0, 2, 5):
        push = loops.log_sum_exp([loops.dot(z[k], z[a]) / tau for a in range(6) if a != k])
        pull = [loops.dot(z[k], before[p]) / tau for p in (0, 2, 5) if p != k]
        terms.append(push - sum(pull) / 2)
    classes = sum(loops.log_sum_exp(row.tolist()) - float(row[c]) for row, c in zip(logits, label, strict=True)) / 6
    outputs = [{"classifier": logits, "pooled": 3 * z}]
    batch = loops.batch(6, torch.tensor(label))
    out = COCONUT(4, 2, tau, 0.7)(outputs, loops.outputs(2 * before, head="pooled"), batch, loops.CLOCK)
    assert out["loss"].item() == pytest.approx(classes + 0.7 * sum(terms) / 3, abs=1e-10)
    assert out["rehearsal"].item() == pytest.approx(sum(terms) / 3, abs=1e-10)


def test_descent_brings_old_samples_back_to_where_the_teacher_had_their_class() -> None:
    before = torch.eye(3, dtype=torch.float64)[LABEL]  # [6, 3]
    z = loops.random_unit(6, 3, 0).requires_grad_()
    solver = torch.optim.Adam([z], 0.1)
    for _ in range(200):
        solver.zero_grad()
        nspt(z / z.norm(dim=1, keepdim=True), before, LABEL, 0.5)[0].mean().backward()
        solver.step()
    found = z.detach() / z.detach().norm(dim=1, keepdim=True)
    assert torch.equal(found.argmax(dim=1), LABEL)
    across = (found @ found.T)[LABEL[:, None] != LABEL]  # student rows of two classes: apart
    assert across.max() < 0.2


def test_another_network_for_the_teacher_is_refused() -> None:
    outputs = [{"classifier": torch.zeros(6, 4), "pooled": torch.ones(6, 5)}]
    with pytest.raises(ValueError, match=r"features of the student, of 5 numbers, with the teacher's, of 3: choose"):
        COCONUT(4, 2, 0.5, 1.0)(
            outputs, loops.outputs(torch.ones(6, 3), head="pooled"), loops.batch(6, LABEL), loops.CLOCK
        )
