"""Views of series: closed cases of every operation, its distribution, the seed, and what is refused."""

import pytest
import torch
from torch import Tensor

from ssl_framework.types import Batch, Samples
from ssl_framework.views.series import HEIGHT, WIDTH, SeriesViews, drawing, stretched

T = 64


def views(**changed: object) -> SeriesViews:
    plain = {"count": 2, "length": T, "channels": 2, "mean": [1.0, 0.0], "std": [2.0, 1.0]}
    return SeriesViews(**{**plain, **changed})  # type: ignore[arg-type]


def series(n: int = 5) -> Tensor:
    return torch.randn(n, 2, T, generator=torch.Generator().manual_seed(0))


def made(maker: SeriesViews, x: Tensor, seed: int = 0) -> Batch:
    return maker(Samples(x, torch.arange(len(x)), torch.arange(len(x))), torch.Generator().manual_seed(seed))


def test_without_operations_views_are_the_normalised_series() -> None:
    x = series()
    expected = (x - torch.tensor([1.0, 0.0])[:, None]) / torch.tensor([2.0, 1.0])[:, None]
    batch = made(views(), x)
    assert all(torch.equal(view, expected) for view in batch.views) and len(batch.views) == 2
    assert torch.equal(views().clean(x), expected) and torch.equal(views().raw(x), x.flatten(1))
    assert batch.index.tolist() == batch.label.tolist() == [0, 1, 2, 3, 4]  # type: ignore[union-attr]


def test_a_stretched_ramp_is_the_ramp_between_the_ends_of_its_part() -> None:
    ramp = ((torch.arange(T) + 0.5) / T).expand(2, 1, T)  # the value is the place
    got = stretched(ramp, torch.tensor([0.25, 0.0]), torch.tensor([0.5, 1.0]))
    place = (torch.arange(T) + 0.5) / T
    torch.testing.assert_close(got[0, 0], 0.25 + 0.5 * place)
    torch.testing.assert_close(got[1, 0], place)  # the whole is left as it is


def test_crops_have_the_shares_and_places_that_are_said() -> None:
    ramp = ((torch.arange(T) + 0.5) / T).expand(4000, 2, T)
    (view,) = made(views(count=1, mean=[0.0, 0.0], std=[1.0, 1.0], crop=[0.4, 0.8]), ramp).views
    share = (view[:, 0, 40] - view[:, 0, 20]) * T / 20  # [B]: of the part, away from its ends
    assert share.min() >= 0.4 - 1e-4 and share.max() <= 0.8 + 1e-4 and abs(share.mean() - 0.6) < 0.01
    start = view[:, 0, 20] - share * 20.5 / T
    assert start.min() > -1e-4 and (start + share).max() < 1 + 1e-4
    assert abs((start / (1 - share)).mean() - 0.5) < 0.02  # anywhere alike
    assert torch.equal(view[:, 0], view[:, 1])  # channels are cut together


def test_scaling_is_one_factor_a_channel() -> None:
    ones = torch.ones(4000, 2, T)
    (view,) = made(views(count=1, mean=[0.0, 0.0], std=[1.0, 1.0], scaling=0.3), ones).views
    assert torch.equal(view, view[:, :, :1].expand_as(view))
    factor = view[:, :, 0]
    assert abs(factor.mean() - 1) < 0.02 and abs(factor.std() - 0.3) < 0.01
    assert not torch.equal(factor[:, 0], factor[:, 1])


def test_jitter_is_independent_noise_and_mask_hides_points_of_all_channels() -> None:
    zeros = torch.zeros(200, 2, T)
    (view,) = made(views(count=1, mean=[0.0, 0.0], std=[1.0, 1.0], jitter=0.5), zeros).views
    assert abs(view.std() - 0.5) < 0.01 and abs(torch.corrcoef(view.transpose(0, 1).flatten(1))[0, 1]) < 0.05
    (view,) = made(views(count=1, mean=[0.0, 0.0], std=[1.0, 1.0], mask=0.25), zeros + 1).views
    hidden = view == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1]) and abs(hidden.float().mean() - 0.25) < 0.02
    assert (view[~hidden] == 1).all()


def test_the_seed_decides_and_views_differ_between_samples() -> None:
    maker = views(crop=[0.4, 1.0], scaling=0.2, jitter=0.1, mask=0.1)
    same = series(1).expand(5, 2, T)
    first, again, other = made(maker, same, 3), made(maker, same, 3), made(maker, same, 4)
    assert all(torch.equal(x, y) for x, y in zip(first.views, again.views, strict=True))
    assert not torch.equal(first.views[0], other.views[0]) and not torch.equal(first.views[0], first.views[1])
    assert not torch.equal(first.views[0][0], first.views[0][1])


def test_a_flat_series_is_drawn_as_a_line_across_the_middle() -> None:
    picture = drawing(torch.zeros(1, T))
    assert picture.shape == (1, HEIGHT, WIDTH) and picture.sum() == HEIGHT * WIDTH - WIDTH
    assert (picture[0].min(1).values == 0).nonzero().flatten().tolist() == [HEIGHT // 2]
    ends = drawing(torch.tensor([[100.0] * T, [-100.0] * T]))  # beyond the border
    assert (ends[0].min(1).values == 0).nonzero().flatten().tolist() == [0, HEIGHT - 1]


def test_series_views_say_what_they_are() -> None:
    maker = views()
    assert maker.modality == ("series", "series") and maker.channels is None and maker.raw_name == "raw_input"
    assert maker.example(0) == (2, T)
    assert maker.describe() == "all 64 points of 2 channel(s); minus mean [1, 0], divided by std [2, 1]"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"crop": [0.0, 1.0]}, r"crop is \[0\.0, 1\.0\]: it must be a list of 2 numbers"),
        ({"crop": [0.8, 0.4]}, r"views\.crop is"),
        ({"mask": 1.5}, r"mask is 1\.5: it must be between 0 and 1"),
        ({"jitter": -1}, "jitter is -1: it must be at least 0"),
        ({"mean": [0.0] * 3}, r"views\.mean is .*: give one number per channel"),
        ({"std": [1.0, 0.0]}, r"std is \[1\.0, 0\.0\]: it must be a list of one or more numbers"),
        ({"count": 0}, "count is 0: it must be between 1 and 1024"),
    ],
)
def test_numbers_out_of_range_are_refused(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        views(**changed)


def test_samples_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of 2 channel\(s\) and 64 points, but the data have samples of 2 x 32"):
        made(views(), series()[:, :, :32])
