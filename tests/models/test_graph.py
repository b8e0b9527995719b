"""Graph convolutions: by the dense matrix of the paper, what a node sees, and the export."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssl_framework.models.graph import GCN, propagated
from ssl_framework.types import Graph, joined

PAIRS = torch.tensor([[0, 1, 2, 4], [1, 2, 3, 5]])  # 0 - 1 - 2 - 3, 4 - 5, and 6 alone
EDGES = torch.cat([PAIRS, PAIRS.flip(0)], dim=1)


def graph(nodes: list[int] | None = None, features: int = 3) -> Graph:
    x = torch.randn(7, features, generator=torch.Generator().manual_seed(0))
    return Graph(x, EDGES, torch.tensor(nodes or list(range(7))))


def backbone() -> GCN:
    torch.manual_seed(0)
    return GCN(features=3, width=5, depth=2, dim=4)


def dense() -> torch.Tensor:
    a = torch.eye(7, dtype=torch.float64)
    a[EDGES[0], EDGES[1]] = 1
    return a / (a.sum(1, keepdim=True) * a.sum(0, keepdim=True)).sqrt()


def test_it_is_the_normalised_adjacency_with_self_loops() -> None:
    x = graph().x
    torch.testing.assert_close(propagated(x.double(), EDGES), dense() @ x.double())
    torch.testing.assert_close(propagated(x, EDGES)[6], x[6])  # a node without edges sees itself
    half = propagated(x.bfloat16(), EDGES)
    assert half.dtype == torch.bfloat16  # as under autocast
    torch.testing.assert_close(half.float(), propagated(x, EDGES), atol=0.05, rtol=0.05)


def test_it_is_the_network_of_the_papers_written_out() -> None:
    made, x = backbone(), graph()
    own, h = dict(made.net.named_parameters()), x.x
    for i in range(2):
        h = dense().float() @ h @ own[f"layers.{i}.weight"].T
        h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
        h = h * own[f"norms.{i}.weight"] + own[f"norms.{i}.bias"]
        h = torch.where(h > 0, h, own[f"activations.{i}.weight"] * h)
    torch.testing.assert_close(made(x)["pooled"], h, atol=1e-5, rtol=1e-5)
    assert torch.equal(made(graph([2, 2, 0]))["pooled"], made(graph())["pooled"][[2, 2, 0]])


def test_a_node_sees_as_far_as_there_are_layers() -> None:
    made, x = backbone().eval(), graph([0])
    features = x.x.clone().requires_grad_()
    made(Graph(features, EDGES, x.nodes))["pooled"].sum().backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(1) > 0).tolist() == [True, True, True, False, False, False, False]


def test_views_side_by_side_are_encoded_as_each_alone() -> None:
    made = backbone().eval()
    both = made(joined([graph([1, 2]), graph([3])]))["pooled"]
    torch.testing.assert_close(both, made(graph([1, 2, 3]))["pooled"])


def test_an_export_loads_outside_a_run(tmp_path: Path) -> None:
    made = backbone().eval()
    save_file(dict(made.net.state_dict()), tmp_path / "net.safetensors")
    found: dict = {}
    exec(made.load_line(tmp_path / "net.safetensors"), found)
    assert torch.equal(found["net"].eval()(graph().x, EDGES), made(graph())["pooled"])
    assert made.about()["settings"] == "features=3, width=5, depth=2, dim=4"


def test_what_is_no_graph_of_such_nodes_is_refused() -> None:
    with pytest.raises(
        ValueError, match="gcn_2x5 takes a graph whose nodes have 3 features, but the views have samples"
    ):
        backbone()(torch.zeros(2, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="have samples of 4: choose another backbone"):
        backbone()(graph(features=4))
