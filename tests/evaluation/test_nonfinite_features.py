"""What is not finite is never scored, exported or begun with: one sentence names the layer, how many, and the split."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_framework.build import build, build_data, build_module
from ssl_framework.commands import evaluate as evaluate_command
from ssl_framework.evaluation.features import refuse_non_finite
from ssl_framework.evaluation.frozen import FrozenEvaluation, defined
from ssl_framework.exporting import export
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.weights import load_into
from ssl_framework.module import SSLModule
from tests.small_runs import config, run_in, small

NAN = float("nan")


def broken(module: SSLModule, only: bool = False) -> SSLModule:
    """The module with a NaN in a weight of its backbone, or of a head alone."""
    part: Any = module.student.heads["projector"] if only else module.student.backbone
    with torch.no_grad():
        weight = next(part.parameters())
        weight[(0,) * weight.ndim] = NAN
    return module


def parts(method: str, *overrides: str) -> tuple[Any, Any, SSLModule]:
    """Evaluation, data and module of a config."""
    cfg = small(method, *overrides)
    data = build_data(cfg)
    return build(cfg.evaluation), data, build_module(cfg, True, len(data.pretrain.rows))


@pytest.mark.parametrize(
    ("method", "overrides", "said"),
    [
        ("simclr", ["evaluation=frozen"], "the backbone's features of 48 of the 48 samples of the train split"),
        (
            "simclr",
            ["evaluation=measures"],
            "the backbone's features of 48 of the 48 samples of the train split are not",
        ),
        ("simclr", ["evaluation=retrieval"], "the backbone's features of 48 of the 48 samples of the train split"),
        ("simclr", ["evaluation=dense"], "the backbone's map of 48 of the 48 samples of the train split"),
        ("simclr", ["evaluation=linear_augmented"], "the backbone's features of 48 of the 48 samples of the train"),
        ("clip", ["evaluation=cross_modal"], "the backbone's features of 48 of the 48 samples of the train split"),
    ],
)
def test_features_that_are_not_finite_are_not_scored(method: str, overrides: list[str], said: str) -> None:
    evaluation, data, module = parts(method, *overrides)
    with pytest.raises(ValueError, match=said):
        evaluation.score_module(broken(module), data)


def test_a_head_alone_is_named() -> None:
    evaluation, data, module = parts("simclr", "evaluation=frozen", "evaluation.head_layers=[projector]")
    with pytest.raises(ValueError, match=r"the outputs of the layer projector\.1 of 48 of the 48 samples of the train"):
        evaluation.score_module(broken(module, only=True), data)
    scores = build(config("evaluation=scores").evaluation).scores
    with pytest.raises(ValueError, match="the outputs of the head projector of 48 of the 48 samples"):
        scores.measure(module, data.train)


def test_single_samples_and_the_raw_input() -> None:
    x = torch.ones(5, 2, 3)
    assert refuse_non_finite(x, "a", "test") is x
    x[3, 1, 1], x[4, 0, 0] = NAN, -float("inf")
    with pytest.raises(ValueError, match="the map of 2 of the 5 samples of the test split are not finite"):
        refuse_non_finite(x, "the map", "test")
    _, data, _ = parts("simclr")
    evaluation = FrozenEvaluation({"any": lambda train, test: {}}, 0)

    def raw(split: Any) -> dict[str, Tensor]:
        return {"": torch.full((len(split.rows), 2), NAN if split is data.test else 1.0)}

    with pytest.raises(ValueError, match="the raw input of 32 of the 32 samples of the test split are not finite"):
        evaluation.score(raw, data)


def test_a_score_that_is_not_defined_is_left_out() -> None:
    with pytest.warns(UserWarning, match=r"b, c skipped: not defined for these samples"):
        assert defined({"a": 1.0, "b": NAN, "c": float("inf")}) == {"a": 1.0}


def test_weights_that_are_not_finite_leave_and_enter_by_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Export refuses them; so do backbone.weights and the evaluation of a file, C12."""
    monkeypatch.chdir(tmp_path)
    run_in(Path("run"), small("simclr", "trainer.max_epochs=1"))
    export(Path("run"), Path("net.safetensors"))
    weights = load_file("net.safetensors")
    bad = {**weights, "features.0.weight": weights["features.0.weight"].clone().fill_(NAN)}
    save_file(bad, "nan.safetensors")
    backbone: Backbone = build(small("simclr").student).backbone
    with pytest.raises(ValueError, match=r"^backbone\.weights=a holds NaN or infinity in features\.0\.weight: nothing"):
        load_into(backbone, bad, "backbone.weights=a")
    arguments = ["backbone=nan.safetensors", "model=ssl_tiny", "data=shapes", "data.source.num_train=48", "trainer=cpu"]
    with pytest.raises(SystemExit) as ended:
        evaluate_command.main(arguments)
    assert str(ended.value.code).startswith("error: nan.safetensors holds NaN or infinity in features.0.weight")
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    name = "student.backbone.net.features.0.weight"
    checkpoint["state_dict"][name].fill_(NAN)
    torch.save(checkpoint, "run/checkpoints/last.ckpt")
    with pytest.raises(ValueError, match=r"the backbone of run holds NaN or infinity in features\.0\.weight"):
        export(Path("run"), Path("again.safetensors"))
    assert not Path("again.safetensors").exists()
    with pytest.raises(SystemExit) as ended:
        evaluate_command.main(["run=run", "evaluation=frozen"])
    assert "the backbone's features of 48 of the 48 samples of the train split" in str(ended.value.code)
    assert not Path("run/evaluation.json").exists()
