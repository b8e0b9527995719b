"""Methods that guess the classes of unlabelled samples: golden values, loops, and what mixtures learn."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.deep_cotraining import DeepCoTraining, jensen_shannon
from ssl_framework.objectives.fixmatch import FixMatch
from ssl_framework.objectives.mean_teacher import MeanTeacher
from ssl_framework.objectives.mixmatch import MixMatch
from ssl_framework.objectives.partial import Shown, sharpened
from ssl_framework.objectives.remixmatch import ReMixMatch, aligned
from ssl_framework.types import Batch, Clock, Mix
from tests.golden import golden, mix_raw
from tests.objectives import loops

LABEL = torch.tensor([2, -1, 0, -1, -1, 1])
GUESS = mix_raw(0, 6, 4).softmax(dim=1)  # [6, 4]
SHARES = torch.tensor([[0.7, 0.3]] * 6, dtype=torch.float64)
NEXT = torch.stack([torch.arange(6), torch.arange(6).roll(-1)], dim=1)  # [6, 2]


def mixture(of: int = 0) -> Mix:
    """Of every sample 0.7 and of the next one 0.3."""
    return Mix(torch.empty(0), NEXT, SHARES, None, of)


def loss(objective: Objective, views: list[Tensor], mixes: list[Mix | None] | None = None, **more: Tensor) -> dict:
    batch = Batch([], torch.arange(6), LABEL, mix=mixes, targets=[more["turn"]] if "turn" in more else None)
    outputs = [{"classifier": z, "pretext": more.get("scores", z)} for z in views]
    teacher = loops.outputs(more["teacher"], head="classifier") if "teacher" in more else None
    return objective(outputs, teacher, batch, loops.CLOCK)


def p_of(row: Tensor) -> list[float]:
    total = loops.log_sum_exp(row.tolist())
    return [math.exp(float(s) - total) for s in row]


def ce(row: Tensor, target: list[float]) -> float:
    total = loops.log_sum_exp(row.tolist())
    return sum(t * (total - float(s)) for t, s in zip(target, row, strict=True))


def one_hot(c: int, classes: int = 4) -> list[float]:
    return [float(c == k) for k in range(classes)]


def sharp(p: list[float]) -> list[float]:
    total = sum(x**2 for x in p)
    return [x**2 / total for x in p]


def blend(targets: list[list[float]], i: int) -> list[float]:
    return [0.7 * a + 0.3 * b for a, b in zip(targets[i], targets[(i + 1) % 6], strict=True)]


def split_means(each: list[float]) -> tuple[float, float]:
    told = [x for x, c in zip(each, LABEL.tolist(), strict=True) if c >= 0]
    rest = [x for x, c in zip(each, LABEL.tolist(), strict=True) if c < 0]
    return sum(told) / len(told), sum(rest) / len(rest)


def test_golden_sharpening() -> None:
    q = sharpened(GUESS, 0.5)
    found = [*q[0].tolist(), -(q * q.log()).sum(dim=1).mean().item()]
    assert found == pytest.approx(golden("audio_mixmatch: sharpened guess, row 0; mean entropy"), abs=1e-7)


def test_golden_cross_entropy_of_mixtures() -> None:
    each = Shown(2 * mix_raw(1, 6, 4), mixture()).losses(sharpened(GUESS, 0.5))
    assert each.mean().item() == pytest.approx(golden("audio_mixmatch: soft cross entropy of mixed targets"), abs=1e-7)


def test_golden_alignment() -> None:
    row = aligned(GUESS, torch.tensor([0.4, 0.3, 0.2, 0.1]), GUESS.mean(dim=0))[0]
    name = "audio_mixmatch: distribution alignment (ReMixMatch), row 0"
    assert row.tolist() == pytest.approx(golden(name), abs=1e-6)
    torch.testing.assert_close(aligned(GUESS, torch.ones(4), torch.zeros(4)), GUESS)


@pytest.mark.parametrize("mixed", [False, True])
def test_mixmatch_equals_the_loop(mixed: bool) -> None:
    views = [mix_raw(s, 6, 4) for s in range(2 + 2 * mixed)]
    targets = []
    for i, c in enumerate(LABEL.tolist()):
        mean = [(a + b) / 2 for a, b in zip(p_of(views[0][i]), p_of(views[1][i]), strict=True)]
        targets.append(one_hot(c) if c >= 0 else sharp(mean))
    learnt = [blend(targets, i) if mixed else targets[i] for i in range(6)]
    each = [sum(ce(z[i], learnt[i]) for z in views[-2:]) / 2 for i in range(6)]
    told, rest = split_means(each)
    mixes = [None, None, mixture(0), mixture(1)] if mixed else None
    out = loss(MixMatch(4, 0.5, 0.8, 0.5), views, mixes)
    assert out["loss"].item() == pytest.approx(told + 0.8 * rest, abs=1e-6)
    right = sum(int(views[0][i].argmax()) == c for i, c in enumerate(LABEL.tolist()) if c >= 0) / 3
    assert out["accuracy"].item() == pytest.approx(right)


@pytest.mark.parametrize("mixed", [False, True])
def test_fixmatch_equals_the_loop(mixed: bool) -> None:
    weak, strong, *mixtures = (4 * mix_raw(s, 6, 4) for s in range(2 + 2 * mixed))
    targets = []
    for row, c in zip(weak, LABEL.tolist(), strict=True):
        p = p_of(row)
        guess = one_hot(p.index(max(p))) if max(p) >= 0.65 else [0.0] * 4
        targets.append(one_hot(c) if c >= 0 else guess)
    learnt = [blend(targets, i) if mixed else targets[i] for i in range(6)]
    first, second = mixtures or (weak, strong)
    told = split_means([ce(z, t) for z, t in zip(first, learnt, strict=True)])[0]
    rest = split_means([ce(z, t) for z, t in zip(second, learnt, strict=True)])[1]
    mixes = [None, None, mixture(0), mixture(1)] if mixed else None
    out = loss(FixMatch(4, 0.65, 0.8), [weak, strong, *mixtures], mixes)
    assert out["loss"].item() == pytest.approx(told + 0.8 * rest, abs=1e-6)
    sure = sum(max(targets[i]) > 0 for i in (1, 3, 4)) / 3
    assert 0 < sure < 1 and out["sure"].item() == pytest.approx(sure)


@pytest.mark.parametrize("mixed", [False, True])
def test_mean_teacher_equals_the_loop(mixed: bool) -> None:
    clean, teacher, mixture_scores = (mix_raw(s, 6, 4) for s in range(3))
    answers = [p_of(row) for row in teacher]
    told = split_means([ce(clean[i], one_hot(max(c, 0))) for i, c in enumerate(LABEL.tolist())])[0]
    total = 0.0
    for i in range(6):
        own = p_of((mixture_scores if mixed else clean)[i])
        total += sum((a - b) ** 2 for a, b in zip(own, blend(answers, i) if mixed else answers[i], strict=True)) / 24
    views, mixes = ([clean, mixture_scores], [None, mixture()]) if mixed else ([clean], None)
    weight = 50 * math.exp(-5 * (1 - 0.7 / 0.8) ** 2)  # seven steps of ten are done
    out = loss(MeanTeacher(4, 50.0, 0.8), views, mixes, teacher=teacher)
    assert out["loss"].item() == pytest.approx(told + weight * total, abs=1e-6)
    after = MeanTeacher(4, 50.0, 0.5)
    assert loss(after, views, mixes, teacher=teacher)["loss"].item() == pytest.approx(told + 50 * total, abs=1e-6)


def test_remixmatch_equals_the_loop_over_two_batches() -> None:
    """The second batch is aligned with what the first one has left; two strong views, mixtures of all three."""
    objective = ReMixMatch(4, 0.5, 1.5, 0.4, 0.3, 8).double()
    counts, means = [1.0] * 4, []
    turn = torch.tensor([0, 3, 1, 2, 2, 0])
    for number in range(2):
        views = [mix_raw(s + 7 * number, 6, 4) for s in range(7)]  # weak, two strong, the turned one, three mixtures
        p = [p_of(row) for row in views[0]]
        ratio = [1.0] * 4
        if means:
            ratio = [counts[c] / sum(mean[c] for mean in means) for c in range(4)]
        targets = []
        for i, c in enumerate(LABEL.tolist()):
            scaled = [x * r for x, r in zip(p[i], ratio, strict=True)]
            targets.append(one_hot(c) if c >= 0 else sharp([x / sum(scaled) for x in scaled]))
        each = [sum(ce(z[i], blend(targets, i)) for z in views[4:]) / 3 for i in range(6)]
        told, rest = split_means(each)
        anchor = split_means([ce(views[1][i], targets[i]) for i in range(6)])[1]
        turned = sum(ce(views[3][i], one_hot(int(turn[i]))) for i in range(6)) / 6
        mixes = [None] * 4 + [mixture(0), mixture(1), mixture(2)]
        out = loss(objective, views, mixes, turn=turn)
        assert out["loss"].item() == pytest.approx(told + 1.5 * rest + 0.4 * anchor + 0.3 * turned, abs=1e-6)
        counts = [n + (c == LABEL).sum().item() for c, n in enumerate(counts)]
        means.append([sum(p[i][c] for i in (1, 3, 4)) / 3 for c in range(4)])
    assert objective.batches.item() == 2 and objective.counts.tolist() == [3.0, 3.0, 3.0, 1.0]


def test_remixmatch_forgets_the_oldest_batch_and_says_what_is_missing() -> None:
    objective = ReMixMatch(4, 0.5, 1.5, 0.5, 0.0, 2)
    for s in range(3):
        loss(objective, [mix_raw(s, 6, 4), mix_raw(1, 6, 4)])
    expected = [mix_raw(s, 6, 4).softmax(dim=1)[LABEL < 0].mean(dim=0) for s in (2, 1)]
    torch.testing.assert_close(objective.means.double(), torch.stack(expected), atol=1e-6, rtol=0)
    with pytest.raises(
        ValueError, match=r"nothing has changed it: choose views=remixmatch or audio_remixmatch, or set"
    ):
        loss(ReMixMatch(4, 0.5, 1.5, 0.5, 0.5, 2), [mix_raw(s, 6, 4) for s in range(3)])


def test_deep_cotraining_equals_the_loop() -> None:
    """Two linear networks of four numbers: the changed views are known in closed form."""
    x, first, second = mix_raw(0, 6, 5), mix_raw(1, 5, 4), mix_raw(2, 5, 4)
    objective = DeepCoTraining(4, 0.6, 0.5, 0.1)
    objective.through_encoder = lambda x, constant: {"classifier": x @ first, "second_classifier": x @ second}
    scores = [x @ first, x @ second]
    told = sum(split_means([ce(z[i], one_hot(max(int(LABEL[i]), 0))) for i in range(6)])[0] for z in scores)
    divergence, difference = [], 0.0
    for i in range(6):
        p, q = p_of(scores[0][i]), p_of(scores[1][i])
        mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        entropies = [-sum(a * math.log(a) for a in row) for row in (mean, p, q)]
        divergence.append(entropies[0] - (entropies[1] + entropies[2]) / 2)
        for own, other, probability in ((first, second, p), (second, first, q)):
            error = torch.tensor(probability, dtype=torch.float64)
            error[error.argmax()] -= 1
            fooling = x[i] + 0.1 * (own @ error).sign()
            difference += ce(fooling @ other, probability) / 6
    batch = Batch([x], torch.arange(6), LABEL)
    outputs = [{"classifier": scores[0], "second_classifier": scores[1]}]
    out = objective(outputs, None, batch, loops.CLOCK)
    expected = told + 0.6 * split_means(divergence)[1] + 0.5 * difference
    assert out["loss"].item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(jensen_shannon(*scores), torch.tensor(divergence, dtype=torch.float64))
    sure, other = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
    assert jensen_shannon(sure, other).item() == pytest.approx(math.log(2))


def test_what_is_not_sure_and_what_has_no_label_asks_for_nothing() -> None:
    z = mix_raw(0, 6, 4).requires_grad_()
    loss(FixMatch(4, 1.0, 1.0), [z, z])["loss"].backward()
    assert z.grad is not None and (z.grad[LABEL < 0] == 0).all() and (z.grad[LABEL >= 0] != 0).any(dim=1).all()


def test_a_guess_pulls_strong_views_to_the_class_of_the_weak_one() -> None:
    weak = 6 * F.one_hot(torch.tensor([2, 3, 0, 1, 3, 1]), 4).double()
    strong = torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.SGD([strong], 1.0)
    for _ in range(20):
        solver.zero_grad()
        loss(FixMatch(4, 0.95, 1.0), [weak, strong])["loss"].backward()
        solver.step()
    assert strong.argmax(dim=1)[LABEL < 0].tolist() == [3, 1, 3]
    assert (strong[LABEL >= 0] == 0).all()


def test_the_weight_of_guesses_rises_evenly() -> None:
    batch, views = Batch([], torch.arange(6), LABEL), loops.outputs(mix_raw(0, 6, 4), head="classifier")
    losses = [MixMatch(4, 0.5, 2.0, 0.5)(views, None, batch, Clock(step, 0, 10)) for step in (0, 2, 5, 9)]
    shares = [((out["loss"] - out["labelled"]) / (2 * out["unlabelled"])).item() for out in losses]
    assert shares == pytest.approx([0.0, 0.4, 1.0, 1.0], abs=1e-6)


def test_the_weight_is_that_of_the_clock() -> None:
    clean, teacher = mix_raw(0, 6, 4), mix_raw(1, 6, 4)
    batch = Batch([], torch.arange(6), LABEL)
    args = loops.outputs(clean, head="classifier"), loops.outputs(teacher, head="classifier"), batch
    objective = MeanTeacher(4, 10.0, 1.0)
    losses = [objective(*args, Clock(step, 0, 10)) for step in (0, 5, 10)]
    rises = [(out["loss"] - out["labelled"]).item() / (10 * out["consistency"].item()) for out in losses]
    assert rises == pytest.approx([math.exp(-5), math.exp(-1.25), 1.0], rel=1e-6)
