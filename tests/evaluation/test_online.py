"""A linear classifier that learns during training, and of which training does not notice."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.build import build, build_module
from ssl_framework.data.base import Split
from ssl_framework.evaluation.during_training.online_linear import OnlineLinear, check_clean_view, count_classes
from ssl_framework.evaluation.features import Accuracy, Frozen
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.evaluation.request import evaluate
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import read_metrics
from ssl_framework.types import Clock, Samples
from tests.small_runs import config, run_in, small
from tests.training.test_resume import assert_identical, interrupt_at, last, sigterm

ONLINE = (
    "evaluation=online_linear",
    "evaluation.probes.knn=null",
    "evaluation.probes.linear=null",
    "evaluation.baselines=false",
    "evaluation.every_n_epochs=1",
)
NAME = "online_linear[lr=0.1]/top1"


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def classifier(classes: int, d: int, **settings: float) -> OnlineLinear:
    online = OnlineLinear(**{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, **settings})
    online.weight, online.speed = torch.zeros(classes, d + 1), torch.zeros(classes, d + 1)
    return online


def test_it_learns_as_a_linear_layer_under_torchs_sgd() -> None:
    online = classifier(3, 5, weight_decay=0.01)
    layer = nn.Linear(5, 3)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(5):
        x, y = rows(8, 5, step), torch.arange(8) % 3
        online.learn(x, y)
        sgd.zero_grad()
        F.cross_entropy(layer(x), y).backward()
        sgd.step()
    assert torch.allclose(online.weight, torch.cat([layer.weight, layer.bias[:, None]], dim=1), atol=1e-6)


def test_it_is_perfect_on_classes_that_are_apart_and_at_chance_on_shuffled_labels() -> None:
    y = torch.arange(400) % 4
    x = F.one_hot(y, 4).float() + 0.05 * rows(400, 4)
    online, shuffled = classifier(4, 4), classifier(4, 4)
    for _ in range(50):
        online.learn(x, y)
        shuffled.learn(x, y[torch.randperm(400, generator=torch.Generator().manual_seed(0))])
    test = Frozen(x, y)
    assert online(test, test) == {NAME: 100.0} and isinstance(online(test, test)[NAME], Accuracy)
    labels = y[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    assert 15 < shuffled(test, Frozen(x, labels))[NAME] < 35


def watched(cfg: Any) -> tuple[SSLModule, OnlineLinear, list[Tensor]]:
    """A module whose objective an online classifier watches, and the features that it is given."""
    module = build_module(cfg, True, 48)
    online, seen = classifier(10, module.student.dims["pooled"]), list[Tensor]()
    learn = online.learn

    def spy(x: Tensor, y: Tensor) -> None:
        seen.append(x)
        learn(x, y)

    online.learn = spy  # type: ignore[method-assign]
    online.on_fit_start(SimpleNamespace(), module)  # type: ignore[arg-type]
    return module, online, seen


def samples() -> Samples:
    generator = torch.Generator().manual_seed(0)
    return Samples(
        torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator), torch.arange(8), torch.arange(8)
    )


def backward(module: SSLModule) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    module.losses(samples(), Clock(0, 0, 10))["loss"].backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("over", [(), ("data.micro_batch_size=3",)])
def test_the_encoders_gradient_is_bit_for_bit_that_without_it(over: tuple[str, ...]) -> None:
    cfg = small("simclr", *over)
    torch.manual_seed(0)
    plain = build_module(cfg, True, 48)
    torch.manual_seed(0)
    module, online, seen = watched(cfg)
    assert_identical(backward(plain), backward(module))
    assert [x.shape for x in seen] == [(8, module.student.dims["pooled"])] and not seen[0].requires_grad
    assert online.weight.abs().sum() > 0
    online.teardown(SimpleNamespace(), module, "fit")  # type: ignore[arg-type]
    assert not module.objective._forward_hooks


@pytest.mark.parametrize(
    ("over", "view"),
    [
        ((), 0),
        (("mixer=mixup", "mixer.views=[0]"), 1),
        (("mixer=mixup", "mixer.views=[1]"), 0),
    ],
)
def test_it_reads_the_first_view_that_is_not_a_mixture(over: tuple[str, ...], view: int) -> None:
    module, _, seen = watched(small("simclr", *over))
    outputs: list[Any] = []
    module.student.register_forward_hook(lambda *call: outputs.append(call[-1]))
    torch.manual_seed(0)
    module.losses(samples(), Clock(0, 0, 10))
    assert torch.equal(seen[0], outputs[-1][view]["pooled"])


def test_mixtures_beside_clean_views_are_left_out() -> None:
    module, _, seen = watched(small("mixco_simclr"))
    assert module.mixer is not None and module.mixer.add
    backward(module)
    assert seen[0].shape == (8, module.student.dims["pooled"])


def test_a_student_that_sees_mixtures_alone_is_refused() -> None:
    module = build_module(small("mocov2", "mixer=mixup", "mixer.views=[0]"), True, 48)
    with pytest.raises(ValueError, match=r"online_linear learns from a clean view, but Mixup mixes every view"):
        check_clean_view(module)
    check_clean_view(build_module(small("mocov2"), True, 48))
    module = build_module(small("simclr"), True, 48)
    module.student.scored = ("other",)
    with pytest.raises(ValueError, match="evaluators read those of"):
        check_clean_view(module)


def data_of(pretrain: Tensor | None, train: Tensor | None, test: Tensor | None) -> Any:
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    return SimpleNamespace(**{
        name: Split(pixels, label) for name, label in (("pretrain", pretrain), ("train", train), ("test", test))
    })  # fmt: skip


def test_missing_labels_and_numbers_are_refused_and_classes_counted() -> None:
    y = torch.arange(4)
    assert count_classes(data_of(y, y, y + 3)) == 7
    with pytest.raises(ValueError, match="needs labels, but the pretraining split has none: set evaluation=frozen"):
        count_classes(data_of(None, y, y))
    with pytest.raises(ValueError, match="but the train and the test split has none"):
        count_classes(data_of(y, None, None))
    with pytest.raises(ValueError, match="needs classes, but the labels are numbers"):
        count_classes(data_of(y, y, y.float()))


@pytest.mark.parametrize("change", [{"lr": 0.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}])
def test_settings_without_meaning_are_refused(change: dict[str, float]) -> None:
    (key,) = change
    with pytest.raises(ValueError, match=f"{key} is {change[key]}: it must be"):
        OnlineLinear(**{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, **change})


def test_a_run_scores_it_at_each_evaluation_trains_as_without_it_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small("byol", *ONLINE)
    run_in(tmp_path / "whole", cfg)
    run_in(tmp_path / "without", small("byol"))
    for key in ("state_dict", "optimizer_states"):
        assert_identical(last(tmp_path / "without")[key], last(tmp_path / "whole")[key], key)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9, sigterm)
        run_in(tmp_path / "parts", cfg)
    run_in(tmp_path / "parts", cfg, resume=True)
    whole, parts = (last(tmp_path / name) for name in ("whole", "parts"))
    for key in ("state_dict", "optimizer_states", "callbacks"):
        assert_identical(whole[key], parts[key], key)
    assert whole["callbacks"]["OnlineLinear"]["weight"].abs().sum() > 0
    curve = read_metrics(tmp_path / "whole" / "metrics.csv")[f"eval/{NAME}"]
    assert [step for step, _ in curve] == [6, 12]
    assert curve == read_metrics(tmp_path / "parts" / "metrics.csv")[f"eval/{NAME}"]
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert result["metrics"] == {NAME: curve[-1][1]} and list(result["intervals"]) == [NAME]
    assert evaluate(tmp_path / "whole", []) == result["metrics"]


def test_references_and_layers_of_heads_are_not_scored_by_it() -> None:
    online = classifier(4, 3)
    data = SimpleNamespace(**vars(data_of(*[torch.arange(4)] * 3)), has_labels=True)

    def features(images: Split) -> dict[str, Tensor]:
        return {"": rows(4, 3), "projector.1": rows(4, 9)}

    evaluation = FrozenEvaluation({}, 0, online_linear=online)
    assert evaluation.wanted and evaluation.beside == [online]
    assert evaluation.score(features, data) == {}  # type: ignore[arg-type]
    assert list(evaluation.score(features, data, online=True)) == [NAME]  # type: ignore[arg-type]


def test_the_config_has_the_probes_of_frozen_and_the_classifier() -> None:
    evaluation = build(config("evaluation=online_linear").evaluation)
    assert list(evaluation.probes) == ["knn", "linear"] and isinstance(evaluation.online_linear, OnlineLinear)
