"""GPC: a loop over its terms, and the clusters that it makes of labelled and unlabelled samples."""

import pytest
import torch

from ssl_framework.objectives.gpc import GPC
from ssl_framework.objectives.grouping import semi_supervised_kmeans
from ssl_framework.objectives.split_merge import SplitMerge
from ssl_framework.types import Clock
from tests.golden import core_view
from tests.objectives import loops

LABEL, CLUSTER = [0, -1, 0, 1, -1, -1], [0, 2, 0, 1, 1, -1]


def gpc() -> GPC:
    objective = GPC(3, 4, None, 4, 0.5, 0.2, 0.35, 0.7, 0.3, 1, 50)
    objective.allocate(6)
    return objective.double()


def minus_log_p(scores: list[float], wanted: int) -> float:
    return loops.log_sum_exp(scores) - scores[wanted]


def test_equals_the_loop() -> None:
    objective = gpc()
    objective.prototypes[:3] = core_view(2)[:3]  # there is no fourth
    objective.temperatures[:3] = torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64)
    objective.cluster.copy_(torch.tensor(CLUSTER))
    z, x = (core_view(0), core_view(1)), (core_view(2).roll(1, 0), core_view(3))
    views = [{"projector": z[v], "pooled": 3 * x[v]} for v in (0, 1)]
    out = objective(views, None, loops.batch(6, torch.tensor(LABEL)), loops.CLOCK)
    labelled = [0, 2, 3]
    supcon = loops.supcon(torch.cat([z[0][labelled], z[1][labelled]]), [0, 0, 1, 0, 0, 1], 0.2)
    prototype = 0.0
    for v in (0, 1):
        for i in (1, 4):  # unlabelled and in a cluster
            scores = [loops.dot(x[v][i], core_view(2)[k]) / (0.2, 0.3, 0.4)[k] for k in range(3)]
            prototype += minus_log_p(scores, CLUSTER[i]) / 4
    expected = 0.65 * loops.nt_xent(*z, 0.5) + 0.35 * supcon + 0.7 * prototype
    assert out["loss"].item() == pytest.approx(expected, abs=1e-6)
    assert out["prototype"].item() == pytest.approx(prototype, abs=1e-6)
    assert objective.bank.column("label").tolist() == LABEL
    torch.testing.assert_close(objective.bank.column("features"), x[0])


def blobs(spread: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten samples around each of five axes, and their classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(50) % 5
    return torch.eye(5)[y] + spread * torch.randn(50, 5, generator=generator), y


def test_clusters_find_the_classes_that_have_no_label() -> None:
    x, y = blobs()
    told = torch.where((y < 2) & (torch.arange(50) < 20), y, -1)
    centres, cluster = semi_supervised_kmeans(x, told, 5, 50, torch.Generator().manual_seed(0))
    assert torch.equal(cluster[y < 2], y[y < 2])  # a known class has its number
    assert all(cluster[y == c].unique().numel() == 1 for c in range(5)) and cluster.unique().numel() == 5
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(5))


def test_a_label_is_kept_where_the_features_say_otherwise() -> None:
    x, y = blobs()
    wrong = torch.full_like(y, -1)
    wrong[:10], wrong[3] = y[:10], 0  # sample 3 is of class 3
    _, cluster = semi_supervised_kmeans(x, wrong, 5, 50)
    assert cluster[3] == 0 and cluster[8] == 3 and cluster[13] == 3


def test_clusters_of_equal_rows_and_without_labels() -> None:
    centres, cluster = semi_supervised_kmeans(torch.ones(6, 3), torch.full((6,), -1), 3, 5)
    assert cluster.unique().numel() == 1 and centres.isfinite().all()
    with pytest.raises(ValueError, match="4 classes have labels, but there are to be 3 clusters"):
        semi_supervised_kmeans(torch.ones(6, 3), torch.arange(6) % 4, 3, 5)


def test_an_epoch_makes_prototypes_of_what_was_seen() -> None:
    x, y = blobs()
    objective = GPC(5, 8, None, 5, 0.5, 0.2, 0.35, 1.0, 0.3, 2, 50)
    objective.allocate(60)
    objective.bank.write(torch.arange(50), {"features": x, "label": torch.where(y < 2, y, -1).float()})
    objective.on_epoch(Clock(0, 1, 10))
    assert (objective.cluster == -1).all()
    objective.on_epoch(Clock(0, 2, 10))
    assert (objective.cluster[50:] == -1).all() and torch.equal(objective.cluster[:50][y < 2], y[y < 2])
    own = objective.prototypes[objective.cluster[:50]]
    assert ((own * x).sum(dim=1) / x.norm(dim=1)).min() > 0.95
    assert objective.temperatures.mean().item() == pytest.approx(0.3)
    assert (objective.prototypes[5:] == 0).all()


def test_a_move_divides_the_one_cluster_of_three_new_classes() -> None:
    x, y = blobs()
    x[y >= 2] += torch.tensor([0.0, 0.0, 0.6, 0.6, 0.6])  # nearer to each other than to the known classes
    moves = SplitMerge(1.0, 0.01, 0.1, 0.0)
    objective = GPC(3, 8, moves, 5, 0.5, 0.2, 0.35, 1.0, 0.3, 1, 50)
    objective.allocate(50)
    objective.bank.write(torch.arange(50), {"features": x, "label": torch.where(y < 2, y, -1).float()})
    objective.on_epoch(Clock(0, 1, 10))
    found = objective.cluster[y >= 2]
    assert (objective.prototypes[:4] != 0).any(dim=1).all() and torch.equal(objective.cluster[y < 2], y[y < 2])
    assert all(found[y[y >= 2] == c].unique().numel() == 1 for c in (2, 3, 4)) and found.unique().numel() == 2
    with pytest.raises(ValueError, match=r"objective\.most is 2, but objective\.num_clusters is 3: raise most"):
        GPC(3, 2, None, 5, 0.5, 0.2, 0.35, 1.0, 0.3, 1, 50)
