import math

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.gradient_cache import windowed_losses
from ssl_framework.objectives.msd import MSD, distilled, ramped
from ssl_framework.types import Clock, Outputs
from tests.golden import golden, mix_rows
from tests.objectives import loops


def test_golden() -> None:
    a, c, d = mix_rows(0), mix_rows(2), mix_rows(3)
    own, tau = torch.arange(3), torch.tensor(0.07, dtype=torch.float64)
    found = distilled(a[:3], d, c[:3], own, tau, 0.4).mean().item()
    assert found == pytest.approx(golden("msd: image to text, micro-batch of three against a window of six keys"))


def test_equals_the_loop() -> None:
    z = [loops.random_unit(4, 3, v) for v in range(2)]
    k = [loops.random_unit(4, 3, 2 + v) for v in range(2)]
    total = 0.0
    for v in range(2):
        for i in range(4):
            student, teacher = ([loops.dot(x[i], key) / 0.5 for key in k[1 - v]] for x in (z[v], k[v]))
            for j in range(4):
                target = 0.3 * math.exp(teacher[j] - loops.log_sum_exp(teacher)) + 0.7 * (i == j)
                total += target * (loops.log_sum_exp(student) - student[j]) / 8
    out = MSD(0.5, 100, 0.3, 0.0).double()(loops.outputs(*z), loops.outputs(*k), loops.batch(4), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(total, abs=1e-7)  # the scale is kept in float32


def test_alpha_rises_over_the_first_part_of_the_run() -> None:
    assert [ramped(0.4, 0.1, Clock(step, 0, 100)) for step in (0, 5, 10, 99)] == pytest.approx([0, 0.2, 0.4, 0.4])


def test_small_batches_with_a_window_of_keys_are_the_large_batch_and_go_through_the_student_once() -> None:
    """Value, gradient of the student and that of the temperature, with a last small batch of another size."""
    views, k = [loops.random_unit(7, 6, v) for v in range(2)], [loops.random_unit(7, 5, 2 + v) for v in range(2)]
    found = []
    for size in (7, 3):
        torch.manual_seed(0)
        net, objective, passes = nn.Linear(6, 5).double(), MSD(0.5, 100, 0.3, 0.0).double(), []

        def encode(parts: list[Tensor], net: nn.Linear = net, passes: list = passes) -> list[Outputs | None]:
            passes.append(len(parts[0]))
            return [{"projector": net(part)} for part in parts]

        def loss(outputs: list[Outputs | None], rows: slice, objective: MSD = objective) -> dict[str, Tensor]:
            return objective(outputs, loops.outputs(*k), loops.batch(7)._replace(first=rows.start), loops.CLOCK)

        losses = windowed_losses(encode, views, size, loss)
        losses["loss"].backward()
        assert sum(passes) == 7
        found.append(
            [losses["loss"].detach(), losses["scale"], *(p.grad for p in (*net.parameters(), objective.clip.log_scale))]
        )
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
