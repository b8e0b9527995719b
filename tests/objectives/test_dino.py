import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.evaluation.measures import feature_std
from ssl_framework.memory import Centre
from ssl_framework.models.heads import DINOHead, built
from ssl_framework.objectives.dino import DINO, warmed
from ssl_framework.types import Clock, Samples
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops
from tests.small_runs import small

START = Clock(0, 0, 10)


def objective(tau: float = 0.04, momentum: float = 0.9) -> DINO:
    return DINO(0.1, tau, tau, 0.0, Centre(8, momentum).double())


def loss(dino: DINO, student: list[Tensor | None], teacher: list[Tensor | None], clock: Clock = START) -> Tensor:
    seen = [[None if x is None else {"projector": x} for x in views] for views in (student, teacher)]
    return dino(seen[0], seen[1], loops.batch(6), clock)["loss"]


def loss_by_loop(student: list[Tensor], teacher: list[Tensor], centre: list[float], tau: float) -> float:
    total, terms = 0.0, 0
    for t, targets in enumerate(teacher):
        for s, view in enumerate(student):
            if s == t:
                continue
            terms += 1
            for b in range(len(view)):
                logits = [(float(x) - c) / tau for x, c in zip(targets[b], centre, strict=True)]
                scores = [float(x) / 0.1 for x in view[b]]
                top, bottom = loops.log_sum_exp(logits), loops.log_sum_exp(scores)
                total -= sum(math.exp(x - top) * (y - bottom) for x, y in zip(logits, scores, strict=True)) / len(view)
    return total / terms


def test_golden_loss_and_centre_of_two_steps() -> None:
    """The centre is zero in the first loss, and moves only after it."""
    dino = objective()
    first = loss(dino, [mix_raw(0), mix_raw(1)], [mix_raw(2), mix_raw(3)])
    assert first.item() == pytest.approx(golden("dino: loss, first step (centre 0), 2 views"), abs=1e-7)
    expected = golden("dino: centre after the first step, momentum .9")
    assert dino.centre.read().tolist() == pytest.approx(expected, abs=1e-7)
    dino.teacher_temperature = 0.07
    second = loss(dino, [mix_raw(2), mix_raw(3)], [mix_raw(0), mix_raw(1)])
    name = "dino: loss, second step, teacher raw0 raw1, student raw2 raw3, teacher_temp .07"
    assert second.item() == pytest.approx(golden(name), abs=1e-7)


def test_golden_with_local_views() -> None:
    """Two teacher's views and four of the student are six pairs of different views."""
    student: list[Tensor | None] = [mix_raw(0), mix_raw(1), mix_rows(0), mix_rows(1)]
    value = loss(objective(), student, [mix_raw(2), mix_raw(3), None, None]).item()
    name = "dino: loss with two further student views A, B (multi-crop)"
    assert value == pytest.approx(golden(name), abs=1e-7)


@pytest.mark.parametrize("count", [2, 3])
def test_equals_the_loop(count: int) -> None:
    student = [loops.random_unit(5, 8, v) for v in range(count)]
    teacher = [loops.random_unit(5, 8, 10 + v) for v in range(2)]
    dino = objective(0.06)
    dino.centre.mean.copy_(torch.linspace(-0.3, 0.2, 8))
    centre = dino.centre.read().tolist()
    value = loss(dino, [*student], [*teacher, *[None] * (count - 2)]).item()
    assert value == pytest.approx(loss_by_loop(student, teacher, centre, 0.06), abs=1e-10)


def test_the_teachers_temperature_rises_along_a_line() -> None:
    at = [warmed(0.04, 0.07, 0.3, Clock(step, 0, 100)) for step in (0, 10, 15, 30, 99)]
    assert at == pytest.approx([0.04, 0.05, 0.055, 0.07, 0.07])
    assert warmed(0.04, 0.07, 0.0, START) == 0.07
    views = [mix_raw(0), mix_raw(1)], [mix_raw(2), mix_raw(3)]
    rising = DINO(0.1, 0.07, 0.04, 0.3, Centre(8, 0.9).double())
    late, early = objective(0.07), objective(0.04)
    assert loss(rising, *views) == loss(early, *views)  # type: ignore[arg-type]
    rising.centre.mean.zero_()
    assert loss(rising, *views, clock=Clock(3, 0, 10)) == loss(late, *views)  # type: ignore[arg-type]


def test_entropies_tell_both_ways_of_collapse() -> None:
    """Uniform targets, and one output that wins for every sample."""
    flat, peaked = torch.zeros(6, 8), torch.zeros(6, 8)
    peaked[:, 3] = 9.0
    for teacher, entropies in ((flat, (math.log(8), math.log(8))), (peaked, (0.0, 0.0)), (9 * torch.eye(8)[:6], None)):
        out = DINO(0.1, 0.04, 0.04, 0.0, Centre(8, 1.0))(
            loops.outputs(flat, flat), loops.outputs(teacher, teacher), loops.batch(6), START
        )
        found = out["target_entropy"].item(), out["mean_target_entropy"].item()
        assert found == pytest.approx(entropies or (0.0, math.log(6)), abs=1e-5)


def test_without_momentum_to_lose_the_centre_stays_at_zero() -> None:
    dino = objective(momentum=1.0)
    loss(dino, [mix_raw(0), mix_raw(1)], [mix_raw(2), mix_raw(3)])
    assert not dino.centre.mean.any()


def head(**changes: Any) -> DINOHead:
    settings: dict[str, Any] = {"hidden": [7], "bottleneck": 5, "out": 9, "norm": False, "frozen": 0.0}
    torch.manual_seed(0)
    return built(DINOHead("pooled", **(settings | changes)), {"pooled": 6})


def test_the_head_gives_cosines_whatever_the_length_of_the_last_rows() -> None:
    own, x = head(), torch.randn(4, 6)
    before = own({"pooled": x})
    hidden = torch.nn.functional.gelu(x @ own.layers[0].weight.T)
    low = hidden @ own.layers[2].weight.T
    for b in range(4):
        for k in range(9):
            cosine = torch.nn.functional.cosine_similarity(low[b], own.last[k], dim=0)
            assert before[b, k].item() == pytest.approx(cosine.item(), abs=1e-6)
    own.last.data *= torch.linspace(0.1, 7, 9)[:, None]
    torch.testing.assert_close(own({"pooled": x}), before)
    assert [tuple(y.shape) for y in own.each_layer({"pooled": x})] == [(4, 7), (4, 5), (4, 9)]
    torch.testing.assert_close(own.each_layer({"pooled": x})[-1], before)


def test_the_head_takes_tokens_and_keeps_float32_under_autocast() -> None:
    own, tokens = head(), torch.randn(2, 3, 6)
    out = own({"pooled": tokens})
    torch.testing.assert_close(out[1], own({"pooled": tokens[1]}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = own({"pooled": tokens})
    assert half.dtype == torch.float32 and (half.bfloat16().float() != half).any()


def test_the_last_layer_stays_in_the_frozen_share_of_the_run() -> None:
    """By the module's own hook, on an optimizer with momentum and decay."""
    torch.manual_seed(0)
    module = build_module(small("dino", "student.heads.projector.frozen=0.5", "optimizer.warmup=0.0"), True)
    data = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    own = module.student.heads["projector"]
    assert isinstance(own, DINOHead)
    optimizer, _ = module.recipe.build(module, 256, 4)
    start, moved = torch.nn.functional.normalize(own.last.detach().clone()), []
    for step in range(3):
        clock = Clock(step, 0, 4)
        optimizer.zero_grad()
        module.losses(Samples(data, torch.arange(8)), clock)["loss"].backward()
        assert own.last.grad is not None and own.last.grad.abs().max() > 0
        module.student.after_backward(clock)
        optimizer.step()
        moved.append((torch.nn.functional.normalize(own.last.detach()) - start).abs().max().item())
    assert moved[1] < 1e-6 < 1e-4 < moved[2]


def test_small_crops_are_seen_by_the_student_only() -> None:
    module = build_module(small("dino", "views=multicrop", "views.groups.1.count=2"), True)
    data = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    seen: list[list[bool]] = []
    module.objective.register_forward_pre_hook(
        lambda _, inputs: seen.extend([[view is not None for view in views] for views in inputs[:2]])
    )
    assert torch.isfinite(module.losses(Samples(data, torch.arange(8)), START)["loss"])
    assert seen == [[True] * 4, [True, True, False, False]]


@pytest.mark.parametrize(("momentum", "norm", "collapses"), [(0.9, True, False), (1.0, False, True)])
def test_without_centring_one_output_wins_for_every_sample(momentum: float, norm: bool, collapses: bool) -> None:
    """Fifty steps on 512 points of noise: the entropy of the mean target falls to 0 and the spread below the 0.08 at
    which the alarm for collapse speaks; with centring they stand at 3.2 of log 64 = 4.2, and at 0.74."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(16, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Linear(64, 32)
    )
    student = torch.nn.ModuleList([net, built(DINOHead("pooled", [64], 16, 64, norm, 0.0), {"pooled": 32})])
    teacher = copy.deepcopy(student).requires_grad_(False)
    dino = DINO(0.1, 0.04, 0.04, 0.0, Centre(64, momentum))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    points = torch.randn(512, 16)
    for step in range(51):
        drawn = points[torch.randint(512, (64,))]
        views = [drawn + 0.3 * torch.randn_like(drawn) for _ in range(2)]
        z, k = ([net[1]({"pooled": net[0](x)}) for x in views] for net in (student, teacher))
        out = dino(loops.outputs(*z), loops.outputs(*k), loops.batch(64), Clock(step, 0, 51))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
            mine.data.lerp_(its.data, 0.02)
    found = out["mean_target_entropy"].item(), feature_std(z[0].detach())
    assert (found[0] < 0.05 and found[1] < 0.08) if collapses else (found[0] > 2.5 and found[1] > 0.5), found


def test_the_last_rows_begin_as_long_as_the_authors() -> None:
    """As torch's linear layer, whose entries are uniform within 1 / sqrt(bottleneck): a mean square of a third."""
    rows = head(bottleneck=64, out=128).last
    assert rows.abs().max() <= 1 / 8 and rows.square().sum(dim=1).mean().item() == pytest.approx(1 / 3, rel=0.05)
