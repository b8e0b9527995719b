"""Stages that stay as they begin, and learning rates by layer: what changes, and how fast, parameter by parameter."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_class

from ssl_framework.build import build, build_module
from ssl_framework.models.backbone import Backbone
from ssl_framework.optim import OptimizerRecipe
from ssl_framework.runs.groups import CONFIGS
from tests.models.test_weights import weights_of
from tests.small_runs import run_in, small


@pytest.mark.parametrize("file", sorted((CONFIGS / "backbone").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_backbone_config_has_every_key(file: Path) -> None:
    node = yaml.safe_load(file.read_text())
    keys = set(inspect.signature(get_class(node["_target_"])).parameters)
    assert keys == set(node) - {"_target_"} and {"weights"} <= keys


@pytest.mark.parametrize(
    ("name", "count", "frozen"),
    [
        ("resnet18", 1, ("conv1.", "bn1.")),
        ("resnet18", 3, ("conv1.", "bn1.", "layer1.", "layer2.")),
        ("convnext_atto", 2, ("stem.", "stages.0.")),
        ("vit_tiny_patch16_224", 2, ("cls_token", "pos_embed", "patch_embed.", "blocks.0.")),
        ("ssl_tiny", 2, ("features.0.", "features.1.", "features.3.", "features.4.")),
        ("ssl_mlp", 1, ("features.1.", "features.2.")),
    ],
)
def test_the_first_stages_are_out_of_training(name: str, count: int, frozen: tuple[str, ...]) -> None:
    options = {"img_size": 32} if "vit" in name or "mlp" in name else {}
    backbone = Backbone(name, None, 32, 3, options, frozen_stages=count)
    for parameter, weight in backbone.net.named_parameters():
        assert weight.requires_grad == (not parameter.startswith(frozen)), parameter
    for part, module in backbone.train().net.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            assert module.training == (not f"{part}.".startswith(frozen)), part


def test_frozen_weights_and_statistics_stay_and_the_rest_learns(tmp_path: Path) -> None:
    cfg = small("byol", "backbone.frozen_stages=2", "trainer.max_steps=2")
    torch.manual_seed(cfg.seed)
    before = build_module(cfg, True, 48).student.backbone.net.state_dict()
    run_in(tmp_path, cfg)
    after = weights_of(tmp_path)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    still = {name for name in after if int(name.split(".")[1]) < 6}
    assert still and changed == after.keys() - still


def test_more_stages_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frozen_stages is 6, but resnet18 has 5 stages, its stem among them"):
        Backbone("resnet18", None, 32, 3, frozen_stages=6)
    Backbone("resnet18", None, 32, 3, frozen_stages=5)


def rates(module: Any, recipe: OptimizerRecipe) -> dict[str, float]:
    """Name of every parameter of a student -> its learning rate before the schedule."""
    optimizer, _ = recipe.build(module, 256, 10, {}, module.layers_above())
    by_id = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(by_id) == sum(len(group["params"]) for group in optimizer.param_groups)
    return {name: by_id[id(p)] for name, p in module.student.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rates_fall_from_layer_to_layer(optimizer: str) -> None:
    settings = (f"optimizer={optimizer}", "optimizer.layer_decay=0.5", "optimizer.lr_per_256=0.8")
    cfg = small("simclr", *settings, "backbone.frozen_stages=1")
    module = build_module(cfg, True, 48)
    found = rates(module, build(cfg.optimizer))
    heads = {name: rate for name, rate in found.items() if name.startswith("student.heads") or "heads." in name}
    assert heads and set(heads.values()) == {0.8}
    for name, rate in found.items():
        if name.startswith("backbone.net.features."):
            layer = int(name.split(".")[3]) // 3  # four of them: 0 is frozen, 3 lies below the heads
            assert layer > 0 and rate == pytest.approx(0.8 * 0.5 ** (4 - layer)), name
    assert sum(name.startswith("backbone.net.features.") for name in found) == 9


def test_one_rate_makes_the_groups_there_were() -> None:
    cfg = small("simclr", "optimizer=adamw")
    module = build_module(cfg, True, 48)
    optimizer, _ = build(cfg.optimizer).build(module, 256, 10, {}, module.layers_above())
    assert len(optimizer.param_groups) == 2 and module.layers_above() == {}


def test_a_backbone_without_layers_is_refused_by_its_key() -> None:
    module = SimpleNamespace(
        recipe=SimpleNamespace(layer_decay=0.5), student=SimpleNamespace(backbones=[torch.nn.Module()])
    )
    module.student.backbones[0].name = "plain"
    with pytest.raises(ValueError, match=r"optimizer\.layer_decay needs the depth of every parameter, which plain has"):
        type(build_module(small("simclr"), True)).layers_above(module)  # type: ignore[arg-type]
