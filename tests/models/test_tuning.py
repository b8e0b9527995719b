"""A trained backbone stays as it is, and what is learnt beside it does what its paper says."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_framework.exporting import export
from ssl_framework.loading import load_run
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import EMATeacher, Encoder
from ssl_framework.models.heads import MLPHead
from ssl_framework.models.series import SeriesBackbone
from ssl_framework.models.text import TextTransformer
from ssl_framework.models.towers import AlikeTowers
from ssl_framework.models.tuning import Frozen, LoRA, Prefix, Tuning, fold
from ssl_framework.models.weights import read_weights
from tests.small_runs import run_in, small

HEADS = {"projector": MLPHead(source="pooled", hidden=[], out=6)}
TEXTS = torch.tensor([[1, 7, 8, 9, 2, 0, 0], [1, 5, 2, 0, 0, 0, 0], [1, 6, 7, 8, 9, 5, 2]])  # [3, 7]
TUNINGS = {"lora": lambda: LoRA(2, 3.0, "attn"), "prefix": lambda: Prefix(3, 0.5), "frozen": Frozen}


def text(**options: Any) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(20, 7, 8, 2, 2, **options).eval()


def vit(**options: Any) -> Backbone:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return Backbone("vit_tiny_patch16_224", None, 16, 3, sizes, **options).eval()


PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def tuned(backbone: Any, tuning: Tuning) -> Encoder:
    return Encoder(backbone, HEADS, tuning=tuning).eval()


def moved(tuning: Any) -> Any:
    """As after some steps: what begins at zero is not zero any more."""
    with torch.no_grad():
        for p in tuning.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return tuning


@pytest.mark.parametrize(("backbone", "x"), [(text, TEXTS), (vit, PIXELS)])
def test_lora_begins_as_the_network_and_is_then_that_of_the_sums(backbone: Any, x: Tensor) -> None:
    plain, encoder = backbone(), tuned(backbone(), LoRA(2, 3.0, "attn"))
    torch.testing.assert_close(encoder.embed(x), plain(x)["pooled"])
    assert encoder.backbone.net.state_dict().keys() == plain.net.state_dict().keys()
    moved(encoder.backbone.tuning)
    for path, down in encoder.backbone.tuning.down.items():
        up, weight = encoder.backbone.tuning.up[path], plain.net.get_parameter(path.replace("/", "."))
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                weight.data[i, j] += 3.0 / 2 * sum(up[i, r].item() * down[r, j].item() for r in range(2))
    assert len(encoder.backbone.tuning.down) == 4  # queries, keys and values, and the projection behind, of two layers
    for grad in (True, False):  # without a gradient torch has another way through a block
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(encoder.embed(x), plain(x)["pooled"])


def attention(tokens: Tensor, layer: Any, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """Of one text [N, D] with further tokens [P, D] of keys and of values, head by head, in loops: [N, D]; hidden
    [N, N] bool."""
    wq, wk, wv = layer.in_proj_weight.chunk(3)
    bq, bk, bv = layer.in_proj_bias.chunk(3)
    q, k, v = tokens @ wq.T + bq, torch.cat([key, tokens]) @ wk.T + bk, torch.cat([value, tokens]) @ wv.T + bv
    size, heads = layer.head_dim, []
    for head in range(layer.num_heads):
        own = slice(head * size, (head + 1) * size)
        rows = []
        for i, query in enumerate(q):
            seen = [j for j in range(len(k)) if j < len(key) or not hidden[i, j - len(key)]]
            scores = [(query[own] @ k[j, own]).item() / math.sqrt(size) for j in seen]
            total = sum(math.exp(score) for score in scores)
            rows.append(sum(math.exp(s) / total * v[j, own] for s, j in zip(scores, seen, strict=True)))
        heads.append(torch.stack(rows))
    return layer.out_proj(torch.cat(heads, dim=1))


@pytest.mark.parametrize("causal", [True, False])
def test_every_word_sees_the_prefix_beside_the_words_that_it_saw(causal: bool) -> None:
    backbone = text(causal=causal).double()
    encoder = tuned(backbone, Prefix(3, 0.5).double())
    layer, seen = backbone.net.blocks[0], []
    layer.self_attn.register_forward_hook(lambda module, args, out: seen.append((args[0], out[0])))
    encoder.double().embed(TEXTS)
    key, value = (part["blocks/0/self_attn"] for part in (encoder.backbone.tuning.key, encoder.backbone.tuning.value))
    (before, after), padding = seen[0], TEXTS == 0
    for row, words in enumerate((~padding).sum(dim=1).tolist()):
        hidden = padding[row].expand(7, -1) | (torch.ones(7, 7).triu(1).bool() if causal else False)
        expected = attention(before[row], layer.self_attn, key, value, hidden)
        torch.testing.assert_close(after[row, :words], expected[:words])
    longer = torch.nn.functional.pad(TEXTS[:2, :5], (0, 2))
    torch.testing.assert_close(encoder.embed(longer), encoder.embed(TEXTS[:2, :5]))  # whatever padding stands behind


def test_timm_s_layers_see_the_keys_and_values_themselves() -> None:
    encoder = tuned(vit().double(), Prefix(3, 0.5).double())
    layer: Any = encoder.backbone.net.blocks[0].attn
    seen: list[tuple[Tensor, Tensor]] = []
    layer.register_forward_pre_hook(lambda module, args: seen.append((args[0], args[0])))
    encoder.backbone.net.blocks[0].ls1.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    encoder.embed(PIXELS.double())
    x, found = seen[0][0], seen[1][0]  # [3, 5, 8] each
    q, k, v = layer.qkv(x).view(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)  # [3, 2, 5, 4] each
    key, value = (part["blocks/0/attn"] for part in (encoder.backbone.tuning.key, encoder.backbone.tuning.value))
    k, v = (
        torch.cat([a, b.view(3, 2, 4).transpose(0, 1).expand(3, -1, -1, -1)], dim=2) for a, b in ((k, key), (v, value))
    )
    share = (q @ k.transpose(2, 3) / 2).softmax(dim=3)  # [3, 2, 5, 8]
    torch.testing.assert_close(found, layer.proj((share @ v).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("name", TUNINGS)
@pytest.mark.parametrize(("backbone", "x"), [(text, TEXTS), (vit, PIXELS)])
def test_only_what_was_added_and_the_heads_learn(name: str, backbone: Any, x: Tensor) -> None:
    encoder = tuned(backbone(), moved(TUNINGS[name]())).train()
    encoder([x])[0]["projector"].square().sum().backward()  # type: ignore[index]
    learns = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert learns == {n for n, _ in encoder.named_parameters() if n.startswith(("backbone.tuning.", "heads."))}
    assert ("backbone.tuning." in str(sorted(learns))) == (name != "frozen")


@pytest.mark.parametrize("name", ["lora", "prefix"])
def test_a_teacher_has_its_own(name: str) -> None:
    encoder = tuned(text(), TUNINGS[name]())
    teacher = EMATeacher(["projector"], 0.9).follow(encoder)
    moved(encoder.backbone.tuning)
    torch.testing.assert_close(
        teacher.encoder.embed(TEXTS), tuned(text(), TUNINGS[name]()).embed(TEXTS), atol=1, rtol=1
    )
    assert not torch.equal(teacher.encoder.embed(TEXTS), encoder.embed(TEXTS))


def test_a_pass_that_breaks_off_leaves_the_network_as_it_was() -> None:
    encoder = tuned(text(), moved(LoRA(2, 3.0, "attn")))
    with pytest.raises(ValueError, match=r"up to 7 tokens"):
        encoder.embed(torch.ones(2, 9, dtype=torch.int64))
    assert all(isinstance(p, nn.Parameter) for p in encoder.backbone.net.parameters())
    torch.testing.assert_close(
        encoder.backbone.net.blocks[0].self_attn.in_proj_weight, text().net.blocks[0].self_attn.in_proj_weight
    )  # type: ignore[index]


def test_statistics_of_batches_stay_in_training() -> None:
    for tuning, dropped in ((Frozen(), False), (LoRA(2, 3.0, "attn"), True)):
        backbone = text(dropout=0.1)
        backbone.net.further = nn.BatchNorm1d(3)
        encoder = Encoder(backbone, HEADS, tuning=tuning).train()
        encoder([TEXTS])
        assert not backbone.net.further.training and backbone.net.blocks[0].dropout1.training == dropped  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["lora", "frozen"])
def test_folded_it_is_a_plain_backbone_that_gives_the_same(name: str) -> None:
    encoder = tuned(text(), TUNINGS[name]())
    moved(encoder.backbone.tuning)
    expected, backbone = encoder.embed(TEXTS), copy.deepcopy(encoder.backbone)
    fold(backbone)
    assert backbone.state_dict().keys() == text().state_dict().keys()
    assert all(p.requires_grad for p in backbone.parameters())
    torch.testing.assert_close(backbone(TEXTS)["pooled"], expected)


def test_what_cannot_be_tuned_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no matrix of text_transformer_2x8 is called so; it has places, tokens.weight, blocks"
    ):
        tuned(text(), LoRA(2, 3.0, "qkv"))
    series = SeriesBackbone(channels=1, width=4, depth=1, dim=4, kernel=3)
    with pytest.raises(ValueError, match=r"tuning=prefix needs attention layers of torch or timm, which .* has not"):
        tuned(series, Prefix(3, 0.5))
    with pytest.raises(ValueError, match=r"backbone.checkpoint_activations=true repeats parts of it"):
        tuned(vit(checkpoint_activations=True), LoRA(2, 3.0, "attn"))
    with pytest.raises(ValueError, match=r"tuned by prefixes, which no weight of its network can hold"):
        fold(tuned(text(), Prefix(3, 0.5)).backbone)
    with pytest.raises(ValueError, match=r"student.tuning names sound, but there are towers for image and text"):
        AlikeTowers(vit(), HEADS, "image", {"text": text()}, tuning={"sound": Frozen()})


def test_a_tower_is_tuned_by_itself() -> None:
    towers = AlikeTowers(vit(), HEADS, "image", {"text": text()}, tuning={"text": LoRA(2, 3.0, "attn")})
    trains = {name for name, p in towers.named_parameters() if p.requires_grad}
    assert not any(name.startswith("towers.text.backbone.net") for name in trains)
    assert any(name.startswith("towers.image.backbone.net") for name in trains)


def test_a_run_tunes_another_one_and_is_exported_and_gone_on_from_whole(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    one = ("trainer.max_steps=2", "trainer.max_epochs=1")
    assert run_in(first, small("simcse", *one)) is None
    begins = (f"backbone.weights={first}", "tuning=lora", "optimizer.lr_per_256=1.0")
    with pytest.raises(ValueError, match=r"student.tuning keeps the weights of text_transformer_2x64 as they begin"):
        run_in(tmp_path / "none", small("simcse", *one, "tuning=lora"))
    assert run_in(second, small("simcse", *one, *begins)) is None
    _, module = load_run(second, [])
    module.eval()
    assert module.student.backbone.tuning.up["blocks/0/self_attn/in_proj_weight"].abs().max() > 0
    torch.testing.assert_close(module.student.backbone.net.state_dict(), read_weights(first))
    module.student.backbone.net.load_state_dict(load_file(export(second)[0]))
    folded = module.student.backbone.net.state_dict()
    for name, x in read_weights(second).items():
        torch.testing.assert_close(folded[name], x)
    with pytest.raises(ValueError, match=r"tuned by prefixes"):
        assert run_in(tmp_path / "prefix", small("simcse", *one, f"backbone.weights={first}", "tuning=prefix")) is None
        export(tmp_path / "prefix")
