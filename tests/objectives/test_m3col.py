import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.m3col import M3CoL, mixture_loss, soft_clip
from ssl_framework.types import Clock
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops


def by_loops(mixed: Tensor, clean: Tensor, share: list[float], partner: list[int], tau: float) -> float:
    """Cross-entropies with T and its transpose, which is written out whole."""
    n, total = len(mixed), 0.0
    t = [[0.0] * n for _ in range(n)]
    for i in range(n):
        t[i][i] += share[i]
        t[i][partner[i]] += 1 - share[i]
    for i in range(n):
        there = [loops.dot(mixed[i], clean[j]) / tau for j in range(n)]
        back = [loops.dot(clean[i], mixed[j]) / tau for j in range(n)]
        for j in range(n):
            total -= t[i][j] * (there[j] - loops.log_sum_exp(there)) / (2 * n)
            total -= t[j][i] * (back[j] - loops.log_sum_exp(back)) / (2 * n)
    return total


SHARE, PARTNER = [0.9, 0.6, 1.0, 0.3, 1.0, 0.5], [1, 2, 0, 4, 3, 5]


def test_golden() -> None:
    share, partner = torch.tensor(SHARE).double(), torch.tensor(PARTNER)
    expected = golden("m3col: loss with targets that add up on fixed points")
    found = mixture_loss(mix_rows(0), mix_rows(1), share, partner, 0.1).mean().item()
    assert found == pytest.approx(expected, abs=1e-7)
    soft = golden("m3col: soft-CLIP stage, predictions A, targets B")
    assert soft_clip(mix_rows(0), mix_rows(1), 0.125).item() == pytest.approx(soft, abs=1e-7)


def test_equals_the_loop() -> None:
    mixed, clean = loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1)
    found = mixture_loss(mixed, clean, torch.tensor(SHARE).double(), torch.tensor(PARTNER), 0.2).mean().item()
    assert found == pytest.approx(by_loops(mixed, clean, SHARE, PARTNER, 0.2), abs=1e-7)


def test_mixtures_first_then_soft_targets_and_three_classifiers() -> None:
    z = [loops.random_unit(6, 5, v) for v in range(2)]
    scores = [loops.random_unit(6, 3, 2 + v) for v in range(2)]
    outputs = [{"projector": z[v], "classifier": scores[v]} for v in range(2)]
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(0)
    objective = M3CoL(3, 5, 0.1, 0.125, 0.15, 0.5, 0.5, 0.1).double()

    def at(step: int, seed: int = 0) -> dict[str, Tensor]:
        return objective(outputs, None, loops.batch(6, label), Clock(step, 0, 10, seed))

    soft = (soft_clip(z[0], z[1], 0.125) + soft_clip(z[1], z[0], 0.125)) / 2
    assert at(5)["contrast_loss"].item() == at(9)["contrast_loss"].item() == pytest.approx(soft.item())
    assert at(4)["contrast_loss"].item() == at(4)["contrast_loss"].item() != at(4, 1)["contrast_loss"].item()
    named = 0.0
    for logits in (objective.fused(torch.cat(z, dim=1)).detach(), *scores):
        for i in range(6):
            named += (loops.log_sum_exp(logits[i].tolist()) - float(logits[i, label[i]])) / 6
    assert at(5)["class_loss"].item() == pytest.approx(named)
    assert at(5)["loss"].item() == pytest.approx(named + 0.1 * soft.item())


def test_unmixed_samples_are_clips_pairs() -> None:
    objective = M3CoL(3, 8, 0.1, 0.125, 0.15, 0.0, 1.0, 0.1).double()  # nobody is mixed
    found = objective.of_mixtures(mix_raw(0), mix_raw(1), Clock(0, 0, 10))
    assert found.item() == pytest.approx(golden("clip: loss of raw0, raw1 (normalised inside)"), abs=1e-7)
