"""Graphs: what is drawn is what is said, and tables of one's own with their rules."""

import math
from pathlib import Path

import pytest
import torch

from ssl_framework.data.graphs.base import both_ways
from ssl_framework.data.graphs.circuit import DEVICES, FEATURES, Netlists, binned
from ssl_framework.data.graphs.hetero import Papers, sharing
from ssl_framework.data.graphs.sbm import BlockModel
from ssl_framework.data.graphs.table import GraphTable


def blocks(**changed: object) -> BlockModel:
    plain = {"num_train": 600, "num_test": 300, "blocks": 3, "features": 8, "degree": 6.0, "within": 0.5}
    plain |= {"signal": 0.2, "noise": 3.0, "least": 0.1, "seed": 0}
    return BlockModel(**{**plain, **changed})  # type: ignore[arg-type]


def test_edges_go_both_ways_once_and_to_no_node_itself() -> None:
    edges = both_ways(torch.tensor([[3, 0, 1, 2, 0], [1, 2, 3, 2, 2]]), 4)
    assert edges.tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]
    assert both_ways(torch.zeros(2, 0, dtype=torch.int64), 4).shape == (2, 0)


def test_samples_are_nodes_of_one_graph_and_blocks_are_their_classes() -> None:
    source = blocks()
    train, test, graph = source.load("train"), source.load("test"), source.graph()
    assert train.rows.tolist() == list(range(600)) and test.rows.tolist() == list(range(600, 900))  # type: ignore
    assert train.label.bincount().tolist() == [200] * 3 and len(train.classes) == 3  # type: ignore[union-attr]
    assert graph.x.shape == (900, 8) and graph.x.dtype == torch.float32 and source.graph() is graph
    assert torch.equal(graph.edges[:, : graph.edges.shape[1] // 2].flip(0), graph.edges[:, graph.edges.shape[1] // 2 :])
    again, other = blocks().graph(), blocks(seed=1).graph()
    assert torch.equal(graph.x, again.x) and torch.equal(graph.edges, again.edges) and not torch.equal(graph.x, other.x)


def test_degree_share_within_and_noise_are_those_that_are_said() -> None:
    graph = blocks(num_train=2000, num_test=1000, within=0.7).graph()
    block = torch.arange(3000) % 3
    assert graph.edges.shape[1] / 3000 == pytest.approx(6, abs=0.1)
    assert (block[graph.edges[0]] == block[graph.edges[1]]).float().mean().item() == pytest.approx(0.7, abs=0.02)
    inside = torch.stack([graph.x[block == k].std(0) for k in range(3)]).mean(0)  # [F]
    torch.testing.assert_close(inside, 3.0 * torch.linspace(1, 0.1, 8), atol=0.08, rtol=0.05)


def test_numbers_out_of_range_are_refused() -> None:
    for changed, words in (
        ({"blocks": 1}, "blocks is 1"),
        ({"within": 1.5}, "within is 1.5"),
        ({"degree": 0}, "degree"),
    ):
        with pytest.raises(ValueError, match=words):
            blocks(**changed)
    with pytest.raises(ValueError, match="There is no split"):
        blocks().load("valid")


NODES = "id,label,f1,f2\nb,red,1,0\na,blue,3,0\nc,red,5,6\nd,blue,7,6\n"
EDGES = "source,target\na,b\nb,a\nc,c\na,c\n"
"""One edge twice, one from a node to itself, and d has none."""


def table(folder: Path, nodes: str = NODES, edges: str = EDGES, **changed: object) -> GraphTable:
    (folder / "n.csv").write_text(nodes)
    (folder / "e.csv").write_text(edges)
    plain = {"root": str(folder), "nodes": "n.csv", "edges": "e.csv", "features": 2, "test_fraction": 0.5, "seed": 0}
    return GraphTable(**{**plain, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_hold_a_graph_by_the_stated_rules(delimiter: str, tmp_path: Path) -> None:
    source = table(tmp_path, NODES.replace(",", delimiter), EDGES.replace(",", delimiter))
    with pytest.warns(UserWarning, match="1 of the 4 nodes in .* have no edges: they see themselves alone"):
        graph = source.graph()
    assert graph.edges.tolist() == [[0, 1, 1, 2], [1, 2, 0, 1]]
    torch.testing.assert_close(graph.x[:, 0], (torch.tensor([1.0, 3, 5, 7]) - 4) / 5**0.5)
    torch.testing.assert_close(graph.x[:, 1], torch.tensor([-1.0, -1, 1, 1]))
    train, test = source.load("train"), source.load("test")
    assert train.classes == ("blue", "red") and sorted([*train.rows.tolist(), *test.rows.tolist()]) == [0, 1, 2, 3]  # type: ignore
    for split in (train, test):
        assert [(1, 0, 1, 0)[i] for i in split.rows.tolist()] == split.label.tolist()  # type: ignore
        assert len(split.rows) == 2


@pytest.mark.filterwarnings("ignore:1 of the 4 nodes")
def test_a_column_of_splits_and_other_names(tmp_path: Path) -> None:
    nodes = "f1,paper,part\n1,b,train\n2,a,test\n"
    with pytest.raises(ValueError, match="features are numbers"):
        table(tmp_path, nodes, EDGES, columns={"id": "paper"}).load("train")  # "part" is taken for a feature
    nodes = "f1,f2,paper,part\n1,0,b,train\n2,1,a,test\n2,1,c,train\n4,0,d,train\n"
    source = table(tmp_path, nodes, EDGES, columns={"id": "paper", "split": "part"})
    assert source.load("train").rows.tolist() == [0, 2, 3] and source.load("test").rows.tolist() == [1]  # type: ignore
    assert source.load("train").label is None


@pytest.mark.parametrize(
    ("nodes", "edges", "changed", "words"),
    [
        (NODES, EDGES, {"features": 3}, r"has 2 columns of features, but data\.features is 3: set data\.features=2"),
        (NODES, EDGES, {"columns": {"x": "y"}}, r"data\.columns names x: there are id, label"),
        (NODES.replace("id", "name"), EDGES, {}, "has no column id, but name, label, f1, f2: set data.columns"),
        (NODES + "b,red,0,0\n", EDGES, {}, "line 6: there is a node b before: keep one"),
        (NODES + "e,red,0\n", EDGES, {}, "line 6: there are 3 fields, but 4 columns"),
        (NODES + "e,red,0,x\n", EDGES, {}, "line 6: could not convert .*: features are numbers"),
        (NODES + "e,red,0,nan\n", EDGES, {}, "line 6: a feature is not finite"),
        (NODES + "e,,0,0\n", EDGES, {}, "1 nodes have no label: give one to all, or to none"),
        (NODES, EDGES + "a,z\n", {}, "e.csv, line 6: there is no node 'z' in"),
        (NODES, "source;goal\na;b\n", {}, "has no column target, but source, goal"),
        ("id,label,f1,f2\n", EDGES, {}, "has no line below its header"),
        ("id,split,f1,f2\na,valid,0,0\n", EDGES, {}, "there is a split 'valid': choose train or test"),
    ],
)
def test_what_cannot_be_a_graph_is_refused(nodes: str, edges: str, changed: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as found:
        table(tmp_path, nodes, edges, **changed).load("train")
    assert "\n" not in str(found.value)


def test_no_table_and_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no table .*m\.csv: set data\.root"):
        GraphTable(str(tmp_path), "m.csv", "e.csv", features=2, test_fraction=0.5).load("train")
    source = table(tmp_path)
    source.nodes.write_bytes(b"id,f\n\xff,1\n")
    with pytest.raises(ValueError, match="is no table in UTF-8"):
        source.load("train")


def papers(**changed: object) -> Papers:
    plain = {"num_train": 400, "num_test": 200, "classes": 3, "features": 8, "authors": 150, "subjects": 12}
    plain |= {"loyalty": 0.8, "purity": 0.4, "signal": 0.2, "noise": 1.0, "least": 0.5, "seed": 0}
    return Papers(**{**plain, **changed})  # type: ignore[arg-type]


def test_papers_are_related_by_authors_and_by_subjects() -> None:
    source = papers()
    graph, label = source.graph(), torch.arange(600) % 3
    assert source.load("test").rows.tolist() == list(range(400, 600))  # type: ignore[union-attr]
    assert list(graph.relations) == ["author", "subject"]
    alike = {name: (label[e[0]] == label[e[1]]).float().mean().item() for name, e in graph.relations.items()}
    expected = {"author": 0.8 + 0.2 / 3, "subject": 0.4 + 0.6 / 3}  # that a paper's own is of its class
    for name, p in expected.items():
        both = p**2 + (1 - p) ** 2 / 2  # two that share it are of one class
        assert alike[name] == pytest.approx(both, abs=0.06)
    keys = [set((e[0] * 600 + e[1]).tolist()) for e in (graph.edges, *graph.relations.values())]
    assert keys[0] == keys[1] | keys[2] and len(keys[1]) < len(keys[2])
    assert torch.equal(graph.edges, papers().graph().edges)
    assert sorted(sharing(torch.tensor([4, 1, 4, 0, 4])).T.tolist()) == [[0, 2], [0, 4], [2, 4]]
    assert sharing(torch.arange(3)).shape == (2, 0)
    with pytest.raises(ValueError, match=r"data\.source\.subjects is 2, but there are 3 classes: give each one"):
        papers(subjects=2)


def netlists(**changed: object) -> Netlists:
    plain = {"num_train": 130, "num_test": 60, "nets": 50, "spread": 0.7, "wire": 0.5, "noise": 0.0, "seed": 0}
    return Netlists(**{**plain, "label": "log_capacitance", "num_classes": 5, **changed})  # type: ignore[arg-type]


def test_a_circuit_is_a_tree_and_none_is_of_both_splits() -> None:
    source = netlists()
    graph = source.graph()
    nodes, edges = len(graph.x), graph.edges.shape[1] // 2
    assert graph.x.shape[1] == FEATURES and edges == nodes - 5  # circuits of 50, 50, 30; 50, 10 nets
    root = list(range(nodes))
    for _ in range(nodes):  # all of a tree end with the least number in it
        before = list(root)
        for a, b in graph.edges.T.tolist():
            root[a] = min(root[a], root[b])
        if root == before:
            break
    assert [root[i] for i in (0, 49, 50, 99, 100, 129, 130, 179, 180, 189)] == [
        0,
        0,
        50,
        50,
        100,
        100,
        130,
        130,
        180,
        180,
    ]
    assert sorted(set(root)) == [0, 50, 100, 130, 180]
    sort = graph.x[:, :3].argmax(1)
    assert (sort[:190] == 0).all() and (sort[190:] > 0).all()
    start, end = graph.edges
    assert ((sort[start] == 1) != (sort[end] == 1)).all()  # pins between nets and devices
    assert (start[sort[start] == 1].bincount()[190:][: int((sort == 1).sum())] == 2).all()


def test_capacitance_is_summed_over_the_pins_of_a_net_and_has_a_long_tail() -> None:
    source = netlists()
    graph, train, test = source.graph(), source.load("train"), source.load("test")
    assert train.rows.tolist() == list(range(130)) and test.rows.tolist() == list(range(130, 190))  # type: ignore
    assert train.label is not None and train.label.dtype == torch.float32 and train.classes == ()
    near: dict[int, list[int]] = {}
    for a, b in graph.edges.T.tolist():
        near.setdefault(a, []).append(b)
    table = list(DEVICES.values())
    for net in (0, 7, 129):
        total = 0.5
        for pin in near[net]:
            (device,) = [node for node in near[pin] if node != net]
            pins, farad = table[int(graph.x[device, 3:-1].argmax())]
            total += farad * math.exp(float(graph.x[device, -1])) + 0.5 * (pins - 1)
        assert train.label[net].item() == pytest.approx(math.log(total), abs=1e-5)
    number = torch.cat([train.label, test.label])  # type: ignore[list-item]
    assert ((number - number.mean()) / number.std()).pow(3).mean() > 0.3  # the tail is on the right
    classes = netlists(label="class").load("train")
    assert classes.classes == tuple(f"bin {k}" for k in range(5)) and classes.label.min() == 0  # type: ignore
    assert binned(torch.tensor([0.0, 0.9, 1.0, 4.9, 5.0]), 5).tolist() == [0, 0, 1, 4, 4]
    assert torch.equal(source.graph().edges, netlists().graph().edges)
    assert not torch.equal(number[:130], netlists(seed=1).load("train").label)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.source\.label is farad: choose log_capacitance or class"):
        netlists(label="farad")
