"""Encoders of torch_geometric: the layer written out, views side by side, the export, and what is refused."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssl_framework.models.pyg import PyGNet
from ssl_framework.types import joined
from tests.models.test_graph import EDGES, graph

KEYS = {"features": 3, "width": 5, "depth": 2, "dim": 4}


def backbone(model: str, **options: object) -> PyGNet:
    pytest.importorskip("torch_geometric")  # of the extra "graph"
    torch.manual_seed(0)
    return PyGNet(model, **KEYS, options=options).eval()  # type: ignore[arg-type]


def test_one_layer_of_gin_is_that_of_the_paper_written_out() -> None:
    torch.manual_seed(0)
    pytest.importorskip("torch_geometric")
    made, x = PyGNet("GIN", features=3, width=5, depth=1, dim=4, options={}).eval(), graph()
    summed = x.x.clone().index_add(0, EDGES[1], x.x[EDGES[0]])  # equation 4.1 with epsilon 0, before its MLP
    torch.testing.assert_close(made(x)["pooled"], made.net.convs[0].nn(summed))


@pytest.mark.parametrize("model", ["GAT", "GIN"])
def test_it_is_a_backbone_whose_export_loads_outside_a_run(model: str, tmp_path: Path) -> None:
    made = backbone(model, dropout=0.1)
    expected = made(graph())["pooled"]
    assert expected.shape == (7, 4) and made.name == f"{model.lower()}_2x5"
    assert torch.equal(made(graph([2, 2, 0]))["pooled"], expected[[2, 2, 0]])
    both = made(joined([graph([1, 2]), graph([3])]))["pooled"]
    torch.testing.assert_close(both, expected[[1, 2, 3]])
    save_file(dict(made.net.state_dict()), tmp_path / "net.safetensors")
    found: dict = {}
    exec(made.load_line(tmp_path / "net.safetensors"), found)
    assert torch.equal(found["net"].eval()(graph().x, EDGES), expected)
    made.train()(graph())["pooled"].square().sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_other_models_options_and_samples_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"backbone\.model is GCNII: choose one of GAT, GIN"):
        PyGNet("GCNII", **KEYS, options={})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch_geometric.nn", None)
        with pytest.raises(ValueError, match=r"backbone=pyg needs the package torch_geometric: pip install -e '."):
            PyGNet("GAT", **KEYS, options={})
    with pytest.raises(ValueError, match=r"backbone\.options is {'hops': 2}, which GIN does not take"):
        backbone("GIN", hops=2)
    with pytest.raises(
        ValueError, match="gat_2x5 takes a graph whose nodes have 3 features, but the views have samples"
    ):
        backbone("GAT")(graph(features=4))
