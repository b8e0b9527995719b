"""Views of graphs: what is left out, alike for all nodes, and the record that encoders get."""

from types import SimpleNamespace

import pytest
import torch

from ssl_framework.data.graphs.base import Whole
from ssl_framework.types import Graph, Samples, joined
from ssl_framework.views.base import Further
from ssl_framework.views.graph import SHOWN, GraphViews

N, F = 40, 200
X = torch.randn(N, F, generator=torch.Generator().manual_seed(0))
RING = torch.stack([torch.arange(N), (torch.arange(N) + 1) % N])
EDGES = torch.cat([RING, RING.flip(0)], dim=1)
KINDS = {"next": EDGES, "none": EDGES[:, :0]}
SOURCE = SimpleNamespace(graph=lambda: Whole(X, EDGES, KINDS))


def views(**changed: object) -> GraphViews:
    return GraphViews(**{"count": 2, "source": SOURCE, "features": F, **changed})  # type: ignore[arg-type]


def made(maker: GraphViews, seed: int = 0) -> list[Graph]:
    nodes = torch.tensor([3, 1, 1])
    return maker(Samples(nodes, torch.arange(3), nodes), torch.Generator().manual_seed(seed)).views


def test_without_operations_a_view_is_the_graph_of_these_nodes() -> None:
    first, second = made(views())
    assert torch.equal(first.x, X) and torch.equal(first.edges, EDGES) and first.nodes.tolist() == [3, 1, 1]
    assert torch.equal(second.edges, EDGES) and len(first) == 3 and first.shape == (3, F)
    clean = views().clean(torch.tensor([5], dtype=torch.int32))
    assert torch.equal(clean.x, X) and clean.nodes.tolist() == [5]
    assert torch.equal(views().raw(torch.tensor([5, 2])), X[[5, 2]])


def test_an_edge_is_left_out_both_ways_and_views_draw_anew() -> None:
    kept = [view.edges for seed in range(100) for view in made(views(drop_edges=[0.3]), seed)]
    for edges in kept[:10]:
        half = edges.shape[1] // 2
        assert torch.equal(edges[:, :half].flip(0), edges[:, half:])
    assert abs(sum(edges.shape[1] for edges in kept) / (200 * 2 * N) - 0.7) < 0.02
    assert not torch.equal(kept[0], kept[1]) and torch.equal(kept[0], made(views(drop_edges=[0.3]))[0].edges)


def test_a_feature_is_hidden_at_all_nodes() -> None:
    first, second = made(views(mask_features=[0.25]))
    hidden = (first.x == 0).all(0)
    assert torch.equal(first.x, X.masked_fill(hidden, 0)) and abs(hidden.float().mean() - 0.25) < 0.1
    assert not torch.equal(hidden, (second.x == 0).all(0)) and torch.equal(first.edges, EDGES)


def test_each_view_has_its_own_shares_and_may_have_the_features_of_other_nodes() -> None:
    first, second, third = made(views(count=3, drop_edges=[0.0, 0.5], mask_features=[0.4, 0.0], shuffled=[1]))
    assert torch.equal(first.edges, EDGES) and (first.x == 0).all(0).any()
    assert all(abs(view.edges.shape[1] / (2 * N) - 0.5) < 0.3 for view in (second, third))
    assert torch.equal(third.x, X) and not torch.equal(second.x, X)
    assert torch.equal(second.x.sort(0).values, X.sort(0).values)
    assert len({tuple(row) for row in second.x.tolist()} & {tuple(row) for row in X.tolist()}) == N  # whole rows


def test_a_view_may_have_one_kind_of_edges() -> None:
    first, second, third = made(views(count=3, relations=["none", None]))
    assert first.edges.shape[1] == 0 and torch.equal(second.edges, EDGES) and torch.equal(third.edges, EDGES)
    with pytest.raises(
        ValueError, match="relations names by, but the edges of the data have next, none: choose data=hetero"
    ):
        made(views(relations=["by"]))


def test_views_side_by_side_have_no_edge_between_them() -> None:
    first, second = made(views(drop_edges=[0.3], mask_features=[0.2]))
    both = joined([first, second])
    assert both.shape == (6, F) and both.nodes.tolist() == [3, 1, 1, 43, 41, 41]
    inside = both.edges >= N
    assert torch.equal(inside[0], inside[1]) and torch.equal(both.edges[:, inside[0]] - N, second.edges)
    assert torch.equal(both.x, torch.cat([first.x, second.x]))
    assert torch.equal(joined([X, X]), torch.cat([X, X]))


def test_the_record_has_rows_and_parts_as_a_tensor_has() -> None:
    (view, _) = made(views())
    assert view[1].nodes.tolist() == [1] and view[torch.tensor([0, 2])].nodes.tolist() == [3, 1]
    assert (
        [part.nodes.tolist() for part in view.split(2)]
        == [[3, 1], [1]]
        == [
            view[:2].nodes.tolist(),
            view[2:].nodes.tolist(),
        ]
    )
    assert [one.nodes.tolist() for one in view] == [[3], [1], [1]] and view.device == torch.device("cpu")
    assert view.to("cpu").shape == view.shape


def test_a_picture_shows_a_node_above_its_neighbours() -> None:
    maker = views()
    picture = maker.picture(maker.clean(torch.tensor([3])))
    assert isinstance(picture, torch.Tensor) and picture.shape == (1, 4 * (SHOWN + 2), 2 * F)
    rows = picture[0, ::4, ::2]
    assert (rows[1] == 1).all() and (rows[4:] == 1).all()
    torch.testing.assert_close(rows[0], ((3.5 - X[3]) / 7).clamp(0, 1))
    torch.testing.assert_close(rows[2:4], ((3.5 - X[[2, 4]]) / 7).clamp(0, 1))


def test_the_smoothed_reference_is_the_mean_over_neighbours_twice() -> None:
    once = (X + X.roll(1, 0) + X.roll(-1, 0)) / 3
    twice = (once + once.roll(1, 0) + once.roll(-1, 0)) / 3
    assert isinstance(views(), Further) and list(views().further()) == ["smoothed"]
    torch.testing.assert_close(views().further()["smoothed"](torch.tensor([7, 0])), twice[[7, 0]])


def test_graph_views_refuse_what_is_no_graph() -> None:
    assert views().modality == ("node", "node") and views().example(0) == (F,)
    with pytest.raises(ValueError, match="views of graphs need data that have one: choose data=sbm or graph_table"):
        views(source=SimpleNamespace())
    with pytest.raises(ValueError, match="views take nodes of 3 features, but the data have 200"):
        made(views(features=3))
    with pytest.raises(ValueError, match="views of graphs take node numbers"):
        views().clean(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"drop_edges is \[1\.0\]: it must be"):
        views(drop_edges=[1.0])
