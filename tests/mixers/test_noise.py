"""Mixtures as views: what DACL's and InputMix's rules make of pixels, and that no target knows of it."""

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.build import build, build_module
from ssl_framework.mixers.base import Context, Rule
from ssl_framework.mixers.noise import Binary, Geometric, InputMix, Linear, Noise
from ssl_framework.mixers.partners import Others, Reversed, Shuffles
from ssl_framework.mixers.rules import Switch
from ssl_framework.models.small_nets import MLP
from ssl_framework.types import Batch, Clock, Samples
from tests.small_runs import config, small

RULES: dict[str, Rule] = {
    "linear": Linear(0.9),
    "geometric": Geometric(0.9),
    "binary": Binary(0.9),
    "inputmix": InputMix(1.0, 0.5),
}


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def applied(rule: Rule, x: Tensor, source: Tensor, number: int = 0) -> tuple[Tensor, Tensor]:
    return rule(x, source, Context(seeded(number), None, None, None))


def pair(count: int) -> Tensor:
    return torch.stack([torch.arange(count), torch.arange(count).flip(0)], dim=1)


@pytest.mark.parametrize("shape", [(7, 1, 5, 8), (6, 3, 8, 8)])
def test_rules_equal_loops(shape: tuple[int, ...]) -> None:
    """With the shares that a rule reports, every pixel is what the formula says."""
    x, source = torch.rand(shape, generator=seeded(1)), pair(shape[0])
    x[0, 0, 0, 0] = x[-1, 0, 0, 0] = 0.0  # 0^l 0^(1 - l) is 0, not NaN
    for name, rule in RULES.items():
        got, owner = applied(rule, x, source)
        torch.testing.assert_close(owner.sum(dim=1), torch.ones(shape[0], *shape[2:]))
        for b in range(shape[0]):
            for c in range(shape[1]):
                for i, j in ((0, 0), (2, 3), (4, 7)):
                    own, other = x[b, c, i, j].item(), x[source[b, 1], c, i, j].item()
                    share = owner[b, 0, i, j].item()
                    expected = share * own + (1 - share) * other
                    if name == "geometric":
                        expected = own**share * other ** (1 - share)
                    assert got[b, c, i, j].item() == pytest.approx(expected, abs=1e-6)
                    assert name != "binary" or share in (0, 1)


def test_shares_follow_their_laws() -> None:
    x, source = torch.rand(20_000, 1, 2, 2, generator=seeded(1)), pair(20_000)
    for rule in (Linear(0.6), Geometric(0.6)):
        share = applied(rule, x, source)[1][:, 0]
        assert (share == share[:, :1, :1]).all() and 0.6 <= share.min() < 0.61 < 0.99 < share.max() <= 1
        assert share.mean().item() == pytest.approx(0.8, abs=0.005)
        assert share[:, 0, 0].var().item() == pytest.approx(0.4**2 / 12, rel=0.03)
    own = applied(Binary(0.6), x, source)[1][:, 0]
    assert own.mean().item() == pytest.approx(0.8, abs=0.005)
    assert own.mean(dim=(1, 2)).var().item() > 0.8 * 0.2 / 4 + 0.4**2 / 24  # one probability for all pixels of an image


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_inputmix_has_dirichlet_shares_above_the_least(alpha: float) -> None:
    x, own = torch.rand(20_000, 1, 1, 1, generator=seeded(1)), torch.arange(20_000)
    source = torch.stack([own, own.roll(1), own.roll(2)], dim=1)
    got, owner = applied(InputMix(alpha, 0.4), x, source)
    share = owner[:, :, 0, 0]
    torch.testing.assert_close(got[:, 0, 0, 0], (share * x[source][:, :, 0, 0, 0]).sum(dim=1))
    assert share[:, 0].min() >= 0.4 - 1e-6
    variance = (1 / 3) * (2 / 3) / (3 * alpha + 1)
    for p, mean in enumerate((0.4 + 0.6 / 3, 0.6 / 3, 0.6 / 3)):
        assert share[:, p].mean().item() == pytest.approx(mean, abs=0.005)
        assert share[:, p].var().item() == pytest.approx(0.6**2 * variance, rel=0.05)
    whole = applied(InputMix(1e-30, 0.4), x[:50], source[:50] % 50)
    assert torch.isfinite(whole[0]).all() and whole[1].sum(dim=1).sub(1).abs().max() < 1e-6


def test_every_view_has_noise_of_its_own_and_no_record() -> None:
    x = torch.rand(6, 3, 4, 4, generator=seeded())
    out = Noise(Linear(0.5), Others())(Batch([x, x], torch.arange(6), torch.arange(6)), seeded(3))
    assert out.mix is None and not torch.equal(*out.views) and all((view != x).any() for view in out.views)
    again = Noise(Linear(0.5), Others())(Batch([x, x], torch.arange(6)), seeded(3))
    assert torch.equal(again.views[0], out.views[0]) and torch.equal(again.views[1], out.views[1])
    plain = Noise(Linear(0.5), Reversed())(Batch([x], torch.arange(6)), seeded(3)).views[0]
    low, high = torch.minimum(x, x.flip(0)), torch.maximum(x, x.flip(0))
    assert (plain >= low - 1e-6).all() and (plain <= high + 1e-6).all()


def test_shuffles_are_permutations() -> None:
    got = Shuffles(3)(Batch([torch.empty(5, 1)], torch.arange(5)), Context(seeded(), None, None, None))
    assert got.shape == (5, 3) and all(sorted(column.tolist()) == list(range(5)) for column in got.T)
    assert not torch.equal(got[:, 0], got[:, 1])


def test_views_mix_pixels_before_they_are_normalised() -> None:
    """A geometric mean lies between both pixels, in single precision whatever the step's; no noise leaves them."""
    cfg = config("method=dacl", "data=digits")
    views = build(cfg.views)
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=seeded())
    samples = Samples(images, torch.arange(6))
    clean = (images / 255 - views.mean) / views.std
    views.noise = Noise(Geometric(0.5), Reversed())
    got = [view * views.std + views.mean for view in views(samples, seeded(1)).views]
    x, other = images / 255, images.flip(0) / 255
    for view in got:
        inside = (view >= torch.minimum(x, other) - 1e-5) & (view <= torch.maximum(x, other) + 1e-5)
        assert inside.all() and (view - x).abs().max() > 0.05
    views.noise = Noise(InputMix(1.0, 0.5), Shuffles(2))
    expected = views(samples, seeded(1)).views[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(views(samples, seeded(1)).views[0], expected)
    views.noise = None
    for view in views(samples, seeded(1)).views:
        torch.testing.assert_close(view, clean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("views", ["dacl", "dacl_plus", "inputmix"])
def test_a_mixer_may_come_after_the_noise(views: str) -> None:
    """To losses the noisy views are clean ones; both of SimCLR's may have it, and i-Mix mixes them on."""
    module = build_module(small("imix", f"views={views}"), has_labels=True)
    samples = Samples(torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6))
    batch = module.views(samples)
    assert batch.mix is None and len(batch.views) == 2 and not torch.equal(*batch.views)
    assert module.mixer is not None
    out = module.mixer(batch, Clock(0, 0, 2), module.student, seeded())
    mix = out.mix[0] if out.mix is not None else None
    assert mix is not None and torch.equal(mix.clean, batch.views[0])
    own, other = (mix.share[:, p, None, None, None] * batch.views[0][mix.source[:, p]] for p in (0, 1))
    torch.testing.assert_close(out.views[0], own + other)


def test_dacl_plus_takes_each_kind_of_noise() -> None:
    rule = build(config("method=dacl", "views=dacl_plus").views).noise.rule
    assert isinstance(rule, Switch) and [type(each) for each in rule.rules] == [Linear, Geometric, Binary]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Linear(1.0), r"least is 1\.0: it must be at least 0 and below 1"),
        (lambda: Geometric(-0.1), r"least is -0\.1"),
        (lambda: Binary(2.0), r"least is 2\.0"),
        (lambda: InputMix(1.0, 1.0), r"least is 1\.0"),
        (lambda: InputMix(0.0, 0.5), r"alpha is 0\.0: it must be above 0"),
        (lambda: Shuffles(0), "num is 0: it must be at least 1"),
        (
            lambda: applied(Linear(0.9), torch.rand(4, 1, 2, 2), torch.zeros(4, 3, dtype=torch.long)),
            "gives each sample 2 partners",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


def test_dacl_learns_from_vectors() -> None:
    """With the MLP nothing depends on where in the image a number stands."""
    cfg = config("method=dacl", "data=digits", "backbone=mlp")
    module = build_module(cfg, has_labels=True)
    net = module.student.backbone.net
    assert isinstance(net, MLP) and module.student.backbone.dim == 512
    module.eval()
    x, order = torch.rand(5, 1, 8, 8), torch.randperm(64)
    before = module.student.embed(x)
    linear = net.features[1]
    assert isinstance(linear, nn.Linear) and linear.in_features == 64
    hidden = net.features[2](x.flatten(1) @ linear.weight.T).relu()
    expected = net.features[5](hidden @ net.features[4].weight.T).relu()
    torch.testing.assert_close(before, expected)
    with torch.no_grad():
        linear.weight.copy_(linear.weight[:, order])
    torch.testing.assert_close(module.student.embed(x.flatten(1)[:, order].view(5, 1, 8, 8)), before)
