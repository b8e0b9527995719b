"""Noise made of the pixels of other samples."""

import pytest
import torch

from ssl_framework.types import Batch
from ssl_framework.views.marginals import Marginals, permuted


def test_every_place_keeps_its_pixels_and_no_picture_is_whole() -> None:
    x = torch.arange(8 * 2 * 3 * 3).view(8, 2, 3, 3).float()
    found = permuted(x, torch.Generator().manual_seed(0))
    assert torch.equal(found.sort(dim=0).values, x)  # of each place and channel
    source = found[:, 0].view(8, 9).div(18, rounding_mode="floor")  # the sample that each pixel is of
    assert torch.equal(found[:, 1], found[:, 0] + 9)  # the channels of a pixel stay together
    assert all(row.unique().numel() > 2 for row in source)
    assert torch.equal(permuted(x, torch.Generator().manual_seed(0)), found)


def test_only_the_named_view_is_replaced() -> None:
    views = [torch.rand(4, 1, 2, 2), torch.rand(4, 1, 2, 2)]
    batch = Marginals(1)(Batch(views, torch.arange(4)), torch.Generator().manual_seed(0))
    assert torch.equal(batch.views[0], views[0]) and not torch.equal(batch.views[1], views[1])
    with pytest.raises(ValueError, match=r"views\.noise\.view is 2, but the views are numbered 0 to 1: set views"):
        Marginals(2)(Batch(views, torch.arange(4)), None)
