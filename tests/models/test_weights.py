"""A run that begins with the backbone of another one: from its folder or an exported file, and never when resumed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssl_framework.build import build_module
from ssl_framework.exporting import export
from ssl_framework.loading import load_run
from ssl_framework.models.encoder import EMATeacher
from ssl_framework.models.weights import load_checkpoint, prefix_of, read_weights
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import RunFolder, read_json
from ssl_framework.training.parts import begin_with_weights
from tests.small_runs import run_in, small


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "run"
    run_in(folder, small("simclr", "trainer.max_steps=2"))
    export(folder, folder / "backbone.safetensors")
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    prefix = "student.backbone.net."
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}


def begun(method: str, weights: Path, *overrides: str) -> SSLModule:
    module = build_module(small(method, f"backbone.weights={weights}", *overrides), True, 48)
    begin_with_weights(module)
    return module


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_backbone_is_that_of_the_run_or_the_file(kind: str, trained: Path) -> None:
    module = begun("supcon", trained if kind == "folder" else trained / "backbone.safetensors")
    own, expected = module.student.backbone.net.state_dict(), weights_of(trained)
    assert own.keys() == expected.keys() and len(own) > 20
    for name in own:
        assert torch.equal(own[name], expected[name])
    fresh = build_module(small("supcon"), True)
    assert not torch.equal(fresh.student.backbone.net.features[0].weight, expected["features.0.weight"])


def test_the_teacher_and_the_backbone_beside_begin_with_them_too(trained: Path) -> None:
    first = weights_of(trained)["features.0.weight"]
    teacher = begun("byol", trained).teacher
    assert isinstance(teacher, EMATeacher) and torch.equal(teacher.encoder.backbone.net.features[0].weight, first)
    beside = begun("sepclr", trained).student.beside
    assert len(beside) > 0
    assert all(torch.equal(each.net.features[0].weight, first) for each in beside.values())  # type: ignore[union-attr]


def test_a_run_begins_with_them_and_a_resumed_one_needs_them_no_more(trained: Path, tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "run"
    shutil.copytree(trained, source)
    scored = ("evaluation=frozen", "evaluation.probes.knn.k=5", "evaluation.probes.linear=null")
    frozen = ("optimizer.lr_per_256=1e-12", "optimizer.weight_decay=0", f"backbone.weights={source}", *scored)
    run_in(folder, small("supcon", *frozen, "trainer.max_steps=2"))
    got, expected = weights_of(folder), weights_of(source)
    torch.testing.assert_close(got["features.0.weight"], expected["features.0.weight"])
    shutil.rmtree(source)
    again = run_in(folder, small("supcon", *frozen, "trainer.max_steps=3"), resume=True)
    assert again is None and read_json(folder / "result.json")["resumed_at"] == 2
    torch.testing.assert_close(weights_of(folder)["features.0.weight"], expected["features.0.weight"])
    _, module = load_run(folder, [])  # nor does a later evaluation
    assert torch.equal(module.student.backbone.net.features[0].weight, weights_of(folder)["features.0.weight"])
    # The reference stays the untrained net of the seed, whatever the run began with.
    run_in(tmp_path / "plain", small("supcon", *scored, "trainer.max_steps=1"))
    baselines = read_json(folder / "result.json")["baselines"]
    assert baselines.pop("before") and baselines == read_json(tmp_path / "plain" / "result.json")["baselines"]


def test_what_does_not_fit_is_refused_in_one_sentence(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"backbone\.weights is .*nowhere, which does not exist"):
        begun("simclr", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        begun("simclr", tmp_path / "empty")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04not weights")
    with pytest.raises(ValueError, match=r"pickle.pt was not loaded: it is damaged, or holds more than"):
        begun("simclr", tmp_path / "pickle.pt")
    file = trained / "backbone.safetensors"
    with pytest.raises(ValueError, match=r"does not fit resnet18: .* \(and \d+ more\): choose the backbone"):
        begun("simclr", file, "backbone.name=resnet18")
    state = load_file(file)
    state["features.0.weight"] = state["features.0.weight"][:, :1].contiguous()
    save_file(state, tmp_path / "grey.safetensors")
    with pytest.raises(
        ValueError, match=r"features\.0\.weight is 32 x 1 x 3 x 3 there and 32 x 3 x 3 x 3 here: choose"
    ):
        begun("simclr", tmp_path / "grey.safetensors")


def test_a_new_run_is_refused_before_its_first_step(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        run_in(tmp_path, small("simclr", f"backbone.weights={tmp_path / 'nowhere'}"))
    with pytest.raises(FileNotFoundError, match=r"by name, backbone=timm backbone\.name=resnet18\.a1_in1k"):
        read_weights(Path("hf-hub:timm/resnet18.a1_in1k"))
    assert not (tmp_path / "checkpoints").exists()


def test_of_several_towers_the_config_says_which_is_the_main_one(tmp_path: Path) -> None:
    """Tensors that ranks have written in shares come in the order of their names."""
    file = RunFolder(tmp_path).config_file
    file.write_text("student: {main: wave, others: {text: {}}}")
    assert prefix_of(RunFolder(tmp_path)) == "student.towers.wave.backbone.net."
    file.write_text("student: {towers: {wave: {}, text: {}}}")
    assert prefix_of(RunFolder(tmp_path)) == "student.towers.wave.backbone.net."
    file.write_text("student: {backbone: {}}")
    assert prefix_of(RunFolder(tmp_path)) == "student.backbone.net."
