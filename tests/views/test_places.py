"""Where the positions of views lie in their image, against loops; and that views tell it where an objective asks."""

import pytest
import torch

from ssl_framework.build import build_module
from ssl_framework.types import Geometry, Samples
from ssl_framework.views.image import Views
from ssl_framework.views.places import cell_sides, centres, shared
from tests.objectives import maps
from tests.small_runs import small


def test_centres_are_where_the_loop_says_and_a_flip_reverses_the_columns() -> None:
    cuts = maps.cut((0.1, 0.2, 0.7, 0.6), (0.7, 0.2, 0.1, 0.6))
    found = centres(cuts, 2, 3)
    assert found.shape == (2, 6, 2)
    for b in range(2):
        for place in range(6):
            assert found[b, place].tolist() == pytest.approx(maps.place(cuts, b, place // 3, place % 3, 2, 3))
    torch.testing.assert_close(found[1].view(2, 3, 2), found[0].view(2, 3, 2).flip(1))
    torch.testing.assert_close(cell_sides(cuts, 2, 3), torch.tensor([[0.2, 0.2]] * 2).double())


def test_centres_are_where_the_pixels_of_a_view_come_from() -> None:
    """An image whose two channels are its coordinates, cut, mirrored and averaged to a map."""
    ramp = torch.arange(64.0)
    image = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64)]).to(torch.uint8)
    views = Views([{"count": 2, "scale": [0.3, 1.0], "flip": 0.5}], 32, 2, [0.0] * 2, [1.0] * 2, geometry=True)
    batch = views(Samples(image.expand(9, 2, 64, 64).contiguous(), torch.arange(9)), torch.Generator().manual_seed(0))
    assert batch.geometry is not None and 0 < int(batch.geometry[0].flip.sum()) < 9
    for view, geometry in zip(batch.views, batch.geometry, strict=True):
        seen = torch.nn.functional.adaptive_avg_pool2d(view, (2, 4)) * 255 + 0.5  # pixel centres lie at halves
        expected = centres(geometry, 2, 4) * 64
        torch.testing.assert_close(seen.flatten(2).transpose(1, 2), expected, rtol=0, atol=0.8)


def test_what_two_views_share() -> None:
    first = maps.cut((0.0, 0.1, 0.5, 0.9), (0.0, 0.0, 0.2, 0.2))
    second = maps.cut((0.6, 0.0, 0.2, 0.4), (0.5, 0.5, 1.0, 1.0))
    found = shared(first, second)
    assert found.box[0].tolist() == [0.2, 0.1, 0.5, 0.4] and not found.flip.any()
    assert (found.box[1, 2:] < found.box[1, :2]).all()


def test_views_tell_where_they_were_cut_if_the_objective_asks() -> None:
    samples = Samples(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.arange(8))
    told = build_module(small("pixpro"), True).views(samples).geometry
    assert told is not None and len(told) == 2 and isinstance(told[0], Geometry)
    assert build_module(small("densecl"), True).views(samples).geometry is None
