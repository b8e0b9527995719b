"""DGI: a loop, closed cases, and the views that it is given."""

import math

import pytest
import torch

from ssl_framework.build import build
from ssl_framework.objectives.dgi import DGI
from ssl_framework.types import Samples
from tests.objectives import loops
from tests.small_runs import small


def objective(dim: int = 4) -> DGI:
    torch.manual_seed(0)
    return DGI(dim).double()


def test_equals_the_loop() -> None:
    made, real, fake = objective(), loops.random_unit(5, 4, 0), loops.random_unit(5, 4, 1)
    found = made(loops.outputs(real, fake), None, loops.batch(5), loops.CLOCK)
    weight = made.discriminator.tolist()
    summary = [1 / (1 + math.exp(-sum(float(row[d]) for row in real) / 5)) for d in range(4)]
    total, right = 0.0, 0
    for rows, is_real in ((real, True), (fake, False)):
        for row in rows.tolist():
            score = sum(row[a] * weight[a][b] * summary[b] for a in range(4) for b in range(4))
            p = 1 / (1 + math.exp(-score))
            total -= math.log(p if is_real else 1 - p)
            right += (score > 0) == is_real
    assert found["loss"].item() == pytest.approx(total / 10, abs=1e-12)
    assert found["discriminator_accuracy"].item() == pytest.approx(right / 10)


def test_a_discriminator_of_zeros_knows_nothing() -> None:
    made = objective()
    torch.nn.init.zeros_(made.discriminator)
    loss = made.loss_of(loops.random_unit(5, 4, 0), loops.random_unit(5, 4, 1))
    assert loss.item() == pytest.approx(math.log(2))


def test_the_second_view_is_the_graph_with_features_of_other_nodes() -> None:
    views = build(small("dgi").views)
    nodes = torch.arange(8)
    real, corrupted = views(Samples(nodes, nodes), torch.Generator().manual_seed(0)).views
    x, edges = views.on(torch.device("cpu"))
    assert torch.equal(real.x, x) and torch.equal(real.edges, edges) and torch.equal(corrupted.edges, edges)
    assert not torch.equal(corrupted.x, x) and torch.equal(corrupted.x.sort(0).values, x.sort(0).values)
