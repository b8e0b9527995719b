"""Heads that keep places apart, the maps they read, and what is refused where there are none."""

import pytest
import torch

from ssl_framework.build import build_module
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.dense_heads import DenseHead, Prototypes
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.heads import MLPHead, built
from tests.small_runs import small
from tests.test_wiring import refused

VIT = ("backbone=vit_tiny", "backbone.options.depth=2")


def test_a_dense_head_is_an_mlp_at_every_position() -> None:
    torch.manual_seed(0)
    dense = built(DenseHead("map", [5], 4), {"map": 3})
    flat = built(MLPHead("rows", [5], 4), {"rows": 3})
    flat.load_state_dict({name: x.flatten(1) if x.ndim == 4 else x for name, x in dense.state_dict().items()})
    x = torch.randn(6, 3, 2, 3)
    rows = flat({"rows": x.permute(0, 2, 3, 1).flatten(0, 2)})  # [B * h * w, D]
    torch.testing.assert_close(dense({"map": x}).permute(0, 2, 3, 1).flatten(0, 2), rows)
    assert [type(layer).__name__ for layer in built(DenseHead("map", [5], 4, False, True), {"map": 3}).layers] == [
        "Conv2d", "GELU", "Conv2d"
    ]  # fmt: skip


def test_prototypes_give_cosines() -> None:
    head = built(Prototypes("x", 4), {"x": 3})
    x = torch.randn(2, 3, 1, 2)
    scores = head({"x": x})
    assert scores.shape == (2, 4, 1, 2)
    expected = torch.nn.functional.cosine_similarity(x[1, :, 0, 1], head.rows, dim=1)
    torch.testing.assert_close(scores[1, :, 0, 1], expected)


TOKENS = {"tokens": 192, "patches": 192}


@pytest.mark.parametrize(
    ("name", "size", "options", "dims"),
    [
        ("ssl_tiny", 32, {}, {"map": 192}),
        ("ssl_tiny", 8, {}, {}),  # one position
        ("ssl_mlp", 8, {}, {}),
        ("vit_tiny_patch16_224", 32, {"img_size": 32, "patch_size": 8, "depth": 1}, {**TOKENS, "map": 192}),
        ("vit_tiny_patch16_224", 16, {"img_size": 16, "depth": 1}, TOKENS),  # one patch
    ],
)
def test_a_backbone_says_what_keeps_places_apart(name: str, size: int, options: dict, dims: dict) -> None:
    assert Backbone(name, None, size, 3, options=options).dense_dims == dims


def test_a_map_is_made_of_tokens_where_somebody_reads_it() -> None:
    backbone = Backbone("vit_tiny_patch16_224", None, 32, 3, options={"img_size": 32, "patch_size": 8, "depth": 1})
    x = torch.randn(2, 3, 32, 32)
    read = Encoder(backbone, {"dense": DenseHead("map", [], 4)}).eval()
    outputs = read([x])[0]
    assert outputs is not None and outputs["dense"].shape == (2, 4, 4, 4)
    torch.testing.assert_close(outputs["map"], backbone.spatial(x))
    asked = Encoder(backbone, {}).eval()
    assert "map" not in asked.encode(x)
    asked.show(["map", "block_1"])
    outputs = asked.encode(x)
    torch.testing.assert_close(outputs["map"], backbone.spatial(x))
    assert outputs["block_1"].shape == (2, 192, 4, 4) and asked.dims["block_1"] == 192
    block, whole = (outputs[name].permute(0, 2, 3, 1) for name in ("block_1", "map"))  # [B, h, w, D] each
    torch.testing.assert_close(backbone.net.norm(block), whole)


@pytest.mark.parametrize("method", ["densecl", "obow"])
def test_dense_methods_run_on_transformers(method: str) -> None:
    module = build_module(small(method, *VIT), True)
    assert module.student.dims["map"] == 192


def test_what_does_not_go_with_maps_is_refused() -> None:
    assert refused("method=pixpro", "data.micro_batch_size=4") == (
        "data.micro_batch_size is 4, but PixPro reads maps, of which micro-batches keep nothing: set "
        "data.micro_batch_size=null or choose another objective"
    )
    message = refused("method=pixpro", "backbone=mlp")
    assert message.startswith("a head has source=map, but the encoder offers ['pooled'] at this point: choose another")
    two = ("views=mocov2", "student_views=[1]", "objective.crops=[1]", "objective.levels=[map]")
    message = refused("method=obow", "backbone=mlp", *two)
    assert message.startswith("OBoW reads map of the teacher, which ssl_mlp has not: choose another backbone, such as")
    message = refused("method=obow", "objective.levels=[block_9]")
    assert message.startswith("objective, which reads block_9, names 9, but ssl_tiny has the blocks 1 to 4")
    message = refused("method=densecl", "objective.dense_head=map")
    assert "which nothing would train" in message
