"""Views of pairs of contours: which fragment each shows, where it begins, and what the objective is told."""

import torch

from ssl_framework.types import Samples
from ssl_framework.views.fragments import FragmentViews


def views(count: int = 2, jitter: float = 0.0) -> FragmentViews:
    return FragmentViews(count, 8, 2, [0.0, 1.0], [1.0, 2.0], jitter, 0.0, 2)


def test_a_view_is_a_fragment_begun_anywhere_and_the_fragments_are_numbered() -> None:
    raw = torch.arange(5 * 2 * 2 * 8.0).view(5, 2, 2, 8)
    batch = views(3)(Samples(raw, torch.tensor([0, 1, 2, 3, 8])), torch.Generator().manual_seed(0))
    assert batch.targets is not None
    assert [numbers.tolist() for numbers in batch.targets] == [[0, 1, 3, 4, 12], [1, 2, 4, 5, 13]]
    starts = set()
    for v, view in enumerate(batch.views):
        expected = (raw[:, v % 2] - torch.tensor([[0.0], [1.0]])) / torch.tensor([[1.0], [2.0]])  # [5, 2, 8]
        for own, all_of_it in zip(view, expected, strict=True):
            (start,) = [s for s in range(8) if torch.equal(own, all_of_it.roll(-s, dims=1))]
            starts.add(start)
    assert len(starts) > 3


def test_points_that_lie_on_each_other_do_so_wherever_contours_begin() -> None:
    raw = torch.arange(2 * 2 * 2 * 8.0).view(2, 2, 2, 8)
    partner = torch.tensor([[-1, 7, 0, 1, -1, -1, 5, 4], [3, 2, 1, 0, -1, -1, -1, -1]], dtype=torch.int16)
    maker = views()
    batch = maker(Samples(raw, torch.tensor([0, 1]), beside={"partner": partner}), torch.Generator().manual_seed(3))
    assert batch.targets is not None and len(batch.targets) == 3
    for b in range(2):
        said = batch.targets[2][b].tolist()
        first, second = (maker.clean(raw[:, v])[b, 0] for v in range(2))  # [8] each, all values apart
        pairs = {(i, j) for i, j in enumerate(partner[b].tolist()) if j >= 0}
        found = {
            (int((first == batch.views[0][b, 0, i]).nonzero()), int((second == batch.views[1][b, 0, j]).nonzero()))
            for i, j in enumerate(said)
            if j >= 0
        }
        assert found == pairs
    assert batch.targets[2].tolist() != partner.tolist()
    alone = views(1)(Samples(raw, torch.tensor([0, 1]), beside={"partner": partner}))
    assert alone.targets is not None and len(alone.targets) == 2


def test_clean_contours_begin_where_they_do_and_of_a_pair_the_first_is_scored() -> None:
    raw = torch.randn(3, 2, 2, 8)
    maker = views(jitter=0.5)
    assert torch.equal(maker.clean(raw), maker.clean(raw[:, 0])) and torch.equal(maker.raw(raw), raw[:, 0].flatten(1))
    assert not torch.equal(maker.clean(raw), maker.clean(raw[:, 1]))
