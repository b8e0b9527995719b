"""Rules with parameters: masks and shares against loops, who learns from what, and that every parameter does."""

import math

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.build import build_data, build_module
from ssl_framework.mixers import learned
from ssl_framework.mixers.base import Context, LearnedRule
from ssl_framework.mixers.learned import AdaMixUp, AutoMixBlock, LearnedMask, SAMixBlock, attention
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.optim import OptimizerRecipe
from ssl_framework.types import Batch, Clock, Samples
from tests.small_runs import config, small

MIXERS = ("adamixup", "automix", "samix")
TRAINED = [("simclr", m) for m in MIXERS] + [("mocov2", "automix"), ("byol", "adamixup"), ("byol", "samix")]


def rule_of(block: nn.Module, **change: object) -> LearnedMask:
    """A mask rule around a network that is there already."""
    settings = {"layer": 1, "alpha": 1.0, "per_sample": True, "plain": 0.0, "upsampling": "nearest"}
    numbers = {"weight": 0.1, "tolerance": 0.1, "spread": 0.0, "lr_factor": 1.0}
    rule = LearnedMask(lambda channels: block, **{**settings, **numbers, **change})  # type: ignore[arg-type]
    rule.network = block
    return rule


def prepared(*overrides: str) -> tuple[SSLModule, Samples]:
    cfg = small("simclr", *overrides)
    data = build_data(cfg).pretrain
    torch.manual_seed(0)
    return build_module(cfg, True, data.shape[0]), Samples(data.rows[:8], torch.arange(8), data.label[:8])  # type: ignore[index]


def random_maps(seed: int) -> Tensor:
    return torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(block: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for p in block.parameters():
        nn.init.normal_(p)
    return block.double()


def attended(q: list[Tensor], k: list[Tensor], v: list[float]) -> list[float]:
    """One query position after the other."""
    out = []
    for query in q:
        weights = [math.exp(float(query @ key) / len(query) ** 0.5) for key in k]
        out.append(sum(w * value for w, value in zip(weights, v, strict=True)) / sum(weights))
    return out


def conv(layer: nn.Conv2d, column: Tensor) -> Tensor:
    """A 1 x 1 convolution at one position: [C] -> [D]"""
    return (layer.weight[:, :, 0, 0] @ column + (0 if layer.bias is None else layer.bias)).detach()


def test_the_mask_of_automix_equals_loops() -> None:
    block, own, other = double(AutoMixBlock(4, 2)), random_maps(1), random_maps(2)
    share = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    got = block(own, other, share)
    assert got.shape == (3, 1, 2, 2)
    for b in range(3):
        mine = [torch.cat([own[b, :, i, j], share[b : b + 1]]) for i in range(2) for j in range(2)]
        theirs = [torch.cat([other[b, :, i, j], 1 - share[b : b + 1]]) for i in range(2) for j in range(2)]
        values = [float(conv(block.value, column)) for column in theirs]
        expected = attended([conv(block.query, c) for c in mine], [conv(block.query, c) for c in theirs], values)
        torch.testing.assert_close(got[b].flatten(), torch.tensor(expected, dtype=torch.float64))


def test_the_mask_of_samix_equals_loops() -> None:
    block, own, other = double(SAMixBlock(4, 2, slope=0.25)), random_maps(1), random_maps(2)
    share = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    got = block(own, other, share)
    for b, lam in enumerate(share.tolist()):
        factor = (4 / 3 * lam**3 - 2 * lam**2 + 1.25 * lam) / (1.25 - 2 / 3)
        mine = [(1 + factor) * own[b, :, i, j] for i in range(2) for j in range(2)]
        theirs = [(1 + 1 - factor) * other[b, :, i, j] for i in range(2) for j in range(2)]
        both = [torch.cat(pair) for pair in zip(mine, theirs, strict=True)]
        values = [float(conv(block.value[2], conv(block.value[0], column).relu())) for column in theirs]
        expected = attended([conv(block.query, c) for c in both], [conv(block.key, c) for c in both], values)
        torch.testing.assert_close(got[b].flatten(), torch.tensor(expected, dtype=torch.float64))


def test_attention_to_equal_keys_is_the_mean() -> None:
    value = random_maps(3)[:, :1]
    out = attention(random_maps(1), torch.ones(3, 4, 2, 2, dtype=torch.float64), value)
    torch.testing.assert_close(out, value.mean(dim=(2, 3), keepdim=True).expand_as(value))


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_masks_at_the_size_of_the_images_and_plain_mixup_at_the_ends(upsampling: str) -> None:
    class Fixed(nn.Module):
        def forward(self, own: Tensor, other: Tensor, share: Tensor) -> Tensor:
            return own[:, :1]

    rule = rule_of(Fixed(), plain=0.08, upsampling=upsampling)
    maps, source = random_maps(1), torch.tensor([[0, 1], [1, 2], [2, 0]])
    own = rule.mask(maps, source, torch.tensor([0.08, 0.5, 0.93]), (4, 6))
    assert own.shape == (3, 1, 4, 6)
    torch.testing.assert_close(own[0], torch.full_like(own[0], 0.08))
    torch.testing.assert_close(own[2], torch.full_like(own[2], 0.93))
    if upsampling == "nearest":
        expected = 1 / (1 + maps[1, 0].exp())  # one minus the sigmoid
        torch.testing.assert_close(own[1, 0], expected.repeat_interleave(2, 0).repeat_interleave(3, 1))
    else:
        assert len(own[1].unique()) > 4


def test_the_masks_own_loss() -> None:
    share = torch.tensor([0.5, 0.7])
    own = torch.tensor([[0.1, 0.3], [0.2, 0.2]])[:, None, None]  # mean 0.2, 0.4 below the mean share
    assert rule_of(nn.Identity()).penalty(own, share).item() == pytest.approx(0.1 * (0.4 - 0.1), rel=1e-5)
    assert rule_of(nn.Identity(), tolerance=0.4001).penalty(own, share).item() == 0
    variance = ((0.1 - 0.2) ** 2 + (0.3 - 0.2) ** 2) / 4
    got = rule_of(nn.Identity(), spread=2.0).penalty(own, share).item()
    assert got == pytest.approx(0.1 * (0.3 - 2 * variance), rel=1e-5)


def test_the_masks_own_loss_is_that_of_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks: each sees the other's rows, gradients are summed by the gathering and averaged by DDP."""
    torch.manual_seed(0)
    own, share = torch.rand(4, 1, 2, 2, dtype=torch.float64), torch.full((4,), 0.9)
    rule, scale = rule_of(nn.Identity(), spread=2.0), torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    alone = rule.penalty(own * scale, share)
    (expected,) = torch.autograd.grad(alone, scale)
    grads = []
    for mine, theirs in ((slice(2), slice(2, 4)), (slice(2, 4), slice(2))):
        mean, square = own[theirs].mean(dim=(1, 2, 3)), own[theirs].square().mean(dim=(1, 2, 3))
        others = torch.stack([mean - share[theirs], mean, square], dim=1)
        monkeypatch.setattr(learned, "gather_with_grad", lambda x, others=others: torch.cat([x, others]))
        loss = rule.penalty(own[mine] * scale, share[mine])
        torch.testing.assert_close(loss, alone)
        grads.append(2 * torch.autograd.grad(loss, scale)[0])  # the sum over two ranks' equal losses
    torch.testing.assert_close(sum(grads) / 2, expected)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_visible_share_is_the_label_share(mixer: str) -> None:
    """Every image is a constant, its number."""
    module, _ = prepared(f"mixer={mixer}", "mixer.partners._target_=ssl_framework.mixers.partners.Others")
    number = torch.arange(6.0)
    x = number[:, None, None, None].expand(6, 3, 32, 32).contiguous()
    for p in module.mixer.parameters():  # type: ignore[union-attr]
        nn.init.normal_(p, std=0.2)
    out = module.mixer(Batch([x, x], torch.arange(6)), Clock(0, 0, 9), module.student)  # type: ignore[misc]
    mix = out.mix[0]
    own, other = (number[mix.source[:, p]][:, None, None, None] for p in range(2))
    seen = (out.views[0] - other) / (own - other)
    torch.testing.assert_close(seen, mix.owner[:, :1].expand(seen.shape), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen.mean(dim=(1, 2, 3)), mix.share[:, 0], rtol=1e-3, atol=1e-3)
    assert mix.share.requires_grad == mix.owner.requires_grad == (mixer == "adamixup") and out.views[0].requires_grad
    assert (out.owed is None) == (mixer == "adamixup")


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_students_gradient_is_that_with_the_mixtures_as_constants(mixer: str) -> None:
    """And with all else constant, the loss moves the rule."""
    module, samples = prepared(f"mixer={mixer}")
    grads = []
    for constant in (False, True):
        module.zero_grad()
        torch.manual_seed(1)
        forward = type(module.mixer).forward
        if constant:

            def without(*args, **kwargs):  # type: ignore[no-untyped-def]
                batch = forward(module.mixer, *args, **kwargs)  # noqa: B023
                mixes = [mix and mix._replace(share=mix.share.detach()) for mix in batch.mix]
                return batch._replace(views=[v.detach() for v in batch.views], mix=mixes, owed=None)

            module.mixer.forward = without  # type: ignore[union-attr, method-assign]
        module.losses(samples, Clock(1, 0, 3))["loss"].backward()
        grads.append([p.grad.clone() for p in module.student.parameters()])  # type: ignore[union-attr]
        named = dict(module.mixer.named_parameters())  # type: ignore[union-attr]
        moved = {name for name, p in named.items() if p.grad is not None and p.grad.abs().max() > 0}
        assert moved == ({name for name in named if "critic" in name} if constant else named.keys())
    for got, expected in zip(*grads, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("mixer", ["automix", "samix"])
def test_the_masks_own_loss_moves_the_mask_alone(mixer: str) -> None:
    module, samples = prepared(f"mixer={mixer}", "mixer.rule.plain=0", "mixer.rule.tolerance=0")
    batch = module.mixer(module.views(samples), Clock(0, 0, 3), module.student)  # type: ignore[misc]
    batch.owed.backward()
    assert all(p.grad is None for p in module.student.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.mixer.parameters())  # type: ignore[union-attr]


def test_making_masks_leaves_the_networks_as_they_are_and_prefers_the_teacher() -> None:
    cfg = small("mocov2", "mixer=automix")
    module = build_module(cfg, True, 48)
    assert module.teacher is not None and isinstance(module.mixer.rule, LearnedMask)  # type: ignore[union-attr]
    with torch.no_grad():
        for p in module.teacher.encoder.backbone.parameters():
            p.mul_(1.5)
    before = {name: x.clone() for name, x in module.state_dict().items()}
    x, rule = torch.randn(4, 3, 32, 32), module.mixer.rule  # type: ignore[union-attr]
    seen = [rule.maps(x, Context(None, None, module.student, None, t)) for t in (None, module.teacher.encoder)]
    for network, maps in zip((module.student, module.teacher.encoder), seen, strict=True):
        torch.testing.assert_close(maps, network.backbone.net.features[:9](x))
    assert not torch.allclose(*seen)
    module.load_state_dict(before)
    rule.maps(x, Context(None, None, module.student, None))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_share_of_adamixup_lies_in_the_interval_of_its_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rule = AdaMixUp([4, 8], 1.0, 1.0)
    rule.attach(Encoder(Backbone("ssl_tiny", None, 16, 3), {}))
    x = torch.randn(5, 3, 16, 16)
    source = torch.stack([torch.arange(5), torch.arange(5).roll(1)], dim=1)
    u = torch.rand(5, generator=torch.Generator().manual_seed(3))
    mixed, owner = rule(x, source, Context(torch.Generator().manual_seed(3), None, None, None))
    for b, partner in enumerate(source[:, 1].tolist()):
        logits = rule.policy(((x[b] + x[partner]) / 2)[None])[0]
        a, length, _ = (logits.exp() / logits.exp().sum()).tolist()
        share = a + length * u[b].item()
        torch.testing.assert_close(owner[b, 0], torch.full((16, 16), share))
        torch.testing.assert_close(mixed[b], share * x[b] + (1 - share) * x[partner])
    # Halves of a batch whose pairs lie within them give what the whole gives: two ranks equal one.
    pairs, nobody, seen = torch.tensor([[0, 1], [1, 0], [2, 3], [3, 2]]), Context(None, None, None, None), []
    for part in (slice(4), slice(2), slice(2, 4)):
        monkeypatch.setattr(learned, "uniform", lambda *_, part=part: u[part])
        seen.append(rule(x[part], pairs[part] - part.start if part.start else pairs[part], nobody)[0])
    torch.testing.assert_close(torch.cat(seen[1:]), seen[0])


def test_the_critic_tells_clean_from_mixed() -> None:
    module, samples = prepared("mixer=adamixup")
    torch.manual_seed(1)
    batch = module.mixer(module.views(samples), Clock(0, 0, 3), module.student)  # type: ignore[misc]
    outputs = module.student(batch.views)
    rule = module.mixer.rule  # type: ignore[union-attr]
    terms = []
    for v, view in enumerate(outputs):
        for b in range(8):
            logit = rule.critic(view["pooled"][b]).item()  # type: ignore[index]
            real = v == 1 or batch.mix[0].source[b, 1] == b
            terms.append(math.log(1 + math.exp(-logit if real else logit)))
    assert rule.loss(outputs, batch).item() == pytest.approx(sum(terms) / 16, rel=1e-5)


@pytest.mark.parametrize(("method", "mixer"), TRAINED)
def test_every_parameter_moves_within_three_steps(method: str, mixer: str) -> None:
    module, before, losses = three_steps(method, f"mixer={mixer}")
    assert all(map(math.isfinite, losses)) and len(set(losses)) == 3
    for name, p in module.named_parameters():
        assert not torch.equal(p, before[name]), f"{name} did not move"


def three_steps(method: str, *overrides: str) -> tuple[SSLModule, dict[str, Tensor], list[float]]:
    cfg = small(method, "optimizer.warmup=0.0", *overrides)
    data = build_data(cfg).pretrain
    torch.manual_seed(0)
    module = build_module(cfg, True, data.shape[0])
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer, _ = module.recipe.build(module, 256, 3, module.own_rates())
    losses = []
    for step in range(3):
        index = torch.arange(8 * step, 8 * (step + 1))
        out = module.losses(Samples(data.rows[index], index, data.label[index]), Clock(step, 0, 3))  # type: ignore[index]
        optimizer.zero_grad()
        out["loss"].backward()
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
        optimizer.step()
        if module.teacher is not None:
            module.teacher.update(module.student, Clock(step, 0, 3))
        losses.append(out["loss"].item())
    return module, before, losses


@pytest.mark.parametrize("mixer", MIXERS)
def test_outside_the_schedule_every_parameter_has_a_gradient_of_zero(mixer: str) -> None:
    module, samples = prepared(f"mixer={mixer}", "mixer.start=0.5")
    out = module.losses(samples, Clock(0, 0, 10))
    out["loss"].backward()
    assert out["mixer_loss"] == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in module.mixer.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("mixer", MIXERS)
def test_in_bf16_the_student_still_learns(mixer: str) -> None:
    """A pass without gradient leaves casts of the weights in autocast's cache, which would cut the student off."""
    values = []
    for autocast in (False, True):
        module, samples = prepared(f"mixer={mixer}")
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = module.losses(samples, Clock(0, 0, 3))["loss"]
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.student.backbone.parameters())
        values.append(loss)
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[0], values[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_restored_state_goes_on_bit_for_bit(mixer: str) -> None:
    losses = []
    module, samples = prepared(f"mixer={mixer}")
    state = {name: x.clone() for name, x in module.state_dict().items()}
    assert any(name.startswith("mixer.rule.") for name in state)
    for _ in range(2):
        torch.manual_seed(2)
        losses.append(module.losses(samples, Clock(1, 0, 3))["loss"].item())
        module, _ = prepared(f"mixer={mixer}", "seed=3")
        for p in module.parameters():
            nn.init.zeros_(p)
        module.load_state_dict(state)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("exclude", [True, False])
def test_a_rule_is_a_group_with_a_rate_of_its_own(exclude: bool) -> None:
    class Rule(LearnedRule):
        def __init__(self) -> None:
            super().__init__(lr_factor=0.5)
            self.linear = nn.Linear(2, 3)

    module = nn.Sequential(nn.Linear(4, 5), Rule())
    recipe = OptimizerRecipe(torch.optim.SGD, 0.1, 1e-4, exclude, warmup=0.5)
    optimizer, schedule = recipe.build(module, 512, 10, {module[1]: 0.5})
    groups = [(sum(p.numel() for p in g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    sizes, rates, decays = zip(*groups, strict=True)
    assert sizes == ((20, 5, 6, 3) if exclude else (25, 9)) and decays == (
        (1e-4, 0, 1e-4, 0) if exclude else (1e-4, 1e-4)
    )
    first = 0.2 / 5  # of five steps of warm-up
    assert rates == pytest.approx([first, first, first / 2, first / 2] if exclude else [first, first / 2])
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"] / 2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("mixer=automix", "mixer.rule.layer=0"), "mixer.rule.layer names 0, the images"),
        (("mixer=automix", "mixer.rule.layer=7"), "mixer.rule.layer names 7, but ssl_tiny has the blocks 1 to 4"),
        (("mixer=automix", "mixer.rule.plain=0.5"), "mixer.rule.plain is 0.5"),
        (("mixer=automix", "mixer.rule.upsampling=cubic"), "mixer.rule.upsampling is cubic: choose nearest or"),
        (("mixer=automix", "mixer.rule.weight=-1"), "mixer.rule.weight is -1: it must be at least 0"),
        (("mixer=automix", "mixer.rule.lr_factor=0"), "mixer.rule.lr_factor is 0: it must be above 0"),
        (("mixer=samix", "mixer.rule.network.slope=-1"), "mixer.rule.network.slope is -1"),
        (("mixer=samix", "data.micro_batch_size=4"), "but LearnedMask needs the student's one pass over the whole"),
        (("mixer=adamixup", "mixer.rule.widths=[]"), "mixer.rule.widths is []"),
        (("mixer=adamixup", "mixer.rule.critic_weight=0"), "mixer.rule.critic_weight is 0"),
        (
            ("mixer=adamixup", "method=mocov2"),
            "the student encodes none: choose method=byol, dcl, dclw, g_simclr, grace, m_mix, mocov3, reweight_head, ",
        ),
    ],
)
def test_what_does_not_fit_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError) as error:
        build_module(config("method=simclr", *overrides), has_labels=True)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_tokens_are_no_maps() -> None:
    vit = ("backbone=timm", "backbone.name=vit_tiny_patch16_224", "+backbone.options={img_size: 32, patch_size: 8}")
    with pytest.raises(ValueError, match=r"behind that block of vit_tiny_patch16_224 are no maps of 192 channels"):
        prepared("mixer=automix", *vit)
