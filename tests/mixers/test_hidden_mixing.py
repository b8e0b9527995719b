"""Maps are mixed inside the student: where, whose rows, how much; and what that cannot be combined with is refused."""

import math

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.build import build_data, build_module
from ssl_framework.mixers.base import Rule
from ssl_framework.mixers.hidden import AlignMix, ManifoldMixup, transport
from ssl_framework.mixers.learned import AdaMixUp
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.mixers.partners import Others
from ssl_framework.mixers.rules import Mixup, Switch
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.types import Batch, Clock, Mix, Samples
from tests.small_runs import config, small

COMBINED = [(method, mixer) for method in ("simclr", "mocov2", "byol") for mixer in ("manifold_mixup", "alignmix")]


def mixing(layers: list[int], **change: object) -> Mixing:
    settings = {"views": [0], "add": False, "probability": 1.0, "start": 0.0, "stop": 1.0, **change}
    return Mixing(ManifoldMixup(1.0, True, layers), Others(), **settings)  # type: ignore[arg-type]


def encoder(name: str = "ssl_tiny", join_views: bool = True, **options: object) -> Encoder:
    torch.manual_seed(0)
    # Without batch statistics, so that halves of the network can be run on their own.
    return Encoder(Backbone(name, None, 32, 3, options=options), {}, join_views).eval()


def batch_of(count: int = 5, views: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch([torch.randn(count, 3, 32, 32, generator=generator) for _ in range(views)], torch.arange(count))


def encoded(student: Encoder, mixer: Mixing, batch: Batch, step: int = 0) -> tuple[Batch, list[Tensor]]:
    """The batch with its records, and the pooled features of every view."""
    clock = Clock(step, 0, 10)
    batch = mixer(batch, clock, student, torch.Generator().manual_seed(2))
    with mixer.inside(student, batch, None, clock):
        return batch, [view["pooled"] for view in student(batch.views) if view is not None]


def mixed_by_hand(x: Tensor, mix: Mix) -> Tensor:
    rows = [
        mix.share[b, 0] * x[b] + mix.share[b, 1] * x[partner] for b, partner in enumerate(mix.source[:, 1].tolist())
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("join_views", [True, False])
@pytest.mark.parametrize(("layer", "modules"), [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12), (-1, 12)])
def test_a_hidden_mixture_is_that_of_two_halves_of_the_network(layer: int, modules: int, join_views: bool) -> None:
    student, batch = encoder(join_views=join_views), batch_of()
    out, (mixture, clean) = encoded(student, mixing([layer]), batch)
    assert out.mix is not None and out.mix[0] is not None and out.mix[1] is None
    mix = out.mix[0]
    assert mix.owner is None and torch.equal(out.views[0], batch.views[0])  # the pixels stay
    net = student.backbone.net
    hidden = net.features[:modules](batch.views[0]) if modules else batch.views[0]
    expected = net.forward_head(net.features[modules:](mixed_by_hand(hidden, mix)), pre_logits=True)
    torch.testing.assert_close(mixture, expected)
    torch.testing.assert_close(clean, student.backbone(batch.views[1])["pooled"])
    torch.testing.assert_close(student(batch.views)[0]["pooled"], student.backbone(batch.views[0])["pooled"])  # type: ignore[index]


def test_a_vision_transformer_mixes_behind_its_blocks() -> None:
    student = encoder("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, no_embed_class=True)
    batch, net = batch_of(), student.backbone.net
    assert len(student.backbone.blocks) == 3
    out, (mixture, _) = encoded(student, mixing([2]), batch)
    tokens = net.patch_embed(batch.views[0])
    tokens = net.blocks[:2](net.norm_pre(net.patch_drop(net._pos_embed(tokens))))
    tokens = net.norm(net.blocks[2:](mixed_by_hand(tokens, out.mix[0])))  # type: ignore[index, arg-type]
    torch.testing.assert_close(mixture, net.forward_head(tokens, pre_logits=True), rtol=1e-4, atol=1e-5)


def test_the_first_block_of_a_resnet_is_its_first_stage() -> None:
    backbone = Backbone("ssl_resnet18_small", None, 32, 3)
    assert [block.channels for block in backbone.blocks] == [64, 128, 256, 512]
    assert backbone.block(1, "") == (backbone.net.layer1, 64) and backbone.block(-1, "") == (backbone.net.layer4, 512)
    assert backbone.block(0, "") is None
    backbone.net.feature_info = None
    with pytest.raises(ValueError, match="timm does not say what its blocks are"):
        backbone.block(1, "")


def test_mixtures_beside_the_clean_views_cost_a_copy_of_the_view() -> None:
    student, batch = encoder(), batch_of()
    mixer = mixing([2], add=True, views=[1, 1])
    out, (first, second, *mixtures) = encoded(student, mixer, batch)
    torch.testing.assert_close(first, student.backbone(batch.views[0])["pooled"])
    torch.testing.assert_close(second, student.backbone(batch.views[1])["pooled"])
    net = student.backbone.net
    hidden = net.features[:6](batch.views[1])
    for mix, mixture in zip(out.mix[2:], mixtures, strict=True):  # type: ignore[index]
        assert mix is not None and mix.of == 1 and mix.owner is None
        expected = net.features[6:](mixed_by_hand(hidden, mix)).mean(dim=(2, 3))
        torch.testing.assert_close(mixture, expected)
    assert not torch.allclose(*mixtures)


def test_every_block_is_drawn_and_the_step_alone_decides() -> None:
    student, batch, drawn = encoder(), batch_of(2), []
    mixer = mixing([0, 1, 2])
    for step in range(60):
        out = mixer(batch, Clock(step, 0, 100), student)
        with mixer.inside(student, out, None, Clock(step, 0, 100)):
            hooked = [bool(student.backbone._forward_pre_hooks)]
            hooked += [bool(block.module._forward_hooks) for block in student.backbone.blocks]
        assert sum(hooked) == 1
        drawn.append(hooked.index(True))
    assert {n: drawn.count(n) for n in range(3)} == pytest.approx({0: 20, 1: 20, 2: 20}, abs=9)
    assert not student.backbone._forward_pre_hooks  # nothing is left behind


def test_a_share_of_one_is_the_identity_and_both_partners_learn() -> None:
    maps = torch.randn(3, 4, 2, 2, requires_grad=True)
    source = torch.tensor([[0, 1], [1, 2], [2, 0]])
    aligned = AlignMix(1.0, True, [-1], 0.1, 100)
    for rule in (ManifoldMixup(1.0, True, [1]), aligned):
        for draw in (0, 1):
            share = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]])
            mixed = rule.mix(maps, Mix(maps, source, share, None, 0), draw)
            assert torch.equal(mixed[0], maps[0]) and not torch.allclose(mixed[1], maps[1])
            (grad,) = torch.autograd.grad(mixed[1].sum(), maps)
            norms = grad.flatten(1).norm(dim=1)
            assert norms[0] == 0 and norms[1] > 0.1 and norms[2] > 0.1


def sinkhorn_by_loops(a: Tensor, b: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """N times the plan of the dual potentials u and v, in float64."""
    n = len(a)
    cost = [[float((a[i] - b[j]).square().sum()) for j in range(n)] for i in range(n)]
    u, v = [0.0] * n, [0.0] * n
    for _ in range(iterations):
        for i in range(n):
            u[i] = -epsilon * math.log(sum(math.exp((v[j] - cost[i][j]) / epsilon) for j in range(n)))
        for j in range(n):
            v[j] = -epsilon * math.log(sum(math.exp((u[i] - cost[i][j]) / epsilon) for i in range(n)))
    return [[math.exp((u[i] + v[j] - cost[i][j]) / epsilon) for j in range(n)] for i in range(n)]


def test_the_plan_equals_a_loop_and_moves_positions_back() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.rand(2, 2, 4, 3, generator=generator, dtype=torch.float64)  # [B, N, C] each
    for iterations in (1, 2, 100):
        plan = transport(a, b, 0.1, iterations)
        for each, x, y in zip(plan, a, b, strict=True):
            expected = torch.tensor(sinkhorn_by_loops(x, y, 0.1, iterations), dtype=torch.float64)
            torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(plan.sum(dim=1), torch.ones(2, 4, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(dim=2), torch.ones(2, 4, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    order = torch.tensor([2, 0, 3, 1])
    far = 1000 * torch.randn(1, 4, 3, generator=generator)  # distances of millions of epsilon
    moved = transport(far, far[:, order], 0.1, 20) @ far[:, order]
    torch.testing.assert_close(moved, far)


@pytest.mark.parametrize("tokens", [False, True])
def test_alignmix_moves_one_map_onto_the_other(tokens: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (2, 4, 3) if tokens else (2, 3, 2, 2)
    maps = torch.randn(shape, generator=generator, dtype=torch.float64)
    share = torch.tensor([[0.25, 0.75], [0.75, 0.25]])
    mix = Mix(maps, torch.tensor([[0, 1], [1, 0]]), share, None, 0)
    rule = AlignMix(1.0, True, [-1], 0.5, 30)
    rows = maps if tokens else maps.flatten(2).transpose(1, 2)  # [B, N, C]
    for draw in (0, 1):
        got = rule.mix(maps, mix, draw)
        got = got if tokens else got.flatten(2).transpose(1, 2)
        for b in range(2):
            plan = torch.tensor(sinkhorn_by_loops(rows[b], rows[1 - b], 0.5, 30), dtype=torch.float64)
            own, other = rows[b], rows[1 - b]
            moved = (plan.T @ own, other) if draw else (own, plan @ other)
            torch.testing.assert_close(got[b], share[b, 0] * moved[0] + share[b, 1] * moved[1])


def samples_of(cfg: object) -> tuple[SSLModule, Samples]:
    data = build_data(cfg).pretrain  # type: ignore[arg-type]
    torch.manual_seed(0)
    return build_module(cfg, True, data.shape[0]), Samples(data.rows[:8], torch.arange(8), data.label[:8])  # type: ignore[arg-type, index]


@pytest.mark.parametrize(("method", "mixer"), COMBINED)
def test_methods_that_read_mixtures_read_hidden_ones(method: str, mixer: str) -> None:
    """Loss and gradients are finite, differ from those without the mixer, and the teacher sees clean maps."""
    losses = []
    for choice in (mixer, "none"):
        module, samples = samples_of(small(method, f"mixer={choice}"))
        torch.manual_seed(1)
        loss = module.losses(samples, Clock(1, 0, 3))["loss"]
        loss.backward()
        losses.append(loss.item())
        assert math.isfinite(loss.item())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.student.parameters())
        if module.teacher is not None:
            assert not any(m._forward_hooks for m in module.teacher.modules())
    assert losses[0] != losses[1]


def test_the_schedule_ends_hidden_mixing() -> None:
    student, batch = encoder(), batch_of()
    _, features = encoded(student, mixing([2], stop=0.5), batch, step=5)
    torch.testing.assert_close(features[0], student.backbone(batch.views[0])["pooled"])


def test_a_hidden_mixture_in_bf16_stays_near_float32() -> None:
    cfg = small("simclr", "mixer=alignmix")
    values = []
    for autocast in (False, True):
        module, samples = samples_of(cfg)
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            values.append(module.losses(samples, Clock(0, 0, 3))["loss"])
    torch.testing.assert_close(values[0], values[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("mixer.rule.layers=[5]",), "mixer.rule.layers names 5, but ssl_tiny has the blocks 1 to 4"),
        (("mixer.rule.layers=[-5]",), "mixer.rule.layers names -5, but ssl_tiny has the blocks 1 to 4"),
        (("mixer.rule.layers=[]",), "mixer.rule.layers is []: it must be a list of one or more whole numbers"),
        (("mixer.rule.alpha=0",), "mixer.rule.alpha is 0: it must be above 0"),
        (
            ("data.micro_batch_size=4",),
            "data.micro_batch_size is 4, but ManifoldMixup needs the student's one pass over the whole batch",
        ),
        (("method=mv_dhel",), "MultiView does not read what ManifoldMixup produces"),
        (("mixer=alignmix", "mixer.rule.epsilon=0"), "mixer.rule.epsilon is 0: it must be above 0"),
        (("mixer=alignmix", "mixer.rule.iterations=0"), "mixer.rule.iterations is 0: it must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError) as error:
        build_module(config("method=simclr", "mixer=manifold_mixup", *overrides), has_labels=True)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("rule", [ManifoldMixup(1.0, True, [1]), AdaMixUp([4], 1.0, 1.0)])
def test_only_rules_of_images_can_be_switched(rule: Rule) -> None:
    with pytest.raises(ValueError, match=rf"mixer\.rule\.rules has {type(rule).__name__}, which works inside"):
        Switch([Mixup(1.0, True, False), rule], [1, 1], True)


def test_a_compiled_student_and_further_backbones_are_refused() -> None:
    module = build_module(config("method=simclr", "mixer=manifold_mixup"), has_labels=True)
    with pytest.raises(ValueError, match=r"trainer\.compile is true, but ManifoldMixup changes the student's pass"):
        module.compile_parts()
    student = encoder()
    student.beside = nn.ModuleDict({"second": nn.Identity()})
    with pytest.raises(ValueError, match=r"ManifoldMixup mixes inside one backbone, but student\.beside has further"):
        mixing([1]).attach(student)
