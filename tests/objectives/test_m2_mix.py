import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.m2_mix import MIXES, M2Mix, geodesic
from ssl_framework.types import Clock
from tests.golden import golden, mix_rows
from tests.objectives import loops


def of(mix: str, z0: Tensor, z1: Tensor, share: float, scale: float = 10.0, tau: float = 0.07) -> float:
    objective = M2Mix(1 / scale, 100, [mix], 1.0, 0.5, tau).double()
    with torch.no_grad():
        objective.clip.log_scale.fill_(math.log(scale))  # which float32 had rounded
        return objective.of(mix, z0, z1, torch.tensor(share, dtype=torch.float64)).item()


def along(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Eq. 3 for one pair of rows."""
    angle = math.acos(loops.dot(a, b))
    return (math.sin(share * angle) * a + math.sin((1 - share) * angle) * b) / math.sin(angle)


def by_loops(mix: str, z0: Tensor, z1: Tensor, share: float, scale: float, tau: float) -> float:
    n, total = len(z0), 0.0
    if mix == "modalities":
        hard = [along(z0[j], z1[j], share) for j in range(n)]
        for z in (z0, z1):
            for i in range(n):
                logits = [loops.dot(z[i], hard[j]) / tau for j in range(n)]
                logits[i] = loops.dot(z0[i], z1[i]) / tau
                total += (loops.log_sum_exp(logits) - logits[i]) / n
        return total
    x = [z0[i] if mix == "other" else along(z0[i], z0[n - 1 - i], share) for i in range(n)]
    y = [z1[i] if mix == "main" else along(z1[i], z1[n - 1 - i], share) for i in range(n)]
    kept = share**2 + (1 - share) ** 2 if mix == "both" else share
    for a, b in ((x, y), (y, x)):
        for i in range(n):
            logits = [scale * loops.dot(a[i], b[j]) for j in range(n)]
            denominator = loops.log_sum_exp(logits)
            for j, weight in ((i, kept), (n - 1 - i, 1 - kept)):
                total -= weight * (logits[j] - denominator) / (2 * n)
    return total


def test_golden() -> None:
    a, b = mix_rows(0), mix_rows(1)
    m2 = golden("m2_mix: m2 loss, sum of the two rows cross entropies, A images, B texts")
    assert of("modalities", a, b, 0.3) == pytest.approx(m2, abs=1e-7)


def test_golden_of_the_flipped_targets() -> None:
    """The fixture's logits are of clean rows; the targets are those of a share of 0.3."""
    objective = M2Mix(0.1, 100, ["main"], 1.0, 0.5, 0.07).double()
    objective.clip.log_scale.data.fill_(math.log(10))
    a, b, kept = mix_rows(0), mix_rows(1), torch.tensor(0.3, dtype=torch.float64)
    found = (objective.to_two(a, b, kept) + objective.to_two(b, a, kept)) / 2
    assert found.item() == pytest.approx(golden("m2_mix: V-mix loss, mean of both directions, flip targets"), abs=1e-7)


@pytest.mark.parametrize("mix", MIXES)
def test_equals_the_loop(mix: str) -> None:
    z0, z1 = loops.random_unit(6, 7, 0), loops.random_unit(6, 7, 1)
    assert of(mix, z0, z1, 0.4) == pytest.approx(by_loops(mix, z0, z1, 0.4, 10.0, 0.07), abs=1e-9)


def test_a_geodesic_has_unit_length_and_cuts_the_angle_in_its_share() -> None:
    a, b = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    found = geodesic(a, b, torch.tensor(0.25, dtype=torch.float64))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5).double())
    angle = (a * b).sum(dim=1).acos()
    torch.testing.assert_close((found * b).sum(dim=1).acos(), 0.25 * angle)
    torch.testing.assert_close(geodesic(a, a, torch.tensor(0.3, dtype=torch.float64)), a, rtol=0, atol=1e-5)


def test_the_weight_falls_with_the_epochs_and_a_step_draws_alike_twice() -> None:
    z0, z1 = loops.random_unit(6, 7, 0), loops.random_unit(6, 7, 1)
    objective = M2Mix(0.1, 100, ["modalities", "both"], 0.5, 0.5, 0.07).double()

    def extra(step: int, epoch: int) -> tuple[float, float]:
        out = objective(loops.outputs(z0, z1), None, loops.batch(6), Clock(step, epoch, 10, 3))
        return (out["loss"] - out["clip_loss"]).item(), out["mix_loss"].item()

    first, mixed = extra(4, 0)
    assert first == pytest.approx(0.5 * mixed) and extra(4, 0) == (first, mixed)
    assert extra(4, 3) == (pytest.approx(first / 4), mixed) and extra(5, 0)[1] != mixed


def test_no_such_mixture() -> None:
    with pytest.raises(ValueError, match=r"objective\.mixes has m4: choose some of modalities, main, other, both"):
        M2Mix(0.1, 100, ["m4"], 1.0, 0.5, 0.07)
