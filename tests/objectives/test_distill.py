"""The regression to a frozen teacher's features, and runs whose teacher is a run, an exported file or a timm model."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file, save_file

from ssl_framework.build import build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.exporting import export
from ssl_framework.loading import load_run
from ssl_framework.models.frozen_teacher import FrozenTeacher
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.objectives.distill import Distill
from ssl_framework.runs.folder import read_json, read_metrics
from ssl_framework.training.parts import begin_with_weights
from ssl_framework.training.progress import Progress
from ssl_framework.training.run import run
from ssl_framework.types import Clock
from tests.models.test_weights import weights_of
from tests.objectives import loops
from tests.small_runs import run_in, small


def distill(width: int) -> Distill:
    torch.manual_seed(3)
    objective = Distill(4).double()
    objective.meet({"pooled": width})
    return objective.double()


def test_the_loss_is_the_distance_of_unit_vectors_written_as_a_loop() -> None:
    objective = distill(3)
    views = [torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(v)) for v in (0, 1)]
    keys = [torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(v)) for v in (2, 3)]
    total, weight, bias = 0.0, objective.regressor.weight.tolist(), objective.regressor.bias.tolist()
    for view, key in zip(views, keys, strict=True):
        for z, k in zip(view.tolist(), key.tolist(), strict=True):
            p = [b + sum(w * x for w, x in zip(row, z, strict=True)) for row, b in zip(weight, bias, strict=True)]
            norms = sum(x * x for x in p) ** 0.5, sum(x * x for x in k) ** 0.5
            total += sum((x / norms[0] - y / norms[1]) ** 2 for x, y in zip(p, k, strict=True))
    out = objective(loops.outputs(*views), loops.outputs(*keys, head="pooled"), loops.batch(5), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(total / 10, abs=1e-12)
    assert out["cosine"].item() == pytest.approx(1 - total / 20, abs=1e-12)
    assert objective.loss_of(*views, teacher=keys).item() == pytest.approx(total / 10, abs=1e-12)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run_in(folder, small("simclr", "trainer.max_steps=1"))
    export(folder, folder / "exported.safetensors")
    net: Any = timm.create_model("test_vit", num_classes=3)
    save_file(net.state_dict(), folder / "vit.safetensors")
    return folder


VIT = ("backbone@teacher.backbone=timm", "teacher.backbone.name=test_vit", "+teacher.backbone.options={img_size: 32}")


@pytest.mark.parametrize("source", ["run", "exported", "timm"])
def test_the_teacher_is_what_was_trained_before(source: str, teacher: Path) -> None:
    other = {"run": (), "exported": (), "timm": VIT}[source]
    path = {"run": teacher, "exported": teacher / "exported.safetensors", "timm": teacher / "vit.safetensors"}[source]
    cfg = small("distill", *other, f"teacher.backbone.weights={path}", "student.heads.projector.hidden=[8]")
    module = build_module(cfg, False, 48)
    begin_with_weights(module)
    assert isinstance(module.teacher, FrozenTeacher)
    state = module.teacher.encoder.backbone.net.state_dict()
    expected = weights_of(teacher) if source != "timm" else load_file(path)
    same = [name for name in state if name in expected and state[name].shape == expected[name].shape]
    assert len(same) >= len(state) - 1 and all(torch.equal(state[name], expected[name]) for name in same)
    module.train()
    assert not any(part.training for part in module.teacher.modules())
    samples = take(build_data(cfg).pretrain, torch.arange(8))
    module.losses(samples, Clock(0, 0, 3))["loss"].backward()
    assert all(p.grad is None for p in module.teacher.parameters())
    assert all(p.grad is not None for p in (*module.student.parameters(), *module.objective.parameters()))
    after = module.teacher.encoder.backbone.net.state_dict()
    assert all(torch.equal(state[name], after[name]) for name in state)


def stop_in_the_second_epoch(self: Progress, trainer: Any, module: Any) -> None:
    if trainer.current_epoch == 1:
        raise InterruptedError


def test_a_run_learns_from_it_and_never_needs_its_weights_again(teacher: Path, tmp_path: Path) -> None:
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes((teacher / "exported.safetensors").read_bytes())
    scored = ("evaluation=frozen", "evaluation.probes.linear=null", "evaluation.probes.knn.k=5")
    cfg = small("distill", f"teacher.backbone.weights={weights}", "student.heads.projector.hidden=[8]", *scored)
    cfg.trainer.checkpoint_every_n_epochs = 1
    run_in(tmp_path / "whole", cfg)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Progress, "on_train_epoch_start", stop_in_the_second_epoch)
        run_in(tmp_path / "run", cfg)
    weights.unlink()
    run_in(tmp_path / "run", cfg, resume=True)
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "run"))
    assert whole["state_dict"].keys() == parts["state_dict"].keys()
    assert all(torch.equal(x, parts["state_dict"][name]) for name, x in whole["state_dict"].items())
    kept = {name: x for name, x in parts["state_dict"].items() if name.startswith("teacher.")}
    expected = weights_of(teacher)
    assert len(kept) == len(expected)
    assert all(torch.equal(x, expected[name.removeprefix("teacher.encoder.backbone.net.")]) for name, x in kept.items())
    result = read_json(tmp_path / "run" / "result.json")
    assert set(result["baselines"]) == {"raw_pixels", "untrained"}  # the student began with nothing
    export(tmp_path / "run", tmp_path / "student.safetensors")
    student = load_run(tmp_path / "run", [])[1].student.backbone.net.state_dict()
    exported = load_file(tmp_path / "student.safetensors")
    assert exported.keys() == student.keys() and all(torch.equal(exported[name], student[name]) for name in student)
    assert not torch.equal(exported["features.0.weight"], expected["features.0.weight"])


def test_a_scaler_of_float16_leaves_the_teacher_alone(teacher: Path, tmp_path: Path) -> None:
    """On the CPU, where no command chooses float16. The scale is small enough that no step is left out."""
    scalers: list[Any] = []

    def scaled(parts: Any) -> None:
        scalers.append(torch.amp.GradScaler("cpu", init_scale=256.0))
        parts.trainer.strategy._precision_plugin = MixedPrecision("16-mixed", "cpu", scalers[-1])

    weights = f"teacher.backbone.weights={teacher / 'exported.safetensors'}"
    cfg = small("distill", weights, "student.heads.projector.hidden=[8]", "trainer.max_epochs=1")
    names = {"method": "distill", "data": "shapes", "overrides": [], "command": ""}
    for name, change in (("half", scaled), ("whole", None)):
        (tmp_path / name).mkdir()
        run(cfg, tmp_path / name, names, False, change)
    half, whole = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("half", "whole"))
    assert half["MixedPrecision"]["_growth_tracker"] == half["global_step"] == 6 and scalers[0].get_scale() == 256
    for name, x in half["state_dict"].items():
        if name.startswith("teacher."):
            assert torch.equal(x, whole["state_dict"][name]), name
    losses = [read_metrics(tmp_path / name / "metrics.csv")["train/loss"] for name in ("half", "whole")]
    assert [value for _, value in losses[0]] == pytest.approx([value for _, value in losses[1]], rel=0.01)
    assert losses[0] != losses[1]


def test_a_teacher_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the teacher stays as it begins, but no weights are named for it: set"):
        begin_with_weights(build_module(small("distill"), False, 48))


def test_another_method_does_not_take_it_for_its_own() -> None:
    with pytest.raises(ValueError, match=r"BYOL reads projector of the teacher, but teacher\.heads is \[\]"):
        build_module(small("byol", "teacher=frozen"), False, 48)
    with pytest.raises(ValueError, match=r"Distill needs a teacher, .* choose teacher=.*frozen.* or another"):
        build_module(small("distill", "teacher=none"), False, 48)
