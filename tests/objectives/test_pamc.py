"""PamC: the golden value, loops with edges that leave the batch, empty clusters, and the target of the clusters."""

import math

import pytest
import torch

from ssl_framework.objectives.pamc import PamC, among, drawn_together, meta_nodes, soft_clusters
from ssl_framework.types import Clock, Graph
from tests.golden import golden, mix_raw
from tests.objectives import loops

PAIRS = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
CHAIN = torch.cat([PAIRS, PAIRS.flip(0)], dim=1)
CLUSTERS = torch.tensor([0, 0, 1, 1, 2, 2])


def test_golden() -> None:
    z = mix_raw(0)
    value = drawn_together(z, CHAIN, 0.5, 0, 6) + meta_nodes(z, CLUSTERS, 3, 0.5)
    expected = golden("pamc: loss, features raw0, chain graph with self loops, row-normalised")
    assert value.item() == pytest.approx(expected, abs=1e-7)
    assert meta_nodes(z, CLUSTERS, 5, 0.5).item() == meta_nodes(z, CLUSTERS, 3, 0.5).item()  # two are empty


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return loops.dot(a, b) / math.sqrt(loops.dot(a, a) * loops.dot(b, b))


def test_neighbours_are_those_in_the_batch_and_equal_the_loop() -> None:
    nodes = [5, 0, 1, 3]  # of the chain only 0 - 1 is left
    edges = among([Graph(torch.zeros(6, 2), CHAIN, torch.tensor(nodes))])
    assert sorted(edges.T.tolist()) == [[1, 2], [2, 1]]
    z, total = mix_raw(0, 4), 0.0
    for i in range(4):
        near = [j for j in range(4) if abs(nodes[i] - nodes[j]) == 1]
        total -= math.log((1 + sum(math.exp(0.7 * cosine(z[i], z[j])) for j in near)) / (1 + len(near)))
    assert drawn_together(z, edges, 0.7, 0, 4).item() == pytest.approx(total / 4, abs=1e-12)
    parts = [drawn_together(z, edges, 0.7, first, 2).item() for first in (0, 2)]  # as two ranks have them
    assert sum(parts) / 2 == pytest.approx(total / 4, abs=1e-12)


def test_soft_clusters_are_students_t() -> None:
    z, centres = mix_raw(0, 3, 2), mix_raw(1, 4, 2)
    for row, found in zip(z.tolist(), soft_clusters(z, centres).tolist(), strict=True):
        each = [1 / (1 + sum((a - b) ** 2 for a, b in zip(row, c, strict=True))) for c in centres.tolist()]
        assert found == pytest.approx([value / sum(each) for value in each])


def test_clusters_are_made_after_the_first_epoch_and_sharpened_from_then_on() -> None:
    torch.manual_seed(0)
    made = PamC(2, 3, 0.5, 2.0, 20)
    made.allocate(8)
    z = torch.cat([torch.randn(4, 3) * 0.1 + 2, torch.randn(4, 3) * 0.1 - 2])
    batch = loops.batch(8)._replace(views=[Graph(torch.zeros(8, 1), CHAIN, torch.arange(8))])
    first = made(loops.outputs(z), None, batch, Clock(0, 0, 4))
    assert first["clustering"] == 0 and made.bank.visited.all()
    made.on_epoch(Clock(1, 1, 4))
    assert sorted(made.centres[:, 0].sign().tolist()) == [-1, 1]
    second = made(loops.outputs(z), None, batch, Clock(1, 1, 4))
    q = soft_clusters(z, made.centres).double()
    p = q**2 / q.sum(0)
    p = p / p.sum(1, keepdim=True)
    assert second["clustering"].item() == pytest.approx((p * (p / q).log()).sum(1).mean().item(), abs=1e-6)
    expected = second["neighbours"] + second["meta_nodes"] + 2 * second["clustering"]
    assert second["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
