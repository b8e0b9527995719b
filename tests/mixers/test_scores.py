"""Score maps, the rules and label laws that read them: against loops, closed cases, and nothing left behind."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.build import build_data, build_module
from ssl_framework.mixers.base import Context
from ssl_framework.mixers.hidden import ManifoldMixup
from ssl_framework.mixers.labels import AttentionShare, ScoreMass
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.mixers.partners import Reversed
from ssl_framework.mixers.puzzle import PuzzleMix, left, lowest, moved, moves_of, rarity, seams
from ssl_framework.mixers.rules import CutMix, Mixup, ResizeMix, Switch, beta_share
from ssl_framework.mixers.saliency import AttentiveMix, SaliencyMix
from ssl_framework.mixers.scores import Activation, ClassAttention, Gradient, Score, SpectralResidual, smooth
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.types import Batch, Clock, Samples
from tests.small_runs import small
from tests.test_device import Reads

VIT = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 3}


def encoder(vit: bool = False, **options: object) -> Encoder:
    torch.manual_seed(0)
    if vit:
        return Encoder(Backbone("vit_tiny_patch16_224", None, 16, 3, VIT | options), {})
    return Encoder(Backbone("ssl_tiny", None, 16, 3), {})


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def context(network: Encoder | None = None, number: int = 0) -> Context:
    return Context(seeded(number), seeded(number + 1000), network, None)


def images(count: int = 5, side: int = 16) -> Tensor:
    return torch.randn(count, 3, side, side, generator=seeded(1))


def next_one(count: int) -> Tensor:
    return torch.stack([torch.arange(count), (torch.arange(count) + 1) % count], dim=1)  # [B, 2]


class Given:
    """Score maps handed in."""

    def __init__(self, score: Tensor) -> None:
        self.score = score

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        return self.score


SCORES: dict[str, tuple[Score, bool]] = {
    "residual": (SpectralResidual(64, 2.5), False),
    "residual_small": (SpectralResidual(8, 0.0), False),
    "activation": (Activation(), False),
    "activation_vit": (Activation(), True),
    "gradient": (Gradient(1.0), False),
    "attention": (ClassAttention(), True),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_a_share_and_leaves_the_network_as_it_was(name: str) -> None:
    score, vit = SCORES[name]
    network = encoder(vit, drop_path_rate=0.5, proj_drop_rate=0.5) if vit else encoder()
    network.backbone.net.train()
    frozen = next(iter(network.backbone.net.children())).eval()
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    x = images(7)
    x[3] = 0.7  # a constant image
    x[4] = 0.0
    with torch.no_grad():
        got = score(x, context(network))
    assert got.dtype == torch.float32 and got.isfinite().all() and got.min() >= 0 and not got.requires_grad
    torch.testing.assert_close(got.sum(dim=(1, 2)), torch.ones(7))
    torch.testing.assert_close(score(x[2:3], context(network))[0], got[2], rtol=1e-3, atol=1e-6)  # one by one alike
    assert [module.training for module in network.modules()] == modes and not frozen.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters()) and torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in network.modules())
    if name.startswith("residual"):
        assert torch.equal(got[3], torch.full_like(got[3], 1 / got[3].numel())) and torch.equal(got[3], got[4])


def test_nothing_to_see_in_a_dead_network_either() -> None:
    network = encoder()
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    for score in (Activation(), Gradient(0.0)):
        got = score(images(2), context(network))
        torch.testing.assert_close(got, torch.full_like(got, 1 / got[0].numel()))


@pytest.mark.parametrize(("row", "column"), [(4, 6), (18, 12), (9, 20)])
def test_the_spectral_residual_finds_a_bright_square(row: int, column: int) -> None:
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, row : row + 5, column : column + 5] = 1.0
    score = SpectralResidual(64, 2.5)(x, context())[0]
    highest = divmod(int(score.argmax()), 32)
    assert row <= highest[0] < row + 5 and column <= highest[1] < column + 5
    assert score[row : row + 5, column : column + 5].mean() > 3 * score.mean()


def test_the_spectral_residual_is_that_of_the_paper() -> None:
    x = images(1, 8).double()
    spectrum = torch.fft.fft2(x[0].mean(dim=0))
    level = spectrum.abs().log()
    residual = torch.zeros(8, 8, dtype=torch.float64)
    for i, j in itertools.product(range(8), range(8)):
        around = [level[(i + a) % 8, (j + b) % 8] for a in (-1, 0, 1) for b in (-1, 0, 1)]
        residual[i, j] = level[i, j] - sum(around) / 9
    expected = torch.fft.ifft2(torch.exp(residual + 1j * spectrum.angle())).abs() ** 2
    torch.testing.assert_close(SpectralResidual(8, 0.0)(x, context())[0], expected / expected.sum())


def test_smoothing() -> None:
    x, sigma = torch.rand(2, 5, 7, generator=seeded()).double(), 1.3
    expected = torch.zeros_like(x)
    for b, i, j in itertools.product(range(2), range(5), range(7)):
        weights = torch.tensor(
            [[-((i - r) ** 2 + (j - c) ** 2) / (2 * sigma**2) for c in range(7)] for r in range(5)], dtype=torch.float64
        ).exp()
        expected[b, i, j] = (weights * x[b]).sum() / weights.sum()
    torch.testing.assert_close(smooth(x, sigma), expected)
    assert smooth(x, 0) is x


def test_activation_and_gradient_against_a_network_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = encoder(), images()
    monkeypatch.setattr("ssl_framework.mixers.scores.AT_ONCE", 2)
    activation, gradient = Activation()(x, context(network)), Gradient(0.0)(x, context(network))
    network.eval()
    for b in range(len(x)):
        one = x[b : b + 1].clone().requires_grad_()
        outputs = network.backbone(one)
        expected = sum(channel.abs() for channel in outputs["map"][0])
        torch.testing.assert_close(activation[b], expected / expected.sum())
        (outputs["pooled"] ** 2).sum().backward()
        slope = sum(channel.abs() for channel in one.grad[0])
        torch.testing.assert_close(gradient[b], slope / slope.sum(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 2, "qk_norm": True},
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "global_pool": "avg", "reg_tokens": 1},
    ],
)
def test_class_attention_is_what_the_last_block_computes(options: dict[str, object]) -> None:
    """timm's own weights, which it shows where attention is not fused."""
    network, x = encoder(True, **options), images()
    got = ClassAttention()(x, context(network))
    last, weights = network.backbone.net.blocks[-1].attn, []
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda _, args, out: weights.append(out))
    network.eval()
    network.backbone(x)
    before = network.backbone.net.num_prefix_tokens
    for b in range(len(x)):
        rows = weights[0][b].mean(dim=0)  # [N, N]
        row = rows[0] if network.backbone.net.has_class_token else rows.mean(dim=0)
        expected = row[before:] / row[before:].sum()
        torch.testing.assert_close(got[b].flatten(), expected)
    assert got.shape == (5, 4, 4)


@pytest.mark.parametrize(
    ("score", "network", "words"),
    [
        (Activation(), None, "Activation looks through the student, but the mixer was given none: choose Spectral"),
        (
            ClassAttention(),
            False,
            "ClassAttention reads a timm ViT with standard attention, but backbone.name is ssl_t",
        ),
    ],
)
def test_networks_that_do_not_serve(score: Score, network: bool | None, words: str) -> None:
    with pytest.raises(ValueError) as error:
        score(images(), context(None if network is None else encoder(network)))
    assert words in str(error.value)
    if network is not None:
        assert "backbone=vit_tiny" in str(error.value)


def test_a_vit_with_other_attention_is_refused() -> None:
    network = encoder(True)
    for block in network.backbone.net.blocks:
        block.attn = nn.Identity()  # such as timm's attn_layer=diff
    with pytest.raises(ValueError, match=r"backbone\.name is vit_tiny_patch16_224: choose backbone=vit_tiny"):
        ClassAttention()(images(), context(network))


def test_saliencymix_puts_the_box_where_the_partner_is_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    score = torch.zeros(3, 4, 4)
    places = [(1, 2), (0, 0), (3, 1)]
    for b, (row, column) in enumerate(places):
        score[b, row, column] = 1.0
    monkeypatch.setattr("ssl_framework.mixers.rules.Share.__call__", lambda self, like, _: torch.full((3,), 0.75))
    x = images(3)
    got, owner = SaliencyMix(Given(score), 1.0, True, False)(x, next_one(3), context())
    for b in range(3):
        row, column = places[(b + 1) % 3]  # of the partner
        middle = 4 * row + 2, 4 * column + 2  # of a cell of 4 px; half a side of 16 px is 8 px
        box = torch.zeros(16, 16, dtype=torch.bool)
        box[max(middle[0] - 4, 0) : middle[0] + 4, max(middle[1] - 4, 0) : middle[1] + 4] = True
        assert torch.equal(owner[b, 1] == 1, box) and torch.equal(owner[b, 0] == 0, box)
        assert torch.equal(got[b], torch.where(box, x[(b + 1) % 3], x[b]))


def test_attentivemix_pastes_exactly_the_highest_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bright squares on black, seen by the spectral residual: two cells of 4 px hold them."""
    x = torch.zeros(2, 3, 16, 16)
    x[0, :, 4:8, 8:12] = 1.0
    x[0, :, 12:16, 0:4] = 2.0
    x[1, :, 0:4, 12:16] = 1.0
    x[1, :, 8:12, 4:8] = 1.0
    score = x.mean(dim=1) / x.mean(dim=1).sum(dim=(1, 2), keepdim=True)
    for share, cells in ((0.2, [3, 3]), (0.125, [2, 2]), (0.0, [1, 1]), (1.0, [16, 16])):
        monkeypatch.setattr("ssl_framework.mixers.saliency.beta_share", lambda *_, share=share: torch.full((2,), share))
        _, owner = AttentiveMix(Given(score), 1.0, 8.0, True, 4)(x, next_one(2), context())
        assert (owner[:, 1].sum(dim=(1, 2)) / 16).tolist() == cells
        if share == 0.125:
            assert torch.equal(owner[:, 1] == 1, x.mean(dim=1)[[1, 0]] > 0)
    assert (owner[0, 1] == 1).all()
    seen = AttentiveMix(SpectralResidual(64, 0.0), 1.0, 8.0, True, 4)
    monkeypatch.setattr("ssl_framework.mixers.saliency.beta_share", lambda *_: torch.zeros(2))
    x[:] = 0.0
    x[0, :, 4:8, 8:12] = x[1, :, 8:12, 4:8] = 1.0
    _, owner = seen(x, next_one(2), context())
    assert torch.equal(owner[:, 1] == 1, x.mean(dim=1)[[1, 0]] > 0)


def test_beta_shares() -> None:
    share = beta_share(2.0, 8.0, torch.empty(100_000, 1), True, context())
    assert share.mean().item() == pytest.approx(0.2, abs=0.002)
    assert share.var().item() == pytest.approx(0.2 * 0.8 / 11, rel=0.03)
    assert len(beta_share(2.0, 8.0, torch.empty(9, 1), False, context()).unique()) == 1


def energy(labels: list[int], cells: Tensor, below: Tensor, beside: Tensor) -> float:
    rows, columns, _ = cells.shape
    grid = [labels[r * columns : (r + 1) * columns] for r in range(rows)]
    total = sum(cells[r, c, grid[r][c]] for r in range(rows) for c in range(columns))
    total = total + sum(below[r, c, grid[r][c], grid[r + 1][c]] for r in range(rows - 1) for c in range(columns))
    return float(total + sum(beside[r, c, grid[r][c], grid[r][c + 1]] for r in range(rows) for c in range(columns - 1)))


@pytest.mark.parametrize(("rows", "columns", "levels"), [(4, 2, 2), (2, 4, 2), (3, 2, 3), (2, 2, 4)])
def test_the_mask_is_the_best_of_all(rows: int, columns: int, levels: int) -> None:
    cells = torch.randn(3, rows, columns, levels, generator=seeded(2)).double()
    below = torch.randn(3, rows - 1, columns, levels, levels, generator=seeded(3)).double()
    beside = torch.randn(3, rows, columns - 1, levels, levels, generator=seeded(4)).double()
    got = lowest(cells, below, beside)
    for b in range(3):
        every = itertools.product(range(levels), repeat=rows * columns)
        best = min(every, key=lambda labels: energy(list(labels), cells[b], below[b], beside[b]))
        assert got[b].flatten().tolist() == list(best)


def test_costs_of_the_mask_are_those_of_the_paper() -> None:
    """Loops over cells, neighbours and pixels; also for sides that the cells do not divide."""
    h, w, g = 8, 6, 4
    x, other = torch.rand(2, 2, 3, h, w, generator=seeded(5)).double()
    rule = PuzzleMix(Given(torch.empty(0)), 1.0, True, g, 3, 1.2, 0.5, 0.2, None)
    z = torch.linspace(0, 1, 3, dtype=torch.float64)
    below, beside = rule.borders(x, other, z)
    assert below.shape == (2, g - 1, g, 3, 3) and beside.shape == (2, g, g - 1, 3, 3)
    beta = 1.2 / g / 16
    pixels = (other, x)

    def cost(seam: list[list[float]], a: float, b: float) -> float:
        (s00, s01), (s10, s11) = seam
        one_by_one = (1 - a) * (s00 + s01) + a * (s10 + s11) + (1 - b) * (s00 + s10) + b * (s01 + s11)
        return beta * ((a - b) ** 2 * (1 + 0.5 * (s10 + s01 - s11 - s00) / 2) + 0.5 * one_by_one / 2)

    for b, r, c in itertools.product(range(2), range(g - 1), range(g)):
        last, columns = 2 * r + 1, range(c * w // g, -(-(c + 1) * w // g))
        seam = [
            [
                sum((pixels[p][b, :, last, j] - pixels[q][b, :, last + 1, j]).abs().mean().item() for j in columns)
                for q in (0, 1)
            ]
            for p in (0, 1)
        ]
        seam = [[s / len(columns) for s in row] for row in seam]
        for i, j in itertools.product(range(3), range(3)):
            assert below[b, r, c, i, j].item() == pytest.approx(cost(seam, z[i].item(), z[j].item()), abs=1e-6)
        if r == 0 and c == 0:  # of masks of zeros and ones: the seam that is seen, and what is common to all four
            rest = {(p, q): cost(seam, p, q) / beta - 0.5 * seam[p][q] - (p - q) ** 2 for p in (0, 1) for q in (0, 1)}
            assert max(rest.values()) - min(rest.values()) < 1e-9
    turned = rule.borders(x.mT, other.mT, z)[0]
    torch.testing.assert_close(turned.transpose(1, 2), beside)
    first = [0, 2, 3, 5]  # of 6 pixels in 4 cells
    expected = (other[0, :, :2, first[2] - 1] - x[0, :, :2, first[2]]).abs().mean(dim=0).mean()
    torch.testing.assert_close(seams(x.mT, other.mT, g)[0, 1, 0, 1, 0].item(), expected.item(), rtol=1e-5, atol=1e-6)


def test_the_prior_of_the_mask_is_binomial() -> None:
    share = torch.tensor([0.3, 0.9])
    expected = torch.distributions.Binomial(3, share[:, None]).log_prob(torch.arange(4.0))
    torch.testing.assert_close(rarity(share, 4), -expected)
    assert rarity(torch.tensor([0.0, 1.0]), 3).isfinite().all()


def test_puzzlemix_keeps_what_matters() -> None:
    """Without prices between cells each cell is of whom it matters to; a price for changes makes it all of one."""
    score = torch.rand(4, 4, 4, generator=seeded(6))
    score = score / score.sum(dim=(1, 2), keepdim=True)
    x, source = images(4), next_one(4)
    _, owner = PuzzleMix(Given(score), 1.0, True, 4, 3, 0.0, 0.0, 0.0, None)(x, source, context())
    expected = (score > score[source[:, 1]]).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    assert torch.equal(owner[:, 0] == 1, expected)
    _, owner = PuzzleMix(Given(score), 1.0, True, 4, 3, 1e4, 0.0, 0.1, None)(x, source, context())
    assert all(len(own.unique()) == 1 for own in owner[:, 0])
    drawn = Mixup(1.0, True, False).share(x, context())
    _, owner = PuzzleMix(Given(score), 1.0, True, 4, 2, 0.0, 0.0, 1e4, None)(x, source, context())
    assert torch.equal(owner[:, 0].mean(dim=(1, 2)), (drawn > 0.5).float())


def transported(x: Tensor, score: Tensor, shown: Tensor, price: float) -> Tensor:
    return moved(x, moves_of(score, shown, price), score.shape[1])


def test_transport_brings_to_light_what_the_mask_hides() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    score, shown = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
    score[0, 0, 0] = 1.0  # hidden
    shown[0, 0, 1] = True
    got = transported(x, score, shown, 0.8)[0, 0, ::2, ::2]
    assert got[0, 1] == 0 and sorted(got.flatten().tolist()) == list(range(16))
    assert (got != x[0, 0, ::2, ::2]).sum() == 2  # the two changed places
    assert torch.equal(transported(x, score, shown, 100.0), x)  # too far
    assert torch.equal(transported(x, score, torch.ones_like(shown), 0.8), x)  # all is seen
    many, random = images(6), torch.rand(6, 4, 4, generator=seeded(7))
    there = transported(many, random / random.sum(dim=(1, 2), keepdim=True), random > 0.5, 0.05)
    tiles = [y.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(6, 16, -1) for y in (many, there)]
    same = (tiles[1][:, :, None] == tiles[0][:, None]).all(dim=3)  # [6, places, cells]
    assert (same.sum(dim=2) == 1).all() and (same.sum(dim=1) == 1).float().mean() > 0.9
    mixed, owner = PuzzleMix(Given(random), 1.0, True, 4, 2, 0.0, 0.0, 0.0, 0.8)(many, next_one(6), context())
    assert mixed.shape == many.shape and owner.shape == (6, 2, 16, 16)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Mixing(
                ManifoldMixup(1.0, True, [0]), Reversed(), [0], False, 1, 0, 1, labels=ScoreMass(Activation())
            ),
            "mixer.labels is ScoreMass, which weighs pixels, but ManifoldMixup mixes inside the student: "
            "set mixer.labels",
        ),
        (lambda: SpectralResidual(2, 1.0), "size is 2: it must be at least 3"),
        (lambda: Gradient(-1.0), "sigma is -1.0: it must be at least 0"),
        (lambda: AttentiveMix(Activation(), 0.0, 8.0, True, 4), "alpha is 0.0: it must be above 0"),
        (lambda: AttentiveMix(Activation(), 1.0, 8.0, True, 1), "grid is 1: it must be at least 2"),
        (lambda: PuzzleMix(Activation(), 1.0, True, 1, 3, 0, 0, 0, None), "blocks is 1: it must be between 2 and 64"),
        (lambda: PuzzleMix(Activation(), 1.0, True, 8, 3, 0, 0, 0, None), "levels ** blocks must be at most 1024"),
        (lambda: PuzzleMix(Activation(), 1.0, True, 4, 3, 0, -1, 0, None), "gamma is -1: it must be at least 0"),
        (
            lambda: AttentiveMix(SpectralResidual(8, 1.0), 1.0, 8.0, True, 32)(images(), next_one(5), context()),
            "mixer.rule.grid is 32, but the views have 16 x 16 pixels",
        ),
        (
            lambda: PuzzleMix(SpectralResidual(8, 1.0), 1.0, True, 3, 3, 0, 0, 0, 0.8)(
                images(), next_one(5), context()
            ),
            "mixer.rule.blocks is 3, which does not divide views of 16 x 16 pixels",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_label_laws_against_loops(count: int) -> None:
    network, x = encoder(True), images(count)
    cut, area = (
        Mixing(CutMix(1.0, True, False), Reversed(), [0], False, 1.0, 0.0, 1.0, labels=law)
        for law in (AttentionShare(ClassAttention()), None)
    )
    massive = Mixing(CutMix(1.0, True, False), Reversed(), [0], False, 1.0, 0.0, 1.0, labels=ScoreMass(Activation()))
    batch = Batch([x], torch.arange(count))
    (mixed, mix), (_, plain), (_, mass) = (m.mixed(batch, 0, context(network)) for m in (cut, area, massive))
    attention, activation = ClassAttention()(mixed, context(network)), Activation()(x, context(network))
    for b in range(count):
        shown, seen = [0.0, 0.0], [0.0, 0.0]
        for p, i, j in itertools.product(range(2), range(4), range(4)):
            part = plain.owner[b, p, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean().item()
            seen[p] += part * attention[b, i, j].item()
            shown[p] += part * activation[plain.source[b, p], i, j].item()
        for p in range(2):
            assert mix.share[b, p].item() == pytest.approx((plain.share[b, p].item() + seen[p]) / 2, abs=1e-5)
            assert mass.share[b, p].item() == pytest.approx(shown[p] / sum(shown), abs=1e-5)
    for record in (mix, mass):
        torch.testing.assert_close(record.share.sum(dim=1), torch.ones(count))
        assert record.share.min() >= 0 and record.share.max() <= 1
    if count % 2:  # the middle sample is its own partner
        assert mix.share[count // 2].tolist() == mass.share[count // 2].tolist() == [1, 0]
    else:
        assert (mix.share != plain.share).any() and (mass.share != plain.share).any()


def test_score_mass_of_a_partner_that_is_resized_is_all_of_it() -> None:
    """The partner is whole, wherever it lies: its mass is 1, against what of the own score is not covered."""
    score = torch.rand(4, 16, 16, generator=seeded(2))
    score = score / score.sum(dim=(1, 2), keepdim=True)
    batch = Batch([images(4)], torch.arange(4))
    switch = Switch([CutMix(1.0, True, False), ResizeMix(0.1, 0.8, True)], [1, 1], True)
    for rule in (ResizeMix(0.1, 0.8, True), switch):
        mixer = Mixing(rule, Reversed(), [0], False, 1.0, 0.0, 1.0, labels=ScoreMass(Given(score)))
        _, mix = mixer.mixed(batch, 0, context())
        assert mix.owner is not None and mix.taken is not None
        whole = mix.taken[:, 1].flatten(1).all(dim=1).tolist()
        assert (True in whole) and (rule is not switch or False in whole)
        for b in range(4):
            own = float((score[b] * mix.owner[b, 0]).sum())
            other = 1.0 if whole[b] else float((score[3 - b] * mix.owner[b, 1]).sum())
            assert mix.share[b].tolist() == pytest.approx([own / (own + other), other / (own + other)], abs=1e-5)


def test_score_mass_of_cells_that_were_moved_is_where_they_came_from() -> None:
    """The reference follows each cell by its pixels; one that two places show counts as the better of them shows it."""
    x = torch.randn(6, 1, 16, 16, generator=seeded(3))
    score = torch.rand(6, 4, 4, generator=seeded(4)) ** 4
    score = score / score.sum(dim=(1, 2), keepdim=True)
    law, rule = ScoreMass(Given(score)), PuzzleMix(Given(score), 1.0, True, 4, 2, 0.0, 0.0, 0.5, 0.05)
    mixed, mix = Mixing(rule, Reversed(), [0], False, 1.0, 0.0, 1.0, labels=law).mixed(
        Batch([x], torch.arange(6)), 0, context()
    )
    strange, places = 0, [(4 * i, 4 * j) for i, j in itertools.product(range(4), range(4))]
    for b in range(6):
        mass = [0.0, 0.0]
        for p, source in enumerate((b, 5 - b)):
            for i, j in places:
                cell = x[source, 0, i : i + 4, j : j + 4]
                seen = [at for at in places if torch.equal(mixed[b, 0, at[0] : at[0] + 4, at[1] : at[1] + 4], cell)]
                strange += seen not in ([], [(i, j)])
                mass[p] += float(score[source, i // 4, j // 4]) * bool(seen)
        assert mix.share[b].tolist() == pytest.approx([m / sum(mass) for m in mass], abs=1e-5)
    assert strange > 3  # cells have moved
    moves = torch.tensor([[1, 1, 2, 0]])
    assert left(torch.tensor([[[0.2, 0.5], [0.3, 0.0]]]), moves).tolist() == [[[0.0, 0.5], [pytest.approx(0.3), 0.0]]]


def test_label_laws_where_all_pixels_are_of_both_and_where_no_score_is_shown() -> None:
    network, x = encoder(True), images(4)
    law = AttentionShare(ClassAttention())
    mixer = Mixing(Mixup(1.0, True, False), Reversed(), [0], False, 1.0, 0.0, 1.0, labels=law)
    _, mix = mixer.mixed(Batch([x], torch.arange(4)), 0, context(network))
    torch.testing.assert_close(mix.share, mix.owner.mean(dim=(2, 3)))
    corner = torch.zeros(1, 2, 2)
    corner[0, 0, 0] = 1.0
    owner = torch.zeros(2, 2, 16, 16)
    owner[0, 1], owner[0, 0, 8:, 8:], owner[0, 1, 8:, 8:] = 1.0, 1.0, 0.0
    owner[1, 0] = 1.0
    mix = mix._replace(source=torch.tensor([[0, 1], [1, 0]]), share=owner.mean(dim=(2, 3)), owner=owner)
    beyond = torch.cat([corner, corner.flip(1, 2)])  # sample 0 has its score in one corner, sample 1 in the other
    assert ScoreMass(Given(beyond))(x[:2], mix, context())[0].tolist() == [0.25, 0.75]  # nothing is shown: the area
    assert ScoreMass(Given(beyond.flip(0)))(x[:2], mix, context())[0].tolist() == [0.5, 0.5]


VIT_TINY = ("backbone=vit_tiny", "backbone.options.depth=1", "+backbone.options.embed_dim=24")


@pytest.mark.parametrize(
    ("mixer", "half", "overrides"),
    [
        ("saliencymix", False, ()),
        ("attentivemix", True, ("data.micro_batch_size=3",)),
        ("puzzlemix", True, ()),
        ("puzzlemix", False, ("data.micro_batch_size=3",)),
        ("transmix", True, VIT_TINY),
        ("tokenmix", False, ()),
        ("smmix", True, VIT_TINY),
        ("snapmix", True, ()),
        ("guidedmixup", True, ()),
    ],
)
def test_a_step_with_a_mixer_that_looks(mixer: str, half: bool, overrides: tuple[str, ...]) -> None:
    """No wait for the device, every gradient there, statistics updated by the step alone; also in half precision."""
    cfg = small("simclr", f"mixer={mixer}", *overrides)
    data = build_data(cfg).pretrain
    module = build_module(cfg, True, data.shape[0])
    index = torch.arange(7)
    samples = Samples(data.rows[index], index, None if data.label is None else data.label[index])
    views = module.views(samples).views
    module.views.forward = lambda samples: Batch(views, samples.index, samples.label)  # type: ignore[method-assign]
    with Reads() as reads, torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = module.losses(samples, Clock(0, 0, 10))["loss"]
    loss.backward()
    assert loss.isfinite() and reads.seen == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.student.parameters())
    moved = [p.grad.abs().sum().item() > 0 for p in module.student.backbone.parameters()]
    assert sum(moved) >= len(moved) - 1  # the bias of a ViT's keys has none
    norms = [m for m in module.student.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    times = 3 if "data.micro_batch_size=3" in overrides else 1
    assert norms and {int(m.num_batches_tracked) for m in norms} == {times}
    assert module.student.training
