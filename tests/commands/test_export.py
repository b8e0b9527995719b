"""The trained backbone in the formats of other libraries: read back, it gives the same features."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from ssl_framework import exporting
from ssl_framework.build import build_module
from ssl_framework.commands.export import main
from ssl_framework.exporting import TO_TORCHVISION, Trained, export, load, renamed
from ssl_framework.runs.folder import RunFolder, write_json
from tests.small_runs import config, run_in, small


def finished(folder: Path, *overrides: str) -> Path:
    """A run of one step."""
    assert run_in(folder, small("simclr", "trainer.max_epochs=1", "trainer.max_steps=1", *overrides)) is None
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the network for small images."""
    return finished(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of torchvision's ResNet-18."""
    return finished(tmp_path_factory.mktemp("resnet"), "backbone=timm", "backbone.name=resnet18")


@torch.no_grad()
def features(trained: Trained, pixels: Tensor) -> Tensor:
    """What evaluators read of pixels that are whole numbers of 255ths: [B, D]."""
    raw = (pixels * 255).round().to(torch.uint8)
    return trained.module.student.embed(trained.module.views.clean(raw))


def pixels_of(trained: Trained) -> Tensor:
    """[3, C, S, S] in [0, 1], whole numbers of 255ths."""
    return (torch.cat([trained.pixels(), trained.pixels()[:1]]) * 255).round() / 255


def test_the_graph_of_onnx_begins_with_pixels(tiny: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out, said = export(tiny, format="onnx")
    assert out == tiny / "backbone_onnx.onnx" and f"InferenceSession({str(out)!r})" in said
    pixels = pixels_of(load(tiny))
    found = onnxruntime.InferenceSession(str(out)).run(["features"], {"pixels": pixels.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), features(load(tiny), pixels), rtol=1e-4, atol=1e-4)


def test_the_program_of_torch_needs_no_code_of_ours(tiny: Path, tmp_path: Path) -> None:
    out, _ = export(tiny, tmp_path / "net.pt2", "torch")
    pixels = pixels_of(load(tiny))
    found = torch.export.load(out).module()(pixels)
    torch.testing.assert_close(found, features(load(tiny), pixels), rtol=1e-4, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]


def test_torchvision_takes_a_resnet(resnet: Path, tmp_path: Path) -> None:
    _, said = export(resnet, tmp_path / "net.safetensors", "torchvision")
    scope: dict[str, Any] = {}
    exec(f"import torchvision, safetensors.torch\n{said}", scope)
    net = scope["net"].eval()
    net.fc = nn.Identity()
    trained, views = load(resnet), load(resnet).module.views
    pixels = pixels_of(trained)
    with torch.no_grad():
        found = net(views.clean((pixels * 255).to(torch.uint8)))
    torch.testing.assert_close(found, features(trained, pixels), rtol=1e-4, atol=1e-5)


def test_torchvision_takes_a_transformer() -> None:
    torch.manual_seed(0)
    size = {"patch_size": 8, "depth": 2, "num_heads": 2, "embed_dim": 16, "mlp_ratio": 2}
    ours = timm.models.vision_transformer.VisionTransformer(img_size=16, num_classes=0, **size).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs = torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=3).eval()
    theirs.heads = nn.Identity()
    theirs.load_state_dict(renamed(ours.state_dict(), TO_TORCHVISION))
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-4)


def test_detectors_find_their_names(resnet: Path, tmp_path: Path) -> None:
    weights = load(resnet).weights
    out, said = export(resnet, tmp_path / "net.pkl", "detectron2")
    found = pickle.loads(out.read_bytes())
    assert found["matching_heuristics"] is True and f"MODEL.WEIGHTS: {out}" in said
    names = {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.1.conv2.norm.bias": "layer1.1.bn2.bias",
        "res4.0.shortcut.weight": "layer3.0.downsample.0.weight",
        "res5.0.shortcut.norm.weight": "layer4.0.downsample.1.weight",
    }
    assert all(np.array_equal(found["model"][theirs], weights[ours].numpy()) for theirs, ours in names.items())
    assert len(found["model"]) == sum(not name.endswith("num_batches_tracked") for name in weights)
    out, _ = export(resnet, tmp_path / "net.pth", "mmdet")
    state = torch.load(out, weights_only=True)["state_dict"]
    assert {name.removeprefix("backbone.") for name in state} == set(weights)
    assert torch.equal(state["backbone.layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"])


def test_a_folder_for_the_hub_has_a_card_and_is_loaded_by_timm(tiny: Path, tmp_path: Path) -> None:
    result = RunFolder(tiny).read_result()
    write_json(RunFolder(tiny).result_file, {**result, "metrics": {"knn[k=20]/top1|x": 12.345}})
    RunFolder(tiny).write_about({"method": "simclr", "data": "shapes"})
    out, said = export(tiny, tmp_path / "hub", "hub")
    write_json(RunFolder(tiny).result_file, result)
    net = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    trained = load(tiny)
    pixels = pixels_of(trained)
    with torch.no_grad():
        found = net(trained.module.views.clean((pixels * 255).to(torch.uint8)))
    torch.testing.assert_close(found, features(trained, pixels), rtol=1e-4, atol=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == list(trained.cfg.views.mean)
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    text = (out / "README.md").read_text()
    assert "pretrained by simclr on shapes" in text and "| knn[k=20]/top1\\|x | 12.35 |" in text
    assert result["command"] in text and "hf upload <you>/<name>" in said
    with pytest.raises(ValueError, match="exists: format=hub makes a new folder"):
        export(tiny, out, "hub")


@pytest.mark.parametrize("channels", [1, 5])
def test_a_folder_for_the_hub_of_images_of_other_channels(channels: int, tmp_path: Path) -> None:
    """timm would make the weights of three channels fit, which these are not."""
    numbers = [f"data.{key}=[{','.join(['0.5'] * channels)}]" for key in ("mean", "std")]
    cfg = config("data=digits", f"data.channels={channels}", "views=multiband", *numbers)
    module = build_module(cfg, True, 48).eval()
    out = tmp_path / "hub"
    exporting.to_hub(Trained(cfg, module, tmp_path), out)
    net = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    x = torch.randn(2, channels, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(x), module.student.backbone(x)["pooled"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["format=onyx"], "there is no format=onyx (did you mean onnx?): choose timm, torchvision, detectron2, mmdet"),
        (["format=onnx", "out=net.pt"], "out=net.pt is written as onnx: its name must end in .onnx"),
        (["format=torchvision"], "torchvision has no network like ssl_tiny: format=torchvision is for resnet18"),
        (["format=mmdet"], "format=mmdet is for ResNets with a stem of 7 x 7, but this run trained ssl_tiny"),
        (
            ["formats=onnx"],
            "unknown argument among ['formats=onnx']: export takes run=FOLDER, format=NAME",
        ),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(tiny: Path, words: list[str], said: str) -> None:
    before = sorted(tiny.iterdir())
    with pytest.raises(SystemExit) as ended:
        main([f"run={tiny}", *words])
    assert said in str(ended.value) and sorted(tiny.iterdir()) == before


def test_nothing_is_kept_that_differs(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="format=torch: its features differ from the network's by"):
        export(tiny, tmp_path / "net.pt2", "torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ssl_tiny", "ssl_mlp", "ssl_resnet18_small"])
def test_our_networks_have_timms_interface(name: str, tmp_path: Path) -> None:
    from timm.models import save_for_hf

    net = timm.create_model(name, num_classes=0).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = net(x)
        save_for_hf(net, str(tmp_path / "folder"), safe_serialization=True)
        again = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True, num_classes=0).eval()
        assert torch.equal(again(x), features)
        net.reset_classifier(5)
        assert net.num_classes == 5 and torch.equal(net(x), net.get_classifier()(features))
        net.reset_classifier(0)
        assert torch.equal(net(x), features)
    assert timm.data.resolve_model_data_config(net)["input_size"] == (3, 32, 32)
