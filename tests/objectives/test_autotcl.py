"""AutoTCL: both losses by loops, who gets whose gradient, and what learned views are made of."""

import math

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.functional import as_constant
from ssl_framework.objectives.autotcl import AutoTCL, local_contrast
from ssl_framework.objectives.learned_views import LearnedViews, discrepancy, roughness
from ssl_framework.types import Batch, Outputs
from tests.golden import mix_raw
from tests.objectives import loops


def norm(row: Tensor) -> Tensor:
    return row / row.norm()


def test_parts_equal_the_loop() -> None:
    z, y = mix_raw(0, 2, 35).view(2, 7, 5), mix_raw(1, 2, 35).view(2, 7, 5)
    total = 0.0
    for b in range(2):
        parts = [[norm(x[b, 2 * p : 2 * p + 2].amax(dim=0)) for p in range(3)] for x in (z, y)]
        for v in (0, 1):
            for p in range(3):
                scores = {(u, q): loops.dot(parts[v][p], parts[u][q]) / 0.4 for u in (0, 1) for q in range(3)}
                right, _ = scores[1 - v, p], scores.pop((v, p))
                total += loops.log_sum_exp(list(scores.values())) - right
    assert local_contrast(z, y, 3, 0.4).item() == pytest.approx(total / 12, abs=1e-12)
    with pytest.raises(ValueError, match=r"objective\.parts is 8, but a series has 7 points: set it to fewer"):
        local_contrast(z, y, 8, 0.4)


def test_the_discrepancy_equals_the_loop() -> None:
    a, b = mix_raw(0, 4), mix_raw(1, 4)
    rows = [*a, *b]
    away = [[float((x - y).square().sum()) for y in rows] for x in rows]
    scale, total = sum(map(sum, away)) / 56, 0.0
    for i in range(8):
        for j in range(8):
            kernel = sum(math.exp(-away[i][j] / (scale * 2.0**power)) for power in range(-2, 3)) / 5
            total += kernel * (1 if (i < 4) == (j < 4) else -1)
    assert discrepancy(a, b).item() == pytest.approx(total / 16, abs=1e-12)
    assert discrepancy(a, a).item() == pytest.approx(0, abs=1e-12)


def views(**changed: float) -> LearnedViews:
    torch.manual_seed(0)
    plain = {"channels": 2, "width": 4, "depth": 1, "kernel": 3, "temperature": 0.5, "noise": 0.0, "lr_factor": 1.0}
    return LearnedViews(**{**plain, **changed})  # type: ignore[arg-type]


def test_views_are_what_is_left_of_series_times_a_factor_and_noise() -> None:
    made, x = views(), torch.randn(50, 2, 30, generator=torch.Generator().manual_seed(1))
    view, mask = made(x, loops.CLOCK)
    assert set(mask.unique().tolist()) == {0, 1}
    scale = 2 * torch.sigmoid(made.net(x)[:, 2:])
    torch.testing.assert_close(view, scale * mask * x)
    logits = made.net(x)[:, :2]
    assert abs(mask.mean() - torch.sigmoid(logits).mean()) < 0.03  # a gate is open with the sigmoid of its logit
    assert (made(x, loops.CLOCK)[1] == mask).all() and not (made(x, loops.CLOCK._replace(step=8))[1] == mask).all()
    noisy = views(noise=0.3)(x, loops.CLOCK)[0] - view
    assert abs(noisy.std() - 0.3) < 0.01
    grad = torch.autograd.grad(mask.sum(), made.net.read.weight)[0]
    assert grad.abs().sum() > 0  # that of the soft mask
    one = torch.tensor([[[0.0, 1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]]])
    assert roughness(one).tolist() == pytest.approx([2 / 3, 0])


class Student(nn.Module):
    """A net of two numbers a point."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.linear = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Outputs:
        return {"points": self.linear(x.transpose(1, 2))}


def test_each_of_both_learns_as_if_the_other_were_constant() -> None:
    student, made = Student(), AutoTCL(views(), 0.4, 0.7, 3, 0.1, 2.0, 0.5)
    made.through_encoder = lambda x, constant: as_constant(student, x) if constant else student(x)
    x = torch.randn(6, 2, 9, generator=torch.Generator().manual_seed(3))
    batch = Batch([x], torch.arange(6))
    found = made([student(x)], None, batch, loops.CLOCK)
    view, mask = made.views(x, loops.CLOCK)
    z, y = student(x)["points"], student(view.detach())["points"]
    rows = [torch.nn.functional.normalize(each.amax(dim=1), dim=1) for each in (z, y)]
    whole = loops.nt_xent(rows[0].detach(), rows[1].detach(), 0.4)
    assert found["whole"].item() == pytest.approx(whole, abs=1e-5)
    assert found["loss"].item() == pytest.approx(whole + 0.7 * local_contrast(z, y, 3, 0.4).item(), abs=1e-5)
    assert found["passed"].item() == pytest.approx(mask.mean().item())
    fixed = as_constant(student, view)["points"]
    far = discrepancy(rows[0].detach(), torch.nn.functional.normalize(fixed.amax(dim=1), dim=1))
    own = far + 2.0 * (mask.mean() - 0.1) + 0.5 * roughness(mask).mean()
    assert found["view_loss"].item() == pytest.approx(own.item(), abs=1e-5)
    weight = made.views.net.read.weight
    (ours,) = torch.autograd.grad(found["loss"], weight, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(own, weight, retain_graph=True)[0], rtol=1e-4, atol=1e-6)
    contrasts = made([student(x)], None, batch, loops.CLOCK)["loss"]
    (theirs,) = torch.autograd.grad(contrasts, student.linear.weight)
    made.regulariser = made.smoothness = 100.0  # of the views alone
    (again,) = torch.autograd.grad(made([student(x)], None, batch, loops.CLOCK)["loss"], student.linear.weight)
    torch.testing.assert_close(theirs, again)


def test_a_further_view_is_what_learned_views_are_made_of() -> None:
    student, made = Student(), AutoTCL(views(), 0.4, 0.7, 3, 0.1, 2.0, 0.5)
    made.through_encoder = lambda x, constant: student(x)
    one, other = torch.randn(2, 6, 2, 9, generator=torch.Generator().manual_seed(3))
    both = made([student(one), None], None, Batch([one, other], torch.arange(6)), loops.CLOCK)
    alone = made([student(one)], None, Batch([other], torch.arange(6)), loops.CLOCK)
    assert (
        both["loss"] == alone["loss"] != made([student(one)], None, Batch([one], torch.arange(6)), loops.CLOCK)["loss"]
    )
