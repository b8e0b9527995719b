"""What a mixer shows is what it says: shares, partners, schedule; for every rule, size and number of channels."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.mixers.base import Context, Rule
from ssl_framework.mixers.masks import FMix, GridMix, MaskMix, PatchMix, SmoothMix, TokenMix
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.mixers.partners import Following, Others, Reversed, Shuffle
from ssl_framework.mixers.puzzle import PuzzleMix
from ssl_framework.mixers.regions import SMMix, SnapMix
from ssl_framework.mixers.rules import CutMix, Mixup, ResizeMix, Share, Switch, resampling
from ssl_framework.mixers.saliency import AttentiveMix, GuidedMixup, SaliencyMix
from ssl_framework.mixers.scores import SpectralResidual
from ssl_framework.mixers.targets import class_targets, number_targets, overlap, targets
from ssl_framework.module import clean_views
from ssl_framework.objectives.base import parted
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.types import Batch, Clock, Mix, Samples
from tests.small_runs import SMALL, config, small

RESIDUAL = SpectralResidual(64, 2.5)
RULES: dict[str, Rule] = {
    "mixup": Mixup(1.0, True, False),
    "mixup_batch": Mixup(1.0, False, True),
    "cutmix": CutMix(1.0, True, False),
    "cutmix_batch": CutMix(1.0, False, True),
    "resizemix": ResizeMix(0.1, 0.8, True),
    "resizemix_batch": ResizeMix(0.1, 0.8, False),
    "resizemix_area": ResizeMix(0.3, 0.9, True, by_area=True),
    "smoothmix": SmoothMix(0.25, 0.5, True),
    "smoothmix_batch": SmoothMix(0.25, 0.5, False),
    "gridmix": GridMix(1.0, [2, 6], [0.5, 1.0], [0.5, 2.0], True),
    "gridmix_batch": GridMix(1.0, [2, 6], [0.5, 1.0], [0.5, 2.0], False),
    "fmix": FMix(1.0, 3.0, True),
    "fmix_batch": FMix(1.0, 3.0, False),
    "tokenmix": TokenMix(1.0, 1, 0, True),
    "tokenmix_batch": TokenMix(1.0, 1, 3, False),
    "patchmix": PatchMix(1, True),
    "patchmix_batch": PatchMix(1, False),
    "saliencymix": SaliencyMix(RESIDUAL, 1.0, True, False),
    "saliencymix_batch": SaliencyMix(RESIDUAL, 1.0, False, True),
    "attentivemix": AttentiveMix(RESIDUAL, 1.0, 8.0, True, 4),
    "attentivemix_batch": AttentiveMix(RESIDUAL, 2.0, 2.0, False, 3),
    "puzzlemix": PuzzleMix(RESIDUAL, 1.0, True, 4, 3, 0.01, 0.1, 0.01, None),
    "puzzlemix_batch": PuzzleMix(RESIDUAL, 1.0, False, 3, 2, 0.01, 0.1, 0.01, None),
    "guidedmixup": GuidedMixup(RESIDUAL),
    "maskmix": MaskMix(1.0, 2, True),
    "maskmix_batch_share": MaskMix(1.0, 2, False),
    "smmix": SMMix(RESIDUAL, 0.25, 0.75, True),
    "smmix_batch": SMMix(RESIDUAL, 0.25, 0.75, False),
    "snapmix": SnapMix(1.0, True),
    "snapmix_batch": SnapMix(1.0, False),
    "switch": Switch([Mixup(1.0, True, False), CutMix(1.0, True, False), ResizeMix(0.1, 0.8, True)], [1, 2, 1], True),
    "switch_batch": Switch([Mixup(1.0, False, False), CutMix(1.0, False, False)], [1, 2], False),
}
MIXERS = sorted(path.stem for path in (CONFIGS / "mixer").glob("*.yaml") if path.stem != "none")
HALF_WAY = Clock(step=50, epoch=5, total_steps=100)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def mixing(rule: Rule, partners: object = None, **change: object) -> Mixing:
    settings = {"views": [0], "add": False, "probability": 1.0, "start": 0.0, "stop": 1.0, **change}
    return Mixing(rule, partners or Others(), **settings)  # type: ignore[arg-type]


def batch_of(x: Tensor, num_views: int = 2) -> Batch:
    return Batch([x + v for v in range(num_views)], torch.arange(len(x)))


def context(number: int = 0) -> Context:
    """Everything drawn on the CPU from this number."""
    return Context(seeded(number), seeded(number + 1000), None, None)


def mixed(mixer: Mixing, x: Tensor, number: int) -> tuple[Tensor, Mix]:
    """A batch of one view, mixed."""
    return mixer.mixed(batch_of(x, 1), 0, context(number))


def two(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """A batch [2B, ...] whose first half has the second for partners; and the sources of all."""
    count = len(x)
    return torch.cat([x, other]), torch.stack([torch.arange(2 * count), torch.arange(2 * count).roll(count)], dim=1)


@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (7, 1, 20, 28), (2, 5, 9, 9)])
@pytest.mark.parametrize("name", RULES)
def test_the_visible_share_is_the_label_share(name: str, shape: tuple[int, ...]) -> None:
    """Every image is a constant, its number: what is seen of whom can be counted, and no rule makes a NaN of it."""
    number = torch.arange(float(shape[0]))
    x = number[:, None, None, None].expand(shape).contiguous()
    before = x.clone()
    got, mix = mixed(mixing(RULES[name]), x, 1)
    own, other = (number[mix.source[:, p]][:, None, None, None] for p in range(2))
    seen = (got - other) / (own - other)
    assert mix.owner is not None and torch.equal(x, before) and mix.clean is not got and mix.of == 0
    torch.testing.assert_close(seen, mix.owner[:, :1].expand(shape), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.mean(dim=(1, 2, 3)), mix.share[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mix.owner.sum(dim=1), torch.ones(shape[0], *shape[2:]))
    assert mix.share.min() >= 0 and mix.share.max() <= 1


@pytest.mark.parametrize("name", RULES)
def test_a_sample_that_is_its_own_partner_is_left_as_it_is(name: str) -> None:
    x = torch.rand(5, 3, 12, 12, generator=seeded())
    got, mix = mixed(mixing(RULES[name], Reversed()), x, 2)
    assert mix.source.tolist() == [[0, 4], [1, 3], [2, 2], [3, 1], [4, 0]]
    assert mix.share[2].tolist() == [1, 0] and torch.equal(got[2], x[2])
    assert not torch.equal(got[0], x[0])


@pytest.mark.parametrize("name", ["mixup", "cutmix", "fmix", "fmix_batch", "tokenmix"])
def test_shares_of_zero_and_one_are_the_identity(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.rand(4, 3, 10, 10), torch.rand(4, 3, 10, 10)
    for value, expected in ((1.0, x), (0.0, y)):
        monkeypatch.setattr(Share, "__call__", lambda self, like, context, value=value: torch.full((8,), value))
        monkeypatch.setattr("ssl_framework.mixers.rules.uniform", lambda shape, *_: torch.full(shape, 0.5))
        got, owner = RULES[name](*two(x, y), context())
        assert torch.equal(got[:4], expected) and (owner[:, 0] == value).all() and (owner[:, 1] == 1 - value).all()


def test_shares_follow_the_beta_distribution() -> None:
    like = torch.empty(200_000, 1, 1, 1)
    for alpha in (0.2, 1.0, 2.0):
        share = Share(alpha, True, False)(like, context())
        assert share.mean().item() == pytest.approx(0.5, abs=0.005)
        assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.02)
        dominant = Share(alpha, True, True)(like, context())
        torch.testing.assert_close(dominant, torch.maximum(share, 1 - share))
    assert len(Share(1.0, False, False)(like, context()).unique()) == 1


def test_boxes_of_cutmix_are_whole_boxes_of_the_drawn_size_where_they_fit() -> None:
    source = torch.stack([torch.arange(300), torch.arange(300).roll(1)], dim=1)
    _, owner = CutMix(1.0, True, False)(torch.zeros(300, 1, 40, 24), source, context(3))
    drawn = Share(1.0, True, False)(torch.empty(300, 1), context(3))
    fits = 0
    for mask, share in zip(owner[:, 0] == 0, drawn, strict=True):
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
    got, owner = ResizeMix(0.5, 0.5, True)(*two(x, other), context(4))
    rows, columns = (owner[0, 0] == 0).any(dim=1).nonzero(), (owner[0, 0] == 0).any(dim=0).nonzero()
    assert len(rows) == len(columns) == 8 and owner[0, 0].mean() == 0.75
    part = got[:1, :, rows[0, 0] : rows[0, 0] + 8, columns[0, 0] : columns[0, 0] + 8]
    expected = torch.nn.functional.interpolate(other, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)
    weights = resampling(*map(torch.tensor, ([3.0], [5.0], [0.0], [16.0])), 16)
    assert weights[0, :3].abs().sum() == 0 and weights[0, 8:].abs().sum() == 0
    torch.testing.assert_close(weights[0, 3:8].sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("by_area", [False, True])
def test_sides_or_area_of_resizemix_are_uniform(by_area: bool) -> None:
    x = torch.zeros(4000, 1, 64, 64)
    _, owner = ResizeMix(0.3, 0.9, True, by_area)(*two(x[:2000], x[2000:]), context(5))
    drawn = (1 - owner[:, 0].mean(dim=(1, 2))).pow(1 if by_area else 0.5)
    low, high = (0.09, 0.81) if by_area else (0.3, 0.9)
    quarters = torch.histc((drawn - low) / (high - low), 4, -0.05, 1.05) / 4000
    assert drawn.min() > low - 0.02 and drawn.max() < high + 0.02
    torch.testing.assert_close(quarters, torch.tensor([0.225, 0.275, 0.275, 0.225]), rtol=0, atol=0.03)


def test_a_switch_takes_each_rule_as_often_as_its_weight_says() -> None:
    class Constant:
        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self, x: Tensor, source: Tensor, context: object) -> tuple[Tensor, Tensor]:
            return torch.full_like(x, self.value), torch.full_like(x[:, :1], self.value)

    x, nobody = torch.zeros(4000, 1, 1, 1), torch.empty(0)
    rules = [Constant(0.25), Constant(0.5), Constant(0.75)]
    got, owner = Switch(rules, [1, 2, 1], True)(x, nobody, context())
    counts = Counter(got.flatten().tolist())
    assert torch.equal(got, owner) and counts[0.5] == pytest.approx(2000, abs=120)
    assert counts[0.25] == pytest.approx(1000, abs=100)
    batches = [Switch(rules, [1, 2, 1], False)(x[:5], nobody, context(n))[0].unique().tolist() for n in range(400)]
    assert all(len(values) == 1 for values in batches)
    assert batches.count([0.5]) == pytest.approx(200, abs=40)


def test_partners() -> None:
    def chosen(rule: object, count: int, number: int = 0) -> list[int]:
        return rule(batch_of(torch.empty(count, 1)), context(number))[:, 0].tolist()  # type: ignore[operator]

    for count in (1, 2, 3, 8):
        for rule in (Shuffle(), Others(), Reversed()):
            assert sorted(chosen(rule, count)) == list(range(count))
    seen = Counter()
    for number in range(3000):
        partner = chosen(Others(), 4, number)
        assert all(p != b for b, p in enumerate(partner))
        seen[partner[0]] += 1
    assert all(seen[p] == pytest.approx(1000, abs=100) for p in (1, 2, 3))
    first = Counter(chosen(Shuffle(), 4, n)[0] for n in range(4000))
    assert all(first[p] == pytest.approx(1000, abs=110) for p in range(4))
    assert Following(2)(batch_of(torch.empty(3, 1)), context()).tolist() == [[1, 2], [2, 0], [0, 1]]
    with pytest.raises(ValueError, match="num is 0: it must be at least 1"):
        Following(0)
    with pytest.raises(ValueError, match=r"mixer\.partners gives each sample 2 partners, but mixer\.rule mixes two"):
        mixed(mixing(RULES["mixup"], Following(2)), torch.rand(4, 3, 8, 8), 0)


def record(source: list[list[int]], share: list[list[float]]) -> Mix:
    return Mix(torch.empty(0), torch.tensor(source), torch.tensor(share), None, 0)


def test_targets_are_rows_of_shares() -> None:
    mix = record([[0, 2, 1], [1, 1, 0], [2, 0, 2]], [[0.5, 0.3, 0.2], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]])
    rows = targets(mix)
    torch.testing.assert_close(rows, torch.tensor([[0.5, 0.2, 0.3], [0.25, 0.75, 0.0], [0.25, 0.0, 0.75]]))
    label = torch.tensor([3, 0, 3])
    expected = torch.tensor([[0.2, 0, 0, 0.8], [0.75, 0, 0, 0.25], [0.0, 0, 0, 1.0]])
    torch.testing.assert_close(class_targets(mix, label, 4), expected)
    assert class_targets(None, label, 4).tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 1]]
    numbers = torch.tensor([10.0, 20.0, 40.0])
    torch.testing.assert_close(number_targets(mix, numbers), rows @ numbers)
    assert number_targets(None, numbers) is numbers


def test_overlap() -> None:
    a, b = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([[0.2, 0.3, 0.5]])
    torch.testing.assert_close(overlap(a, b), torch.tensor([[0.5], [0.2]]))
    torch.testing.assert_close(overlap(a, a).diagonal(), torch.ones(2))


def test_schedule_probability_and_views() -> None:
    x = torch.rand(400, 3, 8, 8, generator=seeded())
    early_stopped = mixing(RULES["mixup"], start=0.2, stop=0.5)
    for step, mixes in ((19, False), (20, True), (49, True), (50, False)):
        assert (early_stopped(batch_of(x), HALF_WAY._replace(step=step), None).mix is not None) == mixes
    out = mixing(RULES["mixup"], views=[1], probability=0.25)(batch_of(x), HALF_WAY, None, seeded(5))
    assert out.mix is not None and out.mix[0] is None and out.mix[1] is not None
    assert torch.equal(out.views[0], x) and torch.equal(clean_views(out)[1], x + 1)
    changed = (out.views[1] != x + 1).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert torch.equal(out.mix[1].share[:, 0] < 1, changed)


@pytest.mark.parametrize("name", RULES)
def test_the_generator_decides(name: str) -> None:
    x = torch.rand(6, 3, 8, 8, generator=seeded())
    first, again, other = (mixed(mixing(RULES[name], Shuffle()), x, n) for n in (7, 7, 8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1].source, again[1].source)
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", [name for name in RULES if name.endswith("_batch")])
def test_one_draw_for_the_batch_is_alike_on_all_ranks(name: str) -> None:
    """Ranks differ in their own generators, not in what is drawn for the whole batch."""
    x = torch.rand(6, 3, 16, 16, generator=seeded())
    owners = [mixing(RULES[name], Reversed())(batch_of(x), HALF_WAY, None, seeded(n)).mix[0].owner for n in (7, 8)]
    assert torch.equal(*owners)


def test_mixtures_beside_the_clean_views() -> None:
    x = torch.rand(6, 3, 8, 8, generator=seeded())
    batch = batch_of(x)
    out = mixing(RULES["mixup"], add=True, views=[1, 1])(batch, HALF_WAY, None, seeded(1))
    assert [mix and mix.of for mix in out.mix] == [None, None, 1, 1] and len(out.views) == 4
    assert out.views[0] is batch.views[0] and out.views[1] is batch.views[1]
    assert not torch.equal(out.views[2], out.views[3]) and torch.equal(out.mix[2].clean, batch.views[1])
    student = [{"z": view.mean(dim=(2, 3))} for view in out.views]
    clean, mixtures = parted(student, out, "z")
    assert [z is student[v]["z"] for v, z in enumerate(clean)] == [True, True]
    assert [(m.z is student[2 + i]["z"], m.mix is out.mix[2 + i]) for i, m in enumerate(mixtures)] == [(True, True)] * 2
    replaced = mixing(RULES["mixup"])(batch, HALF_WAY, None, seeded(1))
    clean, mixtures = parted([None, student[1]], replaced, "z")
    assert len(clean) == 1 and not mixtures
    assert len(parted(student[:2], batch, "z")[0]) == 2


@pytest.mark.parametrize("name", RULES)
def test_views_are_mixed_alike_or_each_in_its_own_way(name: str) -> None:
    """Alike: the same partners and owners in both views; again others with another seed, step or rank."""
    x = torch.rand(6, 3, 16, 16, generator=seeded())

    def of_views(alike: bool, number: int, clock: Clock = HALF_WAY) -> tuple[Mix, Mix]:
        mixer = mixing(RULES[name], Shuffle(), add=True, views=[0, 1], alike=alike)
        mixes = mixer(Batch([x, x], torch.arange(6)), clock, None, seeded(number)).mix  # some rules look at the images
        return mixes[2], mixes[3]

    def same(a: Mix, b: Mix) -> bool:
        return torch.equal(a.source, b.source) and torch.equal(a.owner, b.owner)

    first, second = of_views(True, 7)
    assert same(first, second) and (first.of, second.of) == (0, 1)
    assert not same(*of_views(False, 7))
    assert not same(first, of_views(True, 8)[0])
    assert not same(first, of_views(True, 7, HALF_WAY._replace(step=51))[0])
    assert same(first, of_views(True, 7)[1])


def test_alike_without_a_generator_follows_the_seed_of_the_step() -> None:
    x = torch.rand(6, 3, 8, 8, generator=seeded())
    mixer = mixing(RULES["mixup"], Shuffle(), add=True, views=[0, 1], alike=True)
    shares = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        first, second = mixer(batch_of(x), HALF_WAY, None).mix[2:]
        assert torch.equal(first.share, second.share)
        shares.append(first.share)
    assert torch.equal(shares[0], shares[1]) and not torch.equal(shares[0], shares[2])


@pytest.mark.parametrize("method", ["simclr", "dcl", "mocov2", "mochi", "byol", "mocov3"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_composes_with_the_methods_that_read_it(mixer: str, method: str) -> None:
    cfg = small(method, f"mixer={mixer}")
    attention = dict.fromkeys(["transmix", "smmix", "mixpro"], "choose backbone=vit_tiny")
    why_not = {**attention, **dict.fromkeys(["rankmixup", "mixmatch", "remixmatch"], "set mixer.add=false")}
    if method in ("mocov2", "mochi"):
        why_not["adamixup"] = "the student encodes none"
    if mixer in why_not:
        with pytest.raises(ValueError, match=why_not[mixer]):
            build_module(cfg, has_labels=True)
        return
    built = build_module(cfg, has_labels=True).mixer
    assert built is not None and type(built.rule).__name__ == cfg.mixer.rule._target_.split(".")[-1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method=mv_dhel", "mixer=cutmix"), "MultiView does not read what CutMix produces: choose method=byol, dcl, "),
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
        (("method=simclr", "mixer=patchmix", "mixer.rule.patch=5"), "mixer.rule.patch is 5, but a view has 32 x 32"),
        (
            ("method=byol", "mixer=transmix"),
            "ClassAttention reads a timm ViT with standard attention, but backbone.name",
        ),
        (("method=mocov2", "mixer=mixup", "objective.class_oracle=true"), "MoCo does not read what Mixup produces"),
        (
            ("method=mocov2", "mixer=mixup", "mixer.add=true"),
            "MoCo reads mixtures in the place of clean views, but mixer.add is true, which puts them beside the clean "
            "views: set mixer.add=false",
        ),
    ],
)
def test_what_does_not_fit_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError) as error:
        build_module(config(*SMALL, *overrides), has_labels=True)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mixer", ["puzzlemix", "automix", "tokenmix"])
def test_the_rehearsal_before_the_run_changes_nothing(mixer: str) -> None:
    cfg = small("simclr", f"mixer={mixer}")
    torch.manual_seed(0)
    module = build_module(cfg, has_labels=True)
    state, drawn = {name: x.clone() for name, x in module.state_dict().items()}, torch.rand(3)
    assert module.mixer is not None
    torch.manual_seed(1)
    module.mixer.rehearse(module.student, [(3, 32, 32)] * 2)
    assert module.student.training and all(torch.equal(x, state[name]) for name, x in module.state_dict().items())
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3)) and not torch.equal(after, drawn)


def test_two_mixed_views_leave_simclr_without_answers() -> None:
    module = build_module(small("simclr", "mixer=mixup", "mixer.views=[0,1]"), has_labels=True)
    data = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"mixer\.views is \[0, 1\], but one view has to stay clean"):
        module.losses(Samples(data, torch.arange(4)), Clock(0, 0, 2))
