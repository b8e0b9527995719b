"""Hiding patches inside a transformer: what a pass sees, where tokens come from, and what is refused."""

import copy

import pytest
import timm
import torch
from torch import Tensor

from ssl_framework.build import build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.evaluation.during_training.online_linear import check_clean_view
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.patch_heads import MixtureDecoder, PatchDecoder, PatchPredictor, PixelHead, positions
from ssl_framework.models.patches import spread, visible
from ssl_framework.types import Clock
from tests.small_runs import small
from tests.test_wiring import refused

TINY = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
MASK = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)).argsort(dim=1) < 10  # [3, 16], ten hidden in each


def backbone(masked_tokens: str | None, name: str = "vit_tiny_patch16_224", **options: object) -> Backbone:
    torch.manual_seed(0)
    made = Backbone(name, None, 8, 3, {**TINY, **options}, masked_tokens=masked_tokens)  # type: ignore[arg-type]
    return made.eval()


def pictures(seed: int = 0) -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def changed(x: Tensor, mask: Tensor) -> Tensor:
    """The pictures with other pixels where patches are hidden."""
    pixels = mask.view(-1, 4, 4).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, None]  # [3, 1, 8, 8]
    return torch.where(pixels, pictures(1), x)


NETS = ["vit_tiny_patch16_224", "vit_tiny_patch16_224.dynamic", "deit3_small_patch16_224", "vit_base_patch16_clip_224"]


def of_kind(masked_tokens: str, net: str) -> Backbone:
    """Class token with a position and without, positions of any size, and a norm in front of the blocks."""
    name, _, dynamic = net.partition(".")
    return backbone(masked_tokens, name, **({"dynamic_img_size": True} if dynamic else {}))


@pytest.mark.parametrize("masked_tokens", ["drop", "replace"])
@pytest.mark.parametrize("net", NETS)
def test_a_pass_does_not_see_what_is_hidden(net: str, masked_tokens: str) -> None:
    own = of_kind(masked_tokens, net)
    seen, other = own(pictures(), MASK), own(changed(pictures(), MASK), MASK)
    for name in ("pooled", "tokens", "patches"):
        torch.testing.assert_close(seen[name], other[name])
    assert seen["patches"].shape == (3, 6 if masked_tokens == "drop" else 16, 16)
    assert (own(pictures())["tokens"] - own(changed(pictures(), MASK))["tokens"]).abs().max() > 0.1


@pytest.mark.parametrize("net", NETS)
def test_dropped_patches_leave_the_others_at_their_places(net: str) -> None:
    """As the net's own pass over the tokens that stay, each with its position."""
    own = of_kind("drop", net)
    x = own.net._pos_embed(own.net.patch_embed(pictures()))  # [3, 17, 16]
    kept = [torch.cat([x[b, :1], x[b, 1:][~MASK[b]]]) for b in range(3)]
    expected = own.net.norm(own.net.blocks(own.net.norm_pre(torch.stack(kept))))
    torch.testing.assert_close(own(pictures(), MASK)["tokens"], expected)


def test_replaced_patches_are_the_token_with_their_positions() -> None:
    own = backbone("replace")
    embedded = own.net.patch_embed(pictures())
    assert own.mask_token is not None
    embedded = torch.where(MASK[..., None], own.mask_token, embedded)
    expected = own.net.norm(own.net.blocks(own.net._pos_embed(embedded)))
    torch.testing.assert_close(own(pictures(), MASK)["tokens"], expected)


@pytest.mark.parametrize("masked_tokens", ["drop", "replace"])
def test_nothing_of_a_pass_stays(masked_tokens: str) -> None:
    """Without a mask the net is timm's, before and after; so are the names of its weights."""
    own = backbone(masked_tokens)
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).eval()  # type: ignore[arg-type]
    plain.load_state_dict(own.net.state_dict())
    own(pictures(), MASK)
    assert torch.equal(own(pictures())["tokens"], plain.forward_features(pictures()))
    outside = {name for name, _ in own.named_parameters()} - {f"net.{name}" for name, _ in plain.named_parameters()}
    assert outside == ({"mask_token"} if masked_tokens == "replace" else set())


def test_marked_patches_are_seen_with_the_token_added() -> None:
    own = backbone("mark")
    assert own.mask_token is not None
    embedded = own.net.patch_embed(pictures()) + MASK[..., None] * own.mask_token
    expected = own.net.norm(own.net.blocks(own.net._pos_embed(embedded)))
    torch.testing.assert_close(own(pictures(), MASK)["tokens"], expected)
    head = MixtureDecoder("patches", 8, 1, 2)
    found = Encoder(own, {"decoder": head})
    assert found.encode(pictures(), mask=MASK)["decoder"].shape == (3, 2, 16, 12)
    assert found.encode(pictures())["decoder"].shape == (3, 2, 16, 12)


def test_the_last_blocks_are_given_without_their_class_token() -> None:
    torch.manual_seed(0)
    own = Backbone("vit_tiny_patch16_224", None, 8, 3, TINY, last_layers=2).eval()
    layers = own(pictures())["layers"]
    assert layers.shape == (3, 2, 16, 16)
    torch.testing.assert_close(own.net.norm(layers[:, 1]), own(pictures())["patches"])


def test_views_that_are_masked_and_others_go_apart() -> None:
    encoder = Encoder(backbone("drop"), {})
    views = [pictures(0), pictures(1), pictures(2)]
    out = encoder(views, None, [MASK, None, MASK.flip(1)])
    assert encoder.groups(views, None, [MASK, None, MASK]) == [[0, 2], [1]]
    for v, mask in enumerate((MASK, None, MASK.flip(1))):
        alone = encoder.encode(views[v], mask=mask)
        assert out[v] is not None and out[v].keys() == alone.keys()  # type: ignore[union-attr]
        for name, x in alone.items():
            torch.testing.assert_close(out[v][name], x)  # type: ignore[index]


def test_tokens_come_to_their_places() -> None:
    x, token = torch.randn(3, 6, 5), torch.full((5,), 7.0)
    placed = spread(x, MASK, token)
    for b in range(3):
        assert torch.equal(placed[b][~MASK[b]], x[b]) and (placed[b][MASK[b]] == 7).all()
        assert visible(MASK)[b].tolist() == (~MASK[b]).nonzero().flatten().tolist()


def test_positions_are_sines_and_cosines_of_column_and_row() -> None:
    found = positions(9, 8, torch.zeros(1, dtype=torch.float64))
    for n in range(9):
        row, column = divmod(n, 3)
        angles = [(place * 10000.0 ** (-k / 2)) for place in (column, row) for k in range(2)]
        x, y = torch.tensor(angles[:2]), torch.tensor(angles[2:])
        expected = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()])
        torch.testing.assert_close(found[n].float(), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="needs a square grid of patches, but a view has 6"):
        positions(6, 8, found)


@pytest.mark.parametrize("masked_tokens", ["drop", "replace", None])
def test_heads_work_with_a_mask_and_without(masked_tokens: str | None) -> None:
    heads = {"decoder": PatchDecoder("patches", 8, 1, 2), "predictor": PatchPredictor("patches")}
    heads |= {} if masked_tokens == "drop" else {"pixels": PixelHead("patches")}
    own = Encoder(backbone(masked_tokens), copy.deepcopy(heads))  # type: ignore[arg-type]
    for mask in [None, *([MASK] if masked_tokens else [])]:
        out = own.encode(pictures(), mask=mask)
        assert out["decoder"].shape == (3, 16, 2 * 2 * 3) and ("mask" in out) == (mask is not None)
        assert masked_tokens == "drop" or out["pixels"].shape == (3, 16, 12)
    assert (own.heads["decoder"].token is not None) == (masked_tokens == "drop")


# What is refused when a run is built


REFUSED = {
    "method=mae masker=none": (
        "MAE needs masks, but the config has masker=none: choose masker=block, ijepa, image_sound, mixture, "
        "random, span or another objective"
    ),
    "method=simclr backbone=vit_tiny masker=random backbone.masked_tokens=drop": (
        "SimCLR does not read which patches RandomMask hides: choose method=data2vec, dinov2, hicmae, ibot, ijepa, "
    ),
    "method=simclr backbone=vit_tiny backbone.masked_tokens=drop": (
        "backbone.masked_tokens is drop, but the config has masker=none, so nothing is hidden: set "
    ),
    "method=mae backbone.masked_tokens=null": (
        "RandomMask hides patches, but backbone.masked_tokens is null: set it to drop or replace"
    ),
    "method=simmim backbone.masked_tokens=drop": (
        "SimMIM needs backbone.masked_tokens=replace, but it is drop: set it, or choose another objective"
    ),
    "method=ijepa masker=random": (
        "IJEPA needs blocks to be predicted, which RandomMask does not name: choose masker=ijepa or another objective"
    ),
    "method=mae masker=block masker.ratio=[0.1,0.5]": (
        "BlockMask hides more patches in some samples than in others, but backbone.masked_tokens is drop"
    ),
    "method=mae backbone.masked_tokens=mark": (
        "RandomMask shows no other patches at the hidden places, but backbone.masked_tokens is mark: set it to drop or "
        "replace, or choose masker=mixture"
    ),
    "method=mae masker=mixture masker.ratio=0.5": (
        "MixtureMask shows other patches at the hidden places, but backbone.masked_tokens is drop: set it to mark"
    ),
    "method=mae data.micro_batch_size=4": (
        "data.micro_batch_size is 4, but MAE reads tokens, of which micro-batches keep nothing: set "
    ),
    "method=mae masker.views=[1]": "masker.views names 1, but the student encodes [0]: name some of them",
    "method=mae backbone=resnet18": (
        "backbone.masked_tokens=drop is about the patches of a transformer, but ssl_resnet18_small has none that could "
        "be hidden: choose another backbone, such as vit_tiny"
    ),
    "method=data2vec backbone.last_layers=7": (
        "backbone.last_layers is 7: it goes up to 6, the blocks of vit_tiny_patch16_224"
    ),
    "method=ijepa data.image_size=8": "IJEPAMask needs 4 x 4 patches or more, but a view has 2 x 2",
}
"""Overrides, and how the sentence begins that refuses them."""


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_does_not_fit_is_refused(overrides: str) -> None:
    assert refused(*overrides.split()).startswith(REFUSED[overrides])


def test_a_classifier_beside_training_needs_a_whole_view() -> None:
    module = build_module(small("mae"), True)
    with pytest.raises(ValueError, match=r"learns from a whole view, but RandomMask hides patches of .*\[0\]"):
        check_clean_view(module)
    check_clean_view(build_module(small("ibot", "masker.views=[1]"), True))


def test_a_compiled_encoder_is_refused() -> None:
    module = build_module(small("mae"), True)
    with pytest.raises(ValueError, match=r"trainer\.compile is true, but RandomMask changes the student's pass"):
        module.compile_parts()


def test_the_teacher_sees_everything() -> None:
    module = build_module(small("data2vec"), True)
    seen: list[Tensor | None] = []
    assert module.teacher is not None
    for encoder in (module.student, module.teacher.encoder):
        encoder.backbone.register_forward_pre_hook(lambda net, inputs: seen.append(*(inputs[1:] or (None,))))
    module.losses(take(build_data(small("data2vec")).pretrain, torch.arange(8)), Clock(0, 0, 3))  # type: ignore[arg-type]
    assert [mask is None for mask in seen] == [True, False]
