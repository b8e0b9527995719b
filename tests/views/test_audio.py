"""Log-mel views: values of tones, what each change does, and that the seed decides."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.types import Samples
from ssl_framework.views.audio import FLOOR, AudioViews, cut_out, mel_filters, shifted

RATE, LENGTH = 8000, 4096


def views(**changed: object) -> AudioViews:
    plain = {"count": 2, "rate": RATE, "length": LENGTH, "mels": 16, "frames": 16, "mean": [0.0], "std": [1.0]}
    return AudioViews(**{**plain, **changed})  # type: ignore[arg-type]


def tone(frequency: float, amplitude: float = 0.5) -> Tensor:
    """[1, T]"""
    return amplitude * torch.sin(2 * math.pi * frequency * torch.arange(LENGTH) / RATE)[None]


def test_a_tone_is_loud_in_the_band_around_it_whenever_it_sounds() -> None:
    maker, filters = views(), mel_filters(RATE, 512, 16)
    bands = (filters @ torch.fft.rfftfreq(512, 1 / RATE)).tolist()  # middles, Hz
    for band in (3, 8, 14):
        x = tone(bands[band])
        picture = maker.clean(x)
        assert picture.shape == (1, 1, 16, 16) and (picture[0, 0, :, 2:14].argmax(0) == band).all()
        later = maker.clean(shifted(x, torch.tensor([1024])))
        assert (later[0, 0, :, 6:14].argmax(0) == band).all() and later[0, 0, band, 0] < picture[0, 0, band, 5] - 5


def test_values_are_those_of_a_loop() -> None:
    """One frame, bin by bin: power of the windowed part, mean over a triangle, logarithm."""
    maker = views(mean=[-3.0], std=[2.0])
    x = torch.randn(1, LENGTH, generator=torch.Generator().manual_seed(0))
    frame, points = 5, len(maker.window)
    part = torch.nn.functional.pad(x[0], (points // 2, points // 2))[frame * 256 : frame * 256 + points].double()
    window = torch.tensor([0.5 - 0.5 * math.cos(2 * math.pi * n / points) for n in range(points)], dtype=torch.float64)
    power = torch.fft.rfft(part * window).abs().square() / window.square().sum()
    for band in (0, 7, 15):
        mean = sum(weight * p for weight, p in zip(maker.filters[band].tolist(), power.tolist(), strict=True))
        assert maker.clean(x)[0, 0, band, frame].item() == pytest.approx((math.log(mean + FLOOR) + 3) / 2, abs=1e-4)


def test_filters_are_means_over_bands_of_equal_width_in_mels() -> None:
    filters = mel_filters(RATE, 512, 24)
    assert filters.shape == (24, 257) and torch.allclose(filters.sum(1), torch.ones(24)) and (filters >= 0).all()
    middles = filters.double() @ torch.fft.rfftfreq(512, 1 / RATE, dtype=torch.float64)
    mels = 2595 * torch.log10(1 + middles / 700)
    assert (mels.diff() - mels.diff().mean()).abs().max() < 25  # of 82.6; a frequency is 15.6 Hz
    assert mel_filters(RATE, 32, 64).sum(1).allclose(torch.ones(64))  # bands narrower than a frequency


def test_silence_is_finite_and_whole_numbers_are_shares_of_the_largest() -> None:
    maker = views(shift=0.2, gain=6.0, noise=[0.0, 10.0], crop_time=[0.5, 1.0], hide_time=0.3)
    (one, _) = maker.of(torch.zeros(2, LENGTH, dtype=torch.int16))
    assert torch.allclose(one[one != 0], torch.tensor(math.log(FLOOR)))
    whole = (tone(500.0) * 32768).round().to(torch.int16)
    assert torch.allclose(views().clean(whole), views().clean(whole.float() / 32768), atol=1e-5)


def test_loudness_adds_one_number_to_all_that_is_above_the_floor() -> None:
    maker = views(gain=6.0, count=1)
    x = torch.randn(64, LENGTH, generator=torch.Generator().manual_seed(0))
    added = (maker.of(x, torch.Generator().manual_seed(1))[0] - maker.clean(x)).flatten(1)  # [64, 256]
    assert (added - added.mean(1, keepdim=True)).abs().max() < 2e-3
    assert 0.9 < added.abs().max() / (6 / 10 * math.log(10)) <= 1.001  # 6 dB of amplitude are 12 of power


def test_noise_is_as_far_below_the_sound_as_said() -> None:
    maker, x = views(noise=[10.0, 10.0], count=1), tone(1000.0).repeat(32, 1)
    noisy = maker.of(x, torch.Generator().manual_seed(0))[0].exp() - FLOOR  # [32, 1, 16, 16]
    far = noisy[:, 0, 0, 2:14].mean()  # of a band without the tone: white noise has its power at every frequency
    assert far.item() == pytest.approx(0.5**2 / 2 / 10, rel=0.1)


def test_shifts_bring_silence_in() -> None:
    x = torch.arange(1.0, 7.0).repeat(3, 1)
    found = shifted(x, torch.tensor([0, 2, -1]))
    assert found.tolist() == [[1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 3, 4], [2, 3, 4, 5, 6, 0]]


def test_a_part_of_a_picture_is_stretched_to_the_whole() -> None:
    x = torch.arange(8.0)[None, None, :, None].expand(1, 2, 8, 4)  # rows 0 to 7
    quarter = torch.tensor([0.25])
    zero, one = torch.zeros(1), torch.ones(1)
    assert torch.allclose(cut_out(x, zero, one, zero, one), x, atol=1e-5)
    half = cut_out(x, quarter, 2 * quarter, zero, one)[0, 0, :, 0]  # rows 2 to 5
    assert torch.allclose(half, torch.linspace(1.75, 5.25, 8), atol=1e-5)
    across = cut_out(x.transpose(2, 3), zero, one, quarter, 2 * quarter)[0, 0, 0]
    assert torch.allclose(across, torch.linspace(1.75, 5.25, 8), atol=1e-5)


def test_hidden_bands_and_frames_are_one_piece_each_of_at_most_the_share() -> None:
    maker = views(hide_time=0.5, hide_mel=0.25, count=1, mean=[-100.0])  # so that nothing else is 0
    x = torch.randn(200, LENGTH, generator=torch.Generator().manual_seed(0))
    hidden = maker.of(x, torch.Generator().manual_seed(1))[0][:, 0] == 0  # [200, 16, 16]
    rows, columns = hidden.all(2), hidden.all(1)  # [200, 16] each
    assert rows.sum(1).max() == 4 and columns.sum(1).max() == 8 and rows.sum(1).min() == columns.sum(1).min() == 0
    assert torch.equal(hidden, rows[:, :, None] | columns[:, None, :])
    for piece in (rows, columns):
        assert (piece.int().diff(dim=1).clamp(min=0).sum(1) + piece[:, 0] <= 1).all()


def test_the_seed_decides_and_every_sample_and_view_has_its_own() -> None:
    maker = views(shift=0.2, gain=6.0, noise=[5.0, 25.0], crop_time=[0.6, 1.0], crop_mel=[0.6, 1.0], hide_mel=0.2)
    x = tone(700.0).repeat(3, 1)
    one, again = (maker(Samples(x, torch.arange(3)), torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.views, again.views, strict=True))
    assert len(torch.cat(one.views).flatten(1).unique(dim=0)) == 6 and one.views[0].shape == (3, 1, 16, 16)
    assert maker.modality == ("sound", "sound") and maker.example(1) == (1, 16, 16)
    picture = maker.picture(one.views[0][0])
    assert picture.shape == (1, 16, 16) and picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(maker.raw(x), maker.clean(x).flatten(1))


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="views take sounds of 4096 points, but the data have samples of 3 x 32 x 32"):
        views().clean(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"views.frames is 16, but a sound has only 8 points"):
        views(length=8)
    with pytest.raises(ValueError, match=r"views.crop_mel is \[1.0, 0.5\]: give two numbers, lo <= hi"):
        views(crop_mel=[1.0, 0.5])
    with pytest.raises(ValueError, match=r"hide_mel"):
        views(hide_mel=1.5)
