"""Checkpoints in the layouts that others save: the same backbone comes out of each, and a wrong one is refused."""

import argparse
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from ssl_framework.models.layouts import fitted, read_content

State = dict[str, Tensor]


def resnet(seed: int, in_chans: int = 3) -> ResNet:
    """A ResNet of four thin blocks."""
    torch.manual_seed(seed)
    net = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, in_chans=in_chans, channels=(4, 4, 8, 8))
    net.default_cfg = {"first_conv": "conv1"}  # as timm.create_model notes it
    return net


def vit(seed: int, **options: Any) -> nn.Module:
    """timm's ViT for tests."""
    torch.manual_seed(seed)
    net = timm.create_model("test_vit", num_classes=0, **{"img_size": 32, **options})
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def below(prefix: str, state: State) -> State:
    """Every name with a prefix."""
    return {prefix + name: x for name, x in state.items()}


def another(state: State) -> State:
    """A copy that must not be taken."""
    return {name: x + 1 if x.is_floating_point() else x for name, x in state.items()}


HEAD = {"fc.weight": torch.ones(10, 8), "fc.bias": torch.ones(10)}
MLP = {"0.weight": torch.ones(8, 8), "2.weight": torch.ones(4, 8)}


def torchvision_vit(state: State) -> State:
    """The names of torchvision's VisionTransformer."""
    table = [
        ("cls_token", "class_token"),
        ("patch_embed.proj", "conv_proj"),
        ("pos_embed", "encoder.pos_embedding"),
        (r"^norm\.", "encoder.ln."),
        (r"^blocks\.(\d+)", r"encoder.layers.encoder_layer_\1"),
        (r"attn\.qkv\.", "self_attention.in_proj_"),
        (r"attn\.proj", "self_attention.out_proj"),
        (r"norm(\d)", r"ln_\1"),
        (r"mlp\.fc1", "mlp.0"),
        (r"mlp\.fc2", "mlp.3"),
    ]
    found = {}
    for name, x in state.items():
        for pattern, instead in table:
            name = re.sub(pattern, instead, name)
        found[name] = x
    return {**found, "heads.head.weight": torch.ones(10, 64), "heads.head.bias": torch.ones(10)}


def clip_vit(state: State) -> State:
    """The names of a CLIP's image tower, its class embedding a vector, beside a text tower."""
    table = [
        ("^cls_token", "class_embedding"),
        ("^pos_embed", "positional_embedding"),
        ("^patch_embed.proj", "conv1"),
        ("^norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."),
        ("^blocks", "transformer.resblocks"),
        (r"attn\.qkv\.", "attn.in_proj_"),
        (r"attn\.proj", "attn.out_proj"),
        (r"norm(\d)", r"ln_\1"),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
    ]
    found = {}
    for name, x in state.items():
        for pattern, instead in table:
            name = re.sub(pattern, instead, name)
        flat = name in ("class_embedding", "positional_embedding")
        found[f"visual.{name}"] = x.reshape(x.shape[-2:] if name != "class_embedding" else -1) if flat else x
    text = {"positional_embedding": torch.ones(77, 64), "transformer.resblocks.0.ln_1.weight": torch.ones(64)}
    return {**found, "visual.proj": torch.ones(64, 32), **text, "logit_scale": torch.ones(())}


def sequential(state: State) -> State:
    """A ResNet's children without its classifier, numbered."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {f"{numbers[name.split('.')[0]]}.{name.partition('.')[2]}": x for name, x in state.items()}


LAYOUTS: dict[str, tuple[Callable[[int], nn.Module], Callable[[State], Any]]] = {
    "timm with classifier": (resnet, lambda s: {**s, **HEAD}),
    "torchvision, saved by DataParallel": (resnet, lambda s: below("module.", {**s, **HEAD})),
    "MoCo v2": (
        resnet,
        lambda s: {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": {
                **below("module.encoder_k.", another(s)),
                **below("module.encoder_q.", s),
                **below("module.encoder_q.fc.", MLP),
                "module.queue": torch.ones(8, 16),
            },
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
        },
    ),
    "MoCo v3": (
        vit,
        lambda s: {
            "state_dict": {
                **below("module.momentum_encoder.", another(s)),
                **below("module.base_encoder.", s),
                **below("module.base_encoder.head.", MLP),
                **below("module.predictor.", MLP),
            }
        },
    ),
    "DINO": (
        vit,
        lambda s: {
            "student": below("module.backbone.", another(s)),
            "teacher": {**below("backbone.", s), **below("head.mlp.", MLP)},
            "args": argparse.Namespace(arch="vit_small", lr=0.1),
        },
    ),
    "DINOv2": (vit, lambda s: {**s, "mask_token": torch.ones(1, 64)}),
    "MAE": (
        vit,
        lambda s: {
            "model": {
                **s,
                "mask_token": torch.ones(1, 1, 32),
                "decoder_pos_embed": torch.ones(1, 5, 32),
                "decoder_blocks.0.norm1.weight": torch.ones(32),
            }
        },
    ),
    "BYOL": (
        resnet,
        lambda s: {
            **below("target_encoder.net.", another(s)),
            **below("online_encoder.net.", s),
            **below("online_encoder.projector.", MLP),
        },
    ),
    "lightly": (
        resnet,
        lambda s: {
            **below("backbone.", sequential(s)),
            **below("backbone_momentum.", sequential(another(s))),
            **below("projection_head.layers.", MLP),
        },
    ),
    "solo-learn": (
        resnet,
        lambda s: {
            "state_dict": {
                **below("momentum_backbone.", another(s)),
                **below("backbone.", s),
                **below("projector.", MLP),
            },
            "hyper_parameters": {"method": "byol"},
        },
    ),
    "SimCLR re-implementation": (
        resnet,
        lambda s: {"state_dict": {**below("backbone.", s), **below("backbone.fc.", MLP)}},
    ),
    "a nested model": (vit, lambda s: {"model": {"state_dict": below("net.", s)}}),
    "parameters": (vit, lambda s: {name: nn.Parameter(x) for name, x in s.items()}),
    "torchvision's transformer": (vit, torchvision_vit),
    "open_clip's names": (lambda seed: vit(seed, pre_norm=True), clip_vit),
    "open_clip with timm's tower": (
        vit,
        lambda s: {**below("visual.trunk.", s), "text.ln_final.weight": torch.ones(64)},
    ),
    "half precision": (vit, lambda s: {name: x.half() for name, x in s.items()}),
    "without counters": (resnet, lambda s: {name: x for name, x in s.items() if "num_batches" not in name}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backbone_comes_out_whole(layout: str, tmp_path: Path) -> None:
    make, lay_out = LAYOUTS[layout]
    there, here = make(1), make(0)
    expected = there.state_dict()
    path = tmp_path / "weights.pth.tar"
    torch.save(lay_out(expected), path)
    found = fitted(read_content(path), here, "some model")
    here.load_state_dict(found.state)
    tolerance = 1e-3 if layout == "half precision" else 0
    for name, x in here.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(x, expected[name], rtol=tolerance, atol=tolerance)
    assert (
        found.said.startswith(f"{len(expected) - (4 + 5 if layout == 'without counters' else 0)} of")
        or "taken" in found.said
    )


def test_one_line_says_what_was_taken_and_dropped() -> None:
    here, there = resnet(0), resnet(1).state_dict()
    content = {"state_dict": {**below("module.encoder_q.", {**there, **HEAD}), "module.queue": torch.ones(2)}}
    assert fitted(content, here, "x").said == (
        f"{len(there)} of {len(there)} tensors taken below state_dict.module.encoder_q; dropped fc; 1 other left out"
    )


def test_patches_and_positions_are_resized_as_timm_does() -> None:
    there = vit(1).state_dict()
    here = vit(0, img_size=48, patch_size=8)
    found = fitted(there, here, "x")
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    positions = resample_abs_pos_embed(there["pos_embed"], new_size=[6, 6], old_size=[2, 2], num_prefix_tokens=1)
    torch.testing.assert_close(found.state["pos_embed"], positions)
    patches = resample_patch_embed(there["patch_embed.proj.weight"], [8, 8])
    torch.testing.assert_close(found.state["patch_embed.proj.weight"], patches)
    assert "pos_embed, patch_embed.proj.weight resized" in found.said


@pytest.mark.parametrize("channels", [1, 5])
def test_a_first_convolution_takes_other_channels_as_timm_does(channels: int) -> None:
    there = resnet(1).state_dict()
    weight = fitted(there, resnet(0, channels), "x").state["conv1.weight"]
    colours = there["conv1.weight"]  # [64, 3, 7, 7]
    repeated = torch.cat([colours, colours], 1)[:, :5] * 3 / 5  # as strong an answer to five times the same band
    torch.testing.assert_close(weight, colours.sum(1, keepdim=True) if channels == 1 else repeated)


def test_another_network_is_refused_with_its_name() -> None:
    there = timm.create_model("resnet34", num_classes=10).state_dict()
    with pytest.raises(
        ValueError, match=r"does not fit resnet18: layer1.2.conv1.weight has no place here \(and \d+ more\)"
    ):
        fitted(there, timm.create_model("resnet18", num_classes=0), "resnet18")
    with pytest.raises(ValueError, match=r"those of timm's resnet34: set backbone.name=resnet34\)"):
        fitted(there, timm.create_model("resnet18", num_classes=0), "resnet18")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: {k: x for k, x in s.items() if not k.startswith("layer4")},
            "layer4.0.conv1.weight is missing there",
        ),
        (lambda s: {**s, "layer4.0.conv2.weight": torch.ones(2, 2)}, "layer4.0.conv2.weight is 2 x 2 there and 8 x 8"),
        (lambda s: {**s, "layer4.1.conv1.weight": torch.ones(2, 2)}, "layer4.1.conv1.weight has no place here"),
        (lambda s: {"a": torch.ones(2)}, "it holds no weight of some model: its names are a"),
        (lambda s: {}, "it holds no weights: save the model"),
    ],
)
def test_a_misfit_says_which_name(change: Callable[[State], State], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        fitted(change(resnet(1).state_dict()), resnet(0), "some model")


class Payload:
    """Runs a function where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return shutil.copyfile, ("w.ckpt", "ran")


def test_foreign_objects_beside_the_weights_become_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = resnet(1).state_dict()
    torch.save({"state_dict": state, "payload": Payload(), "args": argparse.Namespace(x=Payload())}, "w.ckpt")
    found = fitted(read_content(Path("w.ckpt")), resnet(0), "x").state
    torch.testing.assert_close(found["layer4.0.conv1.weight"], state["layer4.0.conv1.weight"])
    assert not Path("ran").exists()


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("weights")
    torch.save([1, 2], tmp_path / "list.pt")
    save_file({"a": torch.ones(2)}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:20])
    for name, said in (
        ("text.pth", "was not loaded: it is damaged, or holds more than tensors"),
        ("list.pt", "holds no weights but a list: save"),
        ("cut.safetensors", "is no .safetensors file"),
    ):
        with pytest.raises(ValueError, match=said):
            read_content(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no file of weights"):
        read_content(tmp_path / "nowhere.pth")
