"""COCONUT's terms, of rehearsal and of texts: the golden value, loops with classes of their own, what they are for."""

import pytest
import torch

from ssl_framework.models.heads import Classifier, Features
from ssl_framework.models.towers import AlikeTowers
from ssl_framework.objectives.coconut import COCONUT, nspt, text_pairs
from ssl_framework.wiring import check_heads
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


def one_way(a: torch.Tensor, b: torch.Tensor, label: list[int], old: int, tau: float) -> float:
    new, terms = [i for i, c in enumerate(label) if c >= old], []
    for i in new:
        wrong = [loops.dot(a[i], b[j]) / tau for j in new if label[j] != label[i]]
        own = loops.dot(a[i], b[i]) / tau
        terms.append(loops.log_sum_exp([own, *wrong]) - own)
    return sum(terms) / len(terms)


def test_sounds_and_texts_of_new_classes_equal_a_loop_that_leaves_out_what_says_the_same() -> None:
    z, t, label = loops.random_unit(7, 5, 0), loops.random_unit(7, 5, 1), [0, 3, 2, 3, 1, 4, 2]
    expected = (one_way(z, t, label, 2, 0.3) + one_way(t, z, label, 2, 0.3)) / 2
    assert text_pairs(z, t, torch.tensor(label), 2, 0.3).item() == pytest.approx(expected, abs=1e-10)
    assert text_pairs(z, t, torch.tensor(label), 5, 0.3).item() == 0  # nothing is new
    none = [{"classifier": torch.zeros(7, 5).double(), "pooled": z, "projector": 2 * z}]
    both = [*none, {"pooled": z[:, :3], "projector": 3 * t}]
    teacher, batch = loops.outputs(z, head="pooled"), loops.batch(7, torch.tensor(label))
    plain = COCONUT(5, 2, 0.3, 0.7)(none, teacher, batch, loops.CLOCK)["loss"].item()
    told = COCONUT(5, 2, 0.3, 0.7, pairs=0.4)
    assert told(both, teacher, batch, loops.CLOCK)["loss"].item() == pytest.approx(plain + 0.4 * expected, abs=1e-10)
    with pytest.raises(ValueError, match=r"objective\.pairs is 0\.4, but the student sees no text: choose"):
        told(none, teacher, batch, loops.CLOCK)


def test_the_tower_of_texts_needs_no_classifier_and_may_have_none() -> None:
    def towers(*main_heads: str) -> AlikeTowers:
        heads = {"classifier": Classifier("pooled", 4), "projector": Features("pooled")}
        return AlikeTowers(net(), heads, "sound", {"text": net()}, main_heads=main_heads)

    def net() -> torch.nn.Module:
        found = torch.nn.Linear(3, 5)
        found.dim, found.name = 5, "linear"  # type: ignore[assignment]
        return found

    told = COCONUT(4, 2, 0.5, 1.0, pairs=1.0)
    check_heads(told, towers("classifier"))
    assert list(towers("classifier").tower("text").heads) == ["projector"]
    with pytest.raises(ValueError, match="reads projector of the student's tower for text, but the head"):
        check_heads(told, towers())


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
