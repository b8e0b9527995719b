"""TS2Vec: golden values, loops over series and points, and crops that show the same points where they say so."""

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.ts2vec import TS2Vec, hierarchical, instance_contrast, temporal_contrast
from ssl_framework.types import Batch, Samples
from ssl_framework.views.overlap import OverlapViews
from tests.golden import golden, mix_raw
from tests.objectives import loops


def tokens(s: int) -> Tensor:
    return mix_raw(s, 3, 40).view(3, 10, 4)


def test_golden() -> None:
    z0, z1 = tokens(0), tokens(1)
    assert instance_contrast(z0, z1).item() == pytest.approx(golden("ts2vec: instance term"), abs=1e-7)
    assert temporal_contrast(z0, z1).item() == pytest.approx(golden("ts2vec: temporal term"), abs=1e-7)
    loss, *finest = hierarchical(z0, z1, 0.5)
    assert loss.item() == pytest.approx(golden("ts2vec: hierarchical loss"), abs=1e-7)
    assert [x.item() for x in finest] == [instance_contrast(z0, z1).item(), temporal_contrast(z0, z1).item()]


def cross_entropy(anchor: Tensor, candidates: list[Tensor], right: int) -> float:
    scores = [loops.dot(anchor, other) for other in candidates]
    return loops.log_sum_exp(scores) - scores[right]


def both_contrasts(z: tuple[Tensor, Tensor], weight: float) -> float:
    """Of one scale."""
    series, points = z[0].shape[:2]
    across, along = 0.0, 0.0
    for b in range(series):
        for t in range(points):
            for v in (0, 1):
                others = [(u, c) for u in (0, 1) for c in range(series) if (u, c) != (v, b)]
                rows = [z[u][c, t] for u, c in others]
                across += cross_entropy(z[v][b, t], rows, others.index((1 - v, b)))
                own = [(u, s) for u in (0, 1) for s in range(points) if (u, s) != (v, t)]
                along += cross_entropy(z[v][b, t], [z[u][b, s] for u, s in own], own.index((1 - v, t)))
    count = 2 * series * points
    return weight * across / count + (1 - weight) * (along / count if points > 1 else 0.0)


def test_every_scale_equals_the_loop() -> None:
    z = (tokens(2)[:, :5], tokens(3)[:, :5])  # scales of 5, 2 and 1 points
    expected = both_contrasts(z, 0.3)
    for points in (2, 1):
        z = tuple(torch.stack([x[:, 2 * t : 2 * t + 2].amax(dim=1) for t in range(points)], dim=1) for x in z)  # type: ignore[assignment]
        expected += both_contrasts(z, 0.3)
    found = hierarchical(tokens(2)[:, :5], tokens(3)[:, :5], 0.3)[0].item()
    assert found == pytest.approx(expected / 3, abs=1e-12)


def test_one_series_has_no_other_to_be_told_from() -> None:
    assert instance_contrast(tokens(0)[:1], tokens(1)[:1]).item() == 0
    assert hierarchical(tokens(0)[:, :1], tokens(1)[:, :1], 0.5)[2].item() == 0  # nor one point


def test_only_the_shared_points_are_compared() -> None:
    views, at = [tokens(0), tokens(1)], [torch.tensor([[5, 6, 7]] * 3), torch.tensor([[0, 1, 2]] * 3)]
    batch = Batch([], torch.arange(3), targets=at)
    found = TS2Vec(0.5)([{"points": z} for z in views], None, batch, loops.CLOCK)["loss"]
    assert found == hierarchical(views[0][:, 5:8], views[1][:, :3], 0.5)[0]
    with pytest.raises(ValueError, match=r"the views do not name them: choose views=ts2vec"):
        TS2Vec(0.5)([{"points": z} for z in views], None, batch._replace(targets=None), loops.CLOCK)


def maker(crop: float = 0.5, overlap: float = 0.25) -> OverlapViews:
    return OverlapViews(32, 1, [0.0], [1.0], crop, overlap)


def test_crops_show_the_same_values_at_the_shared_points() -> None:
    x = torch.arange(32.0).expand(500, 1, 32)
    batch = maker()(Samples(x, torch.arange(500)), torch.Generator().manual_seed(0))
    assert [view.shape[1:] for view in batch.views] == [maker().example(v) for v in (0, 1)] == [(1, 16)] * 2
    assert batch.targets is not None
    first, second = (v[:, 0].gather(1, at) for v, at in zip(batch.views, batch.targets, strict=True))  # [B, 8] each
    assert torch.equal(first, second) and first.shape == (500, 8)
    assert (batch.views[0][:, 0].diff() == 1).all()  # the pace stays
    assert batch.views[0][:, 0, 0].unique().tolist() == list(range(9))  # the pair of 24 points begins anywhere


@pytest.mark.parametrize(("crop", "overlap"), [(0.5, 0.5), (0.8, 0.5), (0.5, 0.01)])
def test_crops_that_do_not_fit_are_refused(crop: float, overlap: float) -> None:
    with pytest.raises(ValueError, match=r"set views\.overlap below views\.crop, and 2 crop - overlap to at most 1"):
        maker(crop, overlap)
