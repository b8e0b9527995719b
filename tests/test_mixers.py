"""What a mixer shows is what it says: shares, partners, schedule; for every rule, size and number of channels."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build, build_module
from ssl_framework.main import CONFIGS
from ssl_framework.mixers.mixing import Mixing, Rule
from ssl_framework.mixers.partners import Others, Reversed, Shuffle
from ssl_framework.mixers.rules import CutMix, Mixup, ResizeMix, Share, Switch, shrink_weights
from ssl_framework.module import clean_views
from ssl_framework.types import Batch, Clock, Samples
from tests.runs import SMALL, config, small

RULES: dict[str, Rule] = {
    "mixup": Mixup(1.0, True, False),
    "mixup_batch": Mixup(1.0, False, True),
    "cutmix": CutMix(1.0, True, False),
    "cutmix_batch": CutMix(1.0, False, True),
    "resizemix": ResizeMix(0.1, 0.8, True),
    "resizemix_batch": ResizeMix(0.1, 0.8, False),
    "switch": Switch([Mixup(1.0, True, False), CutMix(1.0, True, False), ResizeMix(0.1, 0.8, True)], [1, 2, 1]),
}
MIXERS = sorted(path.stem for path in (CONFIGS / "mixer").glob("*.yaml") if path.stem != "none")
HALF_WAY = Clock(step=50, epoch=5, total_steps=100)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def mixing(rule: Rule, partners: object = None, **change: object) -> Mixing:
    settings = {"views": [0], "probability": 1.0, "start": 0.0, "stop": 1.0, **change}
    return Mixing(rule, partners or Others(), **settings)  # type: ignore[arg-type]


def batch_of(x: Tensor, num_views: int = 2) -> Batch:
    return Batch([x + v for v in range(num_views)], torch.arange(len(x)))


@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (7, 1, 20, 28), (2, 5, 9, 9)])
@pytest.mark.parametrize("name", RULES)
def test_the_visible_share_is_the_label_share(name: str, shape: tuple[int, ...]) -> None:
    """Every image is a constant, its number: what is seen of whom can be counted, and no rule makes a NaN of it."""
    number = torch.arange(float(shape[0]))
    x = number[:, None, None, None].expand(shape).contiguous()
    before = x.clone()
    mixed, mix = mixing(RULES[name]).mixed(x, seeded(1))
    seen = (mixed - number[mix.partner][:, None, None, None]) / (number - number[mix.partner])[:, None, None, None]
    torch.testing.assert_close(seen, mix.own.expand(shape), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.mean(dim=(1, 2, 3)), mix.share, rtol=1e-4, atol=1e-4)
    assert mix.share.min() >= 0 and mix.share.max() <= 1 and torch.equal(x, before) and mix.clean is x


@pytest.mark.parametrize("name", RULES)
def test_a_sample_that_is_its_own_partner_is_left_as_it_is(name: str) -> None:
    x = torch.rand(5, 3, 12, 12, generator=seeded())
    mixed, mix = mixing(RULES[name], Reversed()).mixed(x, seeded(2))
    assert mix.partner.tolist() == [4, 3, 2, 1, 0] and mix.share[2] == 1 and torch.equal(mixed[2], x[2])
    assert not torch.equal(mixed[0], x[0])


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_shares_of_zero_and_one_are_the_identity(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.rand(4, 3, 10, 10), torch.rand(4, 3, 10, 10)
    for value, expected in ((1.0, x), (0.0, y)):
        monkeypatch.setattr(Share, "__call__", lambda self, like, generator, value=value: torch.full((4,), value))
        monkeypatch.setattr("ssl_framework.mixers.rules.uniform", lambda shape, *_: torch.full(shape, 0.5))
        mixed, own = RULES[name](x, y, None)
        assert torch.equal(mixed, expected) and (own == value).all()


def test_shares_follow_the_beta_distribution() -> None:
    like = torch.empty(200_000, 1, 1, 1)
    for alpha in (0.2, 1.0, 2.0):
        share = Share(alpha, True, False)(like, seeded())
        assert share.mean().item() == pytest.approx(0.5, abs=0.005)
        assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.02)
        dominant = Share(alpha, True, True)(like, seeded())
        torch.testing.assert_close(dominant, torch.maximum(share, 1 - share))
    assert len(Share(1.0, False, False)(like, seeded()).unique()) == 1


def test_boxes_of_cutmix_are_whole_boxes_of_the_drawn_size_where_they_fit() -> None:
    _, own = CutMix(1.0, True, False)(torch.zeros(300, 1, 40, 24), torch.ones(300, 1, 40, 24), seeded(3))
    drawn = Share(1.0, True, False)(torch.empty(300, 1), seeded(3))
    fits = 0
    for mask, share in zip(own[:, 0] == 0, drawn, strict=True):
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert mask.sum() == rows.sum() * columns.sum()  # a full rectangle
        height, width = 40 * (1 - share.item()) ** 0.5, 24 * (1 - share.item()) ** 0.5
        assert rows.sum() <= height + 1 and columns.sum() <= width + 1
        if not (rows[0] or rows[-1] or columns[0] or columns[-1]):  # not cut by the border
            assert abs(rows.sum() - height) <= 1 and abs(columns.sum() - width) <= 1
            fits += 1
    assert fits > 30


def test_resizemix_shows_the_whole_partner_smaller() -> None:
    """The pasted part equals the partner averaged over blocks, where the sizes divide."""
    x, other = torch.zeros(1, 2, 16, 16), torch.rand(1, 2, 16, 16, generator=seeded())
    mixed, own = ResizeMix(0.5, 0.5, True)(x, other, seeded(4))
    rows, columns = (own[0, 0] == 0).any(dim=1).nonzero(), (own[0, 0] == 0).any(dim=0).nonzero()
    assert len(rows) == len(columns) == 8 and own.mean() == 0.75
    part = mixed[..., rows[0, 0] : rows[0, 0] + 8, columns[0, 0] : columns[0, 0] + 8]
    expected = torch.nn.functional.interpolate(other, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)
    weights = shrink_weights(torch.tensor([3.0]), torch.tensor([5.0]), 16)
    assert weights[0, :3].abs().sum() == 0 and weights[0, 8:].abs().sum() == 0
    torch.testing.assert_close(weights[0, 3:8].sum(dim=1), torch.ones(5))


def test_a_switch_takes_each_rule_as_often_as_its_weight_says() -> None:
    class Constant:
        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self, x: Tensor, other: Tensor, generator: object) -> tuple[Tensor, Tensor]:
            return torch.full_like(x, self.value), torch.full_like(x[:, :1], self.value)

    x = torch.zeros(4000, 1, 1, 1)
    mixed, own = Switch([Constant(0.25), Constant(0.5), Constant(0.75)], [1, 2, 1])(x, x, seeded())
    counts = Counter(mixed.flatten().tolist())
    assert (
        torch.equal(mixed, own)
        and counts[0.5] == pytest.approx(2000, abs=120)
        and counts[0.25] == pytest.approx(1000, abs=100)
    )


def test_partners() -> None:
    device = torch.device("cpu")
    for count in (1, 2, 3, 8):
        for rule in (Shuffle(), Others(), Reversed()):
            assert sorted(rule(count, device, seeded()).tolist()) == list(range(count))
    seen = Counter()
    for number in range(3000):
        partner = Others()(4, device, seeded(number))
        assert (partner != torch.arange(4)).all()
        seen[int(partner[0])] += 1
    assert all(seen[p] == pytest.approx(1000, abs=100) for p in (1, 2, 3))
    first = Counter(int(Shuffle()(4, device, seeded(n))[0]) for n in range(4000))
    assert all(first[p] == pytest.approx(1000, abs=110) for p in range(4))


def test_schedule_probability_and_views() -> None:
    x = torch.rand(400, 3, 8, 8, generator=seeded())
    early_stopped = mixing(RULES["mixup"], start=0.2, stop=0.5)
    for step, mixes in ((19, False), (20, True), (49, True), (50, False)):
        assert (early_stopped(batch_of(x), HALF_WAY._replace(step=step)).mix is not None) == mixes
    out = mixing(RULES["mixup"], views=[1], probability=0.25)(batch_of(x), HALF_WAY, seeded(5))
    assert out.mix is not None and out.mix[0] is None and out.mix[1] is not None
    assert torch.equal(out.views[0], x) and torch.equal(clean_views(out)[1], x + 1)
    changed = (out.views[1] != x + 1).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert torch.equal(out.mix[1].share < 1, changed)


@pytest.mark.parametrize("name", RULES)
def test_the_generator_decides(name: str) -> None:
    x = torch.rand(6, 3, 8, 8, generator=seeded())
    first, again, other = (mixing(RULES[name], Shuffle()).mixed(x, seeded(n)) for n in (7, 7, 8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1].partner, again[1].partner)
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("method", ["simclr", "dcl", "mocov2", "mochi", "byol"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_composes_with_the_methods_that_read_it(mixer: str, method: str) -> None:
    cfg = small(method, f"mixer={mixer}")
    assert build_module(cfg, has_labels=True).mixer is not None if mixer == MIXERS[0] else build(cfg.mixer) is not None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method=mv_dhel", "mixer=cutmix"), "MultiView does not read what CutMix produces: set mixer=none"),
        (("method=mocov2", "mixer=mixup", "mixer.views=[2]"), "mixer.views is [2], but the views are numbered 0 to 1"),
        (("method=mocov2", "mixer=mixup", "mixer.views=[1]"), "mixer.views is [1], but the student encodes [0] only"),
        (("method=mocov2", "mixer=mixup", "mixer.rule.alpha=0"), "mixer.rule.alpha is 0: it must be above 0"),
        (("method=mocov2", "mixer=mixup", "mixer.start=1.0"), "mixing must begin before it ends"),
        (("method=mocov2", "mixer=mixup", "mixer.probability=2"), "mixer.probability is 2"),
        (("method=mocov2", "mixer=resizemix", "mixer.rule.smallest=0"), "mixer.rule.smallest is 0"),
        (
            ("method=hallucinator", "mixer=mixup"),
            "Hallucinator changes positive pairs, but with Mixup a positive is a mix",
        ),
        (("method=mocov2", "mixer=mixup", "objective.class_oracle=true"), "MoCo does not read what Mixup produces"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError) as error:
        build_module(config(*SMALL, *overrides), has_labels=True)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_two_mixed_views_leave_simclr_without_answers() -> None:
    module = build_module(small("simclr", "mixer=mixup", "mixer.views=[0,1]"), has_labels=True)
    data = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"mixer\.views is \[0, 1\], but one view has to stay clean"):
        module.losses(Samples(data, torch.arange(4)), Clock(0, 0, 2))
