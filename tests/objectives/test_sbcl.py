"""SBCL: the golden value, a loop, the warm-up, and the division of classes into subclasses of one size."""

import pytest
import torch

from ssl_framework.objectives.grouping import equal_clusters
from ssl_framework.objectives.sbcl import SBCL
from ssl_framework.types import Clock
from tests.golden import core_view, golden
from tests.objectives import loops

LABEL, SUBCLASS = [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]


def sbcl(samples: int = 6, least: int = 10, warmup: int = 1, every: int = 2) -> SBCL:
    objective = SBCL(2, 4, 0.1, 0.07, 0.25, least, warmup, every, 10)
    objective.allocate(samples)
    return objective.double()


def divided(subclass: list[int]) -> SBCL:
    objective = sbcl()
    objective.subclass.copy_(torch.tensor(subclass))
    objective.class_temperature.copy_(torch.tensor([0.2, 0.15], dtype=torch.float64))
    return objective


def loss(objective: SBCL, label: list[int] = LABEL) -> float:
    views = loops.outputs(core_view(0), core_view(1))
    return objective(views, None, loops.batch(6, torch.tensor(label)), loops.CLOCK)["loss"].item()


def test_golden() -> None:
    name = "sbcl: loss, views Z0 Z1, classes [0,0,0,0,1,1], subclasses [0,0,1,1,2,2]"
    assert loss(divided(SUBCLASS)) == pytest.approx(golden(name), abs=1e-7)


def test_equals_the_loop_with_a_sample_that_is_in_no_subclass() -> None:
    z, y, s = torch.cat([core_view(0), core_view(1)]), LABEL * 2, [0, 1, 1, -1, 2, 2] * 2
    total = 0.0
    for i in range(12):
        others = [j for j in range(12) if j != i]
        tau = (0.2, 0.15)[y[i]]
        same = [j for j in others if s[j] == s[i]]
        whole = loops.log_sum_exp([loops.dot(z[i], z[j]) / 0.1 for j in others])
        total += 0.1 / 0.07 * sum(whole - loops.dot(z[i], z[j]) / 0.1 for j in same) / len(same) / 12
        candidates = [j for j in others if s[j] != s[i] or j % 6 == i % 6]
        positives = [j for j in candidates if y[j] == y[i] or j % 6 == i % 6]
        whole = loops.log_sum_exp([loops.dot(z[i], z[j]) / tau for j in candidates])
        total += 0.25 * sum(whole - loops.dot(z[i], z[j]) / tau for j in positives) / len(positives) / 12
    assert loss(divided(s[:6])) == pytest.approx(total, abs=1e-10)


def test_the_warm_up_is_supcon() -> None:
    z = torch.cat([core_view(0), core_view(1)])
    assert loss(sbcl(warmup=2)) == pytest.approx(loops.supcon(z, LABEL * 2, 0.1), abs=1e-10)


def test_clusters_of_one_size_are_the_blobs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.eye(4).repeat(5, 1) + 0.05 * torch.randn(20, 4, generator=generator)  # four blobs of five
    cluster = equal_clusters(x / x.norm(dim=1, keepdim=True), 4, 20)
    assert cluster.view(5, 4).unique(dim=0).shape[0] == 1 and cluster.unique().numel() == 4
    uneven = torch.randn(23, 4, generator=generator)
    assert equal_clusters(uneven, 5, 20).bincount(minlength=5).max() == 5
    assert equal_clusters(torch.ones(4, 4), 3, 20).bincount(minlength=3).max() == 2


def test_an_epoch_divides_large_classes_and_makes_a_temperature_of_each() -> None:
    objective = sbcl(20, least=2)
    z = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0] * 12 + [1] * 4 + [-1] * 4)
    objective.bank.get_buffer("embedding").copy_(z / z.norm(dim=1, keepdim=True))
    objective.bank.get_buffer("label").copy_(label)
    for epoch in (0, 2):  # neither is due
        objective.on_epoch(Clock(0, epoch, 10))
        assert (objective.subclass == -1).all()
    objective.on_epoch(Clock(0, 3, 10))
    assert objective.subclass[:12].bincount().tolist() == [4, 4, 4]  # as large as the smallest class
    assert objective.subclass[12:].tolist() == [3] * 4 + [-1] * 4
    spread = [
        (rows - rows.mean(dim=0)).norm(dim=1).mean() for rows in objective.bank.column("embedding")[:16].split([12, 4])
    ]
    low, high = sorted(float(s) for s in spread)
    clipped = [min(max(float(s), low + 0.2 * (high - low)), high - 0.2 * (high - low)) for s in spread]
    expected = [0.1 * s / (sum(clipped) / 2) for s in clipped]
    assert objective.class_temperature.tolist() == pytest.approx(expected)
