"""What is peculiar to each mask, against the formula written as loops; what all rules share is in ``test_mixers``."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_framework.build import build
from ssl_framework.mixers.masks import BLOCKS, FMix, GridMix, PatchMix, SmoothMix, TokenMix, low_frequency
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.mixers.partners import Following, Others
from ssl_framework.mixers.rules import Share
from ssl_framework.mixers.targets import targets
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from tests.mixers.test_mixers import HALF_WAY, RULES, batch_of, context, mixed, mixing, seeded
from tests.small_runs import config
from tests.test_device import Reads


def pairs(count: int) -> Tensor:
    return torch.stack([torch.arange(count), torch.arange(count).roll(1)], dim=1)


def partner_shown(rule: object, shape: tuple[int, ...], number: int) -> Tensor:
    """[B, h, w]: how much of each pixel is the partner's."""
    return rule(torch.zeros(shape), pairs(shape[0]), context(number))[1][:, 1]  # type: ignore[operator]


def drawn(alpha: float, count: int, number: int) -> tuple[Tensor, torch.Generator]:
    """The shares that a rule draws first, and the generator as it then is."""
    given = context(number)
    share = Share(alpha, True, False)(torch.empty(count, 1), given)
    assert given.generator is not None
    return share, given.generator


def test_smoothmix_is_a_gaussian_bump_with_a_uniform_sigma_and_centre() -> None:
    shown = partner_shown(SmoothMix(0.25, 0.5, True), (2000, 1, 16, 24), 0).double()
    draws = torch.rand(3, 2000, generator=seeded()).double()
    for b in range(20):
        sigma = (0.25 + 0.25 * draws[0, b].item()) * 16
        for i, j in ((0, 0), (3, 20), (15, 7)):
            squared = (i + 0.5 - 16 * draws[1, b].item()) ** 2 + (j + 0.5 - 24 * draws[2, b].item()) ** 2
            assert shown[b, i, j].item() == pytest.approx(math.exp(-squared / (2 * sigma**2)), abs=1e-5)
    # the log of the bump along an axis is a parabola, whose second difference is -1 / sigma^2
    nearest = shown.flatten(1).argmax(dim=1)  # [B]
    row, column = nearest // 24, (nearest % 24).clamp(1, 22)
    along = torch.stack([shown[torch.arange(2000), row, column + step].log() for step in (-1, 0, 1)])  # [3, B]
    sigma = (-along.diff(n=2, dim=0)[0]).rsqrt() / 16
    assert sigma.min() >= 0.249 and sigma.max() <= 0.501
    quartiles = sigma.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    assert quartiles == pytest.approx([0.3125, 0.375, 0.4375], abs=0.012)
    assert row.double().mean().item() == pytest.approx(7.5, abs=0.4)
    assert (nearest % 24).double().mean().item() == pytest.approx(11.5, abs=0.6)


def test_gridmix_is_a_grid_of_holes_in_a_region() -> None:
    count, h, w = 40, 24, 32
    shown = partner_shown(GridMix(1.0, [2, 6], [0.5, 1.0], [0.5, 2.0], True), (count, 1, h, w), 5)
    shares, generator = drawn(1.0, count, 5)
    draws = torch.rand(5, count, generator=generator)
    numbers = set()
    for b, share in enumerate(shares.tolist()):
        number, area, aspect, down, across = draws[:, b].tolist()
        holes, area, aspect = 2 + int(number * 5), (0.5 + area / 2) * h * w, 0.5 + aspect * 1.5
        numbers.add(holes)
        width = min(w, round(math.sqrt(area / aspect)))
        height = min(h, round(math.sqrt(area / aspect) * aspect))
        cell = math.ceil(width / holes)
        hole = round(cell * math.sqrt(1 - share))
        top, left = int(down * (h - height + 1)), int(across * (w - width + 1))
        expected = torch.zeros(h, w)
        for i in range(height):
            for j in range(width):
                expected[top + i, left + j] = float(i % cell < hole and j % cell < hole)
        assert torch.equal(shown[b], expected), b
    assert numbers == {2, 3, 4, 5, 6}


def test_gridmix_with_shares_of_zero_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With l = 1 there are no holes; with l = 0 the region is one, which here is the whole image."""
    for value in (0.0, 1.0):
        monkeypatch.setattr(Share, "__call__", lambda self, like, context, value=value: torch.full((5,), value))
        shown = partner_shown(GridMix(1.0, [2, 2], [1.0, 1.0], [1.0, 1.0], True), (5, 1, 12, 12), 0)
        assert (shown == 1 - value).all()


def test_fmix_shows_where_low_frequency_noise_is_low() -> None:
    """The authors' recipe in numpy, on the same noise."""
    count, h, w = 6, 15, 20
    shown = partner_shown(FMix(1.0, 3.0, True), (count, 1, h, w), 2).double().numpy()
    shares, generator = drawn(1.0, count, 2)
    spectrum = torch.randn(count, h, w // 2 + 1, 2, generator=generator).double().numpy()
    for b, share in enumerate(shares.tolist()):
        frequency = np.sqrt(np.fft.fftfreq(h)[:, None] ** 2 + np.fft.rfftfreq(w) ** 2)
        scaled = (spectrum[b, ..., 0] + 1j * spectrum[b, ..., 1]) / np.maximum(frequency, 1 / max(h, w)) ** 3
        noise = np.fft.irfft2(scaled, (h, w)).reshape(-1)
        own = np.zeros(h * w)
        own[noise.argsort()[::-1][: round(share * h * w)]] = 1
        assert np.array_equal(shown[b].reshape(-1), 1 - own)


def test_the_noise_of_fmix_falls_with_the_frequency() -> None:
    noise = low_frequency(4000, 16, 16, 2.0, torch.empty(0), seeded(1))
    power = torch.fft.rfft2(noise).abs().square().mean(dim=0)  # [16, 9]
    for i, j in ((0, 2), (0, 4), (3, 4), (5, 1)):
        assert (power[0, 1] / power[i, j]).item() == pytest.approx((i * i + j * j) ** 2, rel=0.12)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_shares_of_fmix_follow_the_beta_distribution_up_to_half_a_pixel(alpha: float) -> None:
    own = 1 - partner_shown(FMix(alpha, 3.0, True), (4000, 1, 8, 12), 1).mean(dim=(1, 2))
    shares, _ = drawn(alpha, 4000, 1)
    assert (own - shares).abs().max() <= 0.5 / 96 + 1e-6
    assert own.mean().item() == pytest.approx(0.5, abs=0.02)
    assert own.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


@pytest.mark.parametrize("least", [0, 5])
def test_tokenmix_adds_block_after_block_until_there_are_enough(least: int) -> None:
    count, token, down, across = 60, 3, 8, 10
    shown = partner_shown(TokenMix(1.0, token, least, True), (count, 1, down * token, across * token), 4)
    tokens = shown[:, ::token, ::token]
    assert torch.equal(shown, tokens.repeat_interleave(token, dim=1).repeat_interleave(token, dim=2))
    shares, generator = drawn(1.0, count, 4)
    draws = torch.rand(4, count, BLOCKS, generator=generator)
    for b, share in enumerate(shares.tolist()):
        wanted = min(int((1 - share) * down * across) + least, down * across)
        taken: list[tuple[int, int]] = []
        for area, aspect, top, left in draws[:, b].T.tolist():
            area, aspect = 1 + area * max(wanted - 1, 0), math.exp((1 - 2 * aspect) * math.log(0.3))
            height = min(down, max(1, round(math.sqrt(area * aspect))))
            width = min(across, max(1, round(math.sqrt(area / aspect))))
            first = int(top * (down - height + 1)), int(left * (across - width + 1))
            inside = [(first[0] + i, first[1] + j) for i in range(height) for j in range(width)]
            taken += [place for place in inside if place not in taken]
        taken += [(i, j) for i in range(down) for j in range(across) if (i, j) not in taken]
        assert sorted(taken[:wanted]) == [tuple(place) for place in tokens[b].nonzero().tolist()], b


@pytest.mark.parametrize("per_sample", [True, False])
def test_patchmix_takes_as_many_patches_of_every_image_up_to_one(per_sample: bool) -> None:
    x = torch.rand(7, 2, 12, 20, generator=seeded())
    got, mix = mixed(mixing(PatchMix(4, per_sample), Following(3)), x, 1)
    owner = mix.owner[:, :, ::4, ::4]  # [B, P, 3, 5]
    assert torch.equal(mix.owner, owner.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))
    assert torch.equal((owner > 0).sum(dim=(2, 3)), torch.tensor([[4, 4, 4, 3]] * 7))
    torch.testing.assert_close(mix.share, torch.tensor([[4, 4, 4, 3]] * 7) / 15)
    assert all(torch.equal(each, owner[0]) for each in owner) != per_sample
    for b in range(7):
        for i in range(3):
            for j in range(5):
                (p,) = owner[b, :, i, j].nonzero().flatten().tolist()
                rows, columns = slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4)
                assert torch.equal(got[b, :, rows, columns], x[(b + p) % 7, :, rows, columns])
    seen = torch.stack([mixed(mixing(PatchMix(4, per_sample), Following(3)), x, n)[1].owner[0] for n in range(300)])
    torch.testing.assert_close(seen.mean(dim=0)[:3], torch.full((3, 12, 20), 4 / 15), rtol=0, atol=0.1)


def test_an_image_that_is_a_source_twice_counts_twice() -> None:
    _, mix = mixed(mixing(PatchMix(2, False), Following(2)), torch.rand(2, 1, 6, 6), 0)
    assert mix.source.tolist() == [[0, 1, 0], [1, 0, 1]]
    torch.testing.assert_close(targets(mix), torch.tensor([[2, 1], [1, 2]]) / 3)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda: SmoothMix(0.0, 0.5, True), "smallest is 0.0: it must be above 0"),
        (lambda: SmoothMix(0.5, 0.25, True), "it takes 0 < smallest <= largest"),
        (
            lambda: GridMix(1.0, [0, 6], [0.5, 1], [1, 1], True),
            "holes is [0, 6]: it must be a list of 2 whole numbers",
        ),
        (lambda: GridMix(1.0, [2, 6], [0.5, 1.5], [1, 1], True), "mixer.rule.area is [0.5, 1.5]: it takes"),
        (lambda: GridMix(1.0, [2, 6], [0.5, 1], [2, 1], True), "mixer.rule.aspect is [2, 1]"),
        (lambda: FMix(1.0, -1.0, True), "decay is -1.0: it must be at least 0"),
        (lambda: FMix(0.0, 3.0, True), "alpha is 0.0: it must be above 0"),
        (lambda: TokenMix(1.0, 0, 0, True), "token is 0: it must be at least 1"),
        (lambda: TokenMix(1.0, 4, -1, True), "least is -1: it must be at least 0"),
        (lambda: PatchMix(0, True), "patch is 0: it must be at least 1"),
        (lambda: partner_shown(TokenMix(1.0, 5, 0, True), (2, 1, 10, 12), 0), "mixer.rule.token is 5, but a view has"),
        (
            lambda: partner_shown(PatchMix(5, True), (2, 1, 12, 10), 0),
            "mixer.rule.patch is 5, but a view has 12 x 10 pixels: choose a number that divides both",
        ),
        (
            lambda: mixed(mixing(PatchMix(6, True), Following(4)), torch.rand(8, 1, 12, 12), 0),
            "mixer.partners gives 4 partners, but mixer.rule.patch=6 divides an image into 4 patches only",
        ),
        (
            lambda: mixed(mixing(RULES["fmix"], Following(2)), torch.rand(4, 3, 8, 8), 0),
            "mixer.partners gives each sample 2 partners, but mixer.rule mixes two images",
        ),
    ],
)
def test_what_does_not_fit_is_refused(rule: object, words: str) -> None:
    with pytest.raises(ValueError) as error:
        rule()  # type: ignore[operator]
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", RULES)
def test_no_rule_waits_for_the_device(name: str) -> None:
    x = torch.rand(6, 3, 16, 16)
    with Reads() as reads:
        mixing(RULES[name])(batch_of(x), HALF_WAY, None)
    assert reads.seen == []


@pytest.mark.parametrize("name", RULES)
def test_mixtures_keep_their_precision_in_a_run_with_bf16(name: str) -> None:
    x = torch.rand(6, 3, 16, 16, generator=seeded())
    alone = mixed(mixing(RULES[name]), x, 3)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = mixed(mixing(RULES[name]), x, 3)[0]
    assert found.dtype == torch.float32 and torch.equal(found, alone)


@pytest.mark.parametrize("name", ["smoothmix", "gridmix", "fmix", "tokenmix", "patchmix"])
def test_the_shipped_config_mixes(name: str) -> None:
    mixer = build(config(f"mixer={name}").mixer)
    assert isinstance(mixer, Mixing)
    x = torch.rand(6, 3, 32, 32, generator=seeded())
    out = mixer(batch_of(x), HALF_WAY, Encoder(Backbone("ssl_tiny", None, 32, 3), {}), seeded(1))
    assert out.mix is not None and out.mix[0] is not None and out.mix[1] is None
    assert not torch.equal(out.views[0], x) and 0.05 < out.mix[0].share[:, 0].min() < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", RULES)
def test_a_generator_of_the_cpu_draws_the_same_on_a_gpu(name: str) -> None:
    x = torch.rand(6, 3, 16, 16, generator=seeded())
    one, other = (mixing(RULES[name], Others())(batch_of(v), HALF_WAY, None, seeded(3)) for v in (x, x.cuda()))
    torch.testing.assert_close(other.views[0].cpu(), one.views[0], rtol=1e-4, atol=1e-4)
