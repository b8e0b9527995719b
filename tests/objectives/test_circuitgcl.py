"""CircuitGCL: golden values, the loop, and whose gradient is whose: a teacher that learns and follows."""

import pytest
import torch

from ssl_framework.build import build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.objectives.circuitgcl import CircuitGCL, scatter
from ssl_framework.types import Clock
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops
from tests.small_runs import SMALL, config


def test_golden() -> None:
    a, b = mix_rows(0), mix_rows(1)
    assert -scatter(a).item() == pytest.approx(golden("circuitgcl: scatter term of A"), abs=1e-7)
    out = CircuitGCL(1.0)(loops.outputs(a, head="predictor"), loops.outputs(b), loops.batch(6), loops.CLOCK)
    assert out["prediction_loss"].item() == pytest.approx(golden("circuitgcl: negative cosine of A, B"), abs=1e-7)


def test_the_loss_equals_the_loop_and_each_term_trains_its_own_side() -> None:
    p, t = mix_raw(0, 4).requires_grad_(), mix_raw(1, 4).requires_grad_()
    u = [row / row.norm() for row in t.detach()]
    mean = sum(u) / 4  # type: ignore[arg-type]
    spread = sum(loops.dot(row - mean, row - mean) for row in u) / 4
    cosine = sum(loops.dot(a, b) / float(a.norm()) for a, b in zip(p.detach(), u, strict=True)) / 4
    loss = CircuitGCL(0.3).loss_of({"predictor": p}, teacher=[{"projector": t}])
    assert loss.item() == pytest.approx(-cosine - 0.3 * spread, abs=1e-12)
    ours = torch.autograd.grad(loss, [p, t])
    rows = t / t.norm(dim=1, keepdim=True)
    (theirs,) = torch.autograd.grad(-0.3 * (rows - rows.mean(0)).square().sum(1).mean(), [t])
    torch.testing.assert_close(ours[1], theirs)
    fixed = -torch.cosine_similarity(p, t.detach()).mean()
    torch.testing.assert_close(ours[0], torch.autograd.grad(fixed, [p])[0])


def test_the_teacher_learns_by_its_own_term_and_follows_the_student() -> None:
    cfg = config("method=circuitgcl", *SMALL)
    data = build_data(cfg)
    module = build_module(cfg, True, 48)
    module.losses(take(data.pretrain, torch.arange(8)), Clock(0, 0, 10))["loss"].backward()  # type: ignore[arg-type]
    assert module.teacher is not None
    own = dict(module.teacher.encoder.named_parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own.values() if p.ndim == 2)
    name, mine = next(iter(own.items()))
    theirs = dict(module.student.named_parameters())[name]
    with torch.no_grad():
        mine.add_(1.0)
    expected = 0.99 * mine.detach() + 0.01 * theirs.detach()
    module.teacher.update(module.student, Clock(0, 0, 10))
    torch.testing.assert_close(mine.detach(), expected)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("teacher=ema",),
            "CircuitGCL trains its teacher, but the config has one that only follows: choose teacher=trained",
        ),
        (("teacher=none",), "CircuitGCL needs a teacher, but the config has teacher=none: choose teacher=trained or"),
        (("data.micro_batch_size=4",), r"data\.micro_batch_size is 4, but CircuitGCL trains its teacher"),
        (
            ("method=bgrl", "teacher=trained"),
            "BYOL reads a teacher that nothing trains, .* one that learns: choose teacher=",
        ),
    ],
)
def test_other_teachers_are_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words) as found:
        build_module(config(*{"method": "method=circuitgcl", **{o.split("=")[0]: o for o in overrides}}.values()), True)
    assert "\n" not in str(found.value)
