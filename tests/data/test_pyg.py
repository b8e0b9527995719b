"""Graphs of torch_geometric from files: what is read by which rule, and what is refused unread."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_framework.data.graphs import pyg
from ssl_framework.data.graphs.pyg import PyGGraph

GRAPH = {
    "x": torch.arange(8.0).view(4, 2).double(),
    "edge_index": torch.tensor([[1, 0, 2, 0], [0, 1, 2, 2]]),
    "y": torch.tensor([1, 0, 2, 0]),
    "test_mask": torch.tensor([False, True, False, True]),
}
"""One edge twice, and one from a node to itself."""


def source(folder: Path, content: Any = None, file: str = "g.pt", **changed: object) -> PyGGraph:
    if file.endswith(".npz"):
        np.savez(folder / file, **{name: value.numpy() for name, value in (content or GRAPH).items()})
    else:
        torch.save(GRAPH if content is None else content, folder / file)
    plain = {"root": str(folder), "file": file, "features": 2, "test_fraction": 0.5, "seed": 0}
    return PyGGraph(**{**plain, **changed})  # type: ignore[arg-type]


def is_the_graph(found: PyGGraph) -> None:
    graph, train, test = found.graph(), found.load("train"), found.load("test")
    assert graph.x.dtype == torch.float32 and torch.equal(graph.x, GRAPH["x"].float())
    assert graph.edges.tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]
    assert train.rows.tolist() == [0, 2] and test.rows.tolist() == [1, 3]  # type: ignore[union-attr]
    assert train.label.tolist() == [1, 2] and train.classes == ("class 0", "class 1", "class 2")  # type: ignore


@pytest.mark.parametrize("file", ["g.pt", "g.npz"])
def test_files_without_the_package_hold_a_graph_by_the_stated_rules(file: str, tmp_path: Path) -> None:
    is_the_graph(source(tmp_path, file=file))
    bare = {name: GRAPH[name] for name in ("x", "edge_index")}
    held = source(tmp_path, bare, file)
    assert held.load("test").label is None and len(held.load("test").rows) == 2
    numbers = source(tmp_path, {**GRAPH, "y": torch.rand(4, 1).double()}, file).load("train")
    assert numbers.label is not None and numbers.label.dtype == torch.float32 and numbers.classes == ()


def test_a_data_and_a_file_of_a_data_set_are_read_without_running_their_code(tmp_path: Path) -> None:
    package = pytest.importorskip("torch_geometric.data")
    made = package.Data(**GRAPH)
    is_the_graph(source(tmp_path, made))
    is_the_graph(source(tmp_path, (made.to_dict(), None, package.Data)))
    with pytest.raises(ValueError, match="holds several graphs, but a sample here is a node of one"):
        source(tmp_path, (made.to_dict(), {"x": torch.tensor([0, 2, 4])}, package.Data)).graph()


class Harmful:
    """A pickle that would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is no file of tensors or of a Data") as found:
        source(tmp_path, {**GRAPH, "more": Harmful(tmp_path / "run")}).graph()
    assert "\n" not in str(found.value) and not (tmp_path / "run").exists()
    np.savez(tmp_path / "o.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="is no file of tensors"):
        PyGGraph(str(tmp_path), "o.npz", 2, 0.5).graph()
    monkeypatch.setattr(pyg, "classes", list)
    (tmp_path / "g.pt").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=r"pip install -e '.\[graph\]', without which no Data is read"):
        PyGGraph(str(tmp_path), "g.pt", 2, 0.5).graph()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": torch.zeros(4, 3)}, r"has x of 4 x 3, but data\.features is 2: set data\.features=3"),
        ({"x": torch.full((4, 2), float("nan"))}, "has features that are not finite"),
        ({"edge_index": torch.zeros(3, 2).long()}, r"has an edge_index that is no \[2, E\] of whole numbers"),
        ({"edge_index": torch.tensor([[0], [4]])}, "has edges beyond its 4 nodes, numbered from 0"),
        ({"y": torch.tensor([0, 1, -1, 0])}, "has a y that is not one class or number a node"),
        ({"y": torch.zeros(4, 2)}, "has a y that is not one class or number a node"),
        ({"test_mask": torch.ones(4).bool()}, "has a test_mask that does not part its nodes in two"),
    ],
)
def test_what_cannot_be_a_graph_is_refused(changed: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as found:
        source(tmp_path, {**GRAPH, **changed}).load("train")
    assert "\n" not in str(found.value)


def test_no_graph_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no edge_index, but x: save a Data of both"):
        source(tmp_path, {"x": GRAPH["x"]}).graph()
    with pytest.raises(ValueError, match="holds a list: save a Data"):
        source(tmp_path, [1]).graph()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*h\.pt: set data\.root to its folder"):
        PyGGraph(str(tmp_path), "h.pt", 2, 0.5).graph()
