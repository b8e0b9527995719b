"""The alarm for collapse: what it sees of a run, when it warns, and that training does not notice."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.evaluation.during_training.alarm import CollapseAlarm
from ssl_framework.evaluation.during_training.causes import known_cause
from ssl_framework.evaluation.measures import feature_std
from ssl_framework.runs.folder import read_metrics
from ssl_framework.training.parts import alarms
from ssl_framework.types import Clock, Samples
from tests.small_runs import config, run_in, small
from tests.training.test_resume import assert_identical, interrupt_at, last, sigterm


class Watch:
    """An alarm beside a module whose objective is called with embeddings of a wanted spread, step by step."""

    def __init__(self, alarm: CollapseAlarm, every: int = 1, outputs: Any = None) -> None:
        self.alarm, self.logged = alarm, list[tuple[int, dict[str, float]]]()
        self.module = build_module(small("simclr"), True, 48)
        self.module.objective.forward = lambda *args: {}  # type: ignore[method-assign]
        logger = SimpleNamespace(log_metrics=lambda metrics, step: self.logged.append((step, metrics)))
        self.trainer: Any = SimpleNamespace(global_step=0, log_every_n_steps=every, loggers=[logger])
        self.outputs = outputs or (lambda x: {"pooled": rows(), "projector": x})
        alarm.on_fit_start(self.trainer, self.module)

    def steps(self, *spreads: float) -> list[str]:
        """What the alarm says in one step for each spread of the embeddings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for spread in spreads:
                self.module.objective([None, self.outputs(1 + spread * rows())], None, None, None)
                self.trainer.global_step += 1
                self.alarm.on_train_batch_end(self.trainer)
        return [str(warning.message) for warning in caught]


def rows() -> Tensor:
    return torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def std(spread: float) -> float:
    return feature_std(1 + spread * rows())


def test_it_warns_once_after_two_low_looks_in_a_row() -> None:
    watch = Watch(CollapseAlarm(0.08))
    assert std(0.05) < 0.08 < std(0.1) and std(1.0) > 0.5
    assert watch.steps(1.0, 0.05, 0.1, 0.05) == []
    (message,) = watch.steps(0.04)
    assert f"embeddings of a batch point almost all the same way (embedding_std {std(0.04):.2g} at step 5, " in message
    assert f"{std(1.0):.2g} at the first; isotropic ones have 1): the encoder has collapsed" in message
    assert watch.steps(0.01, 0.01, 0.01) == []


CAUSES = {
    "without a predictor": (
        ("method=byol", "objective.student_head=projector"),
        "the student's projector is drawn to the teacher's without a predictor between: choose head=",
    ),
    "without centring": (
        ("method=dino", "objective.centre.momentum=1"),
        "objective.centre.momentum=1 leaves the teacher's outputs uncentred, so that one wins for all samples: set ",
    ),
    "without stop-gradient": (
        ("method=simsiam", "objective.stop_gradient=false"),
        "objective.stop_gradient=false takes away what keeps embeddings apart: set objective.stop_gradient=true",
    ),
    "siamese without a predictor": (
        ("method=simsiam", "head=ressl", "objective.predictor=projector"),
        "the student's projector is drawn to the other view's without a predictor between: choose head=",
    ),
    "without variance": (
        ("method=vicreg", "objective.variance=0"),
        "objective.variance=0 takes away what keeps embeddings apart: set objective.variance=25.0",
    ),
    "temperature": (
        ("method=simclr", "objective.temperature=4"),
        "objective.temperature=4 leaves hardly any difference between negatives: set objective.temperature=0.2",
    ),
    "rate": (
        ("method=byol", "optimizer.lr_per_256=6"),
        "the learning rate is too high: set optimizer.lr_per_256=2 optimizer.warmup=0.1",
    ),
    "rate and long warm-up": (
        ("method=simclr", "optimizer=lars"),
        "the learning rate is too high: set optimizer.lr_per_256=0.1",
    ),
}


@pytest.mark.parametrize("kind", CAUSES)
def test_it_names_the_likely_cause_and_its_cure_in_one_line(kind: str) -> None:
    overrides, words = CAUSES[kind]
    (alarm,) = alarms(config(*overrides))
    assert isinstance(alarm, CollapseAlarm)
    (message,) = Watch(alarm).steps(1.0, 0.05, 0.05)
    _, found, cause = message.partition(": the encoder has collapsed, most likely because ")
    assert found and cause.startswith(words) and "\n" not in message
    assert kind != "rate and long warm-up" or cause == words


def test_where_the_cause_is_known_two_thirds_of_the_first_value_are_low_enough() -> None:
    spreads = (1.0, 0.7, 0.35, 0.35)
    assert std(0.7) > std(1.0) * 2 / 3 > std(0.35) > 0.08
    (message,) = Watch(CollapseAlarm(0.08, "most likely because of that", known=True)).steps(*spreads)
    assert message.startswith("the embeddings of a batch point more and more the same way (embedding_std ")
    assert message.endswith("the encoder is collapsing, most likely because of that")
    assert Watch(CollapseAlarm(0.08)).steps(*spreads) == []


@pytest.mark.parametrize(
    "method", ["simsiam", "nnsiam", "nnbyol", "vicreg", "tico", "lejepa", "visreg", "nnclr", "byol"]
)
def test_recipes_as_shipped_have_no_known_cause(method: str) -> None:
    assert known_cause(config(f"method={method}")) is None


def test_features_are_watched_as_embeddings_are() -> None:
    watch = Watch(CollapseAlarm(0.08), outputs=lambda x: {"pooled": x, "projector": rows()})
    (message,) = watch.steps(1.0, 0.01, 0.01)
    assert message.startswith("the features of a batch point almost all the same way (feature_std ")


def test_a_network_that_begins_low_is_given_half_of_where_it_began() -> None:
    watch = Watch(CollapseAlarm(0.08))
    assert watch.steps(0.02, 0.02, 0.02, 0.015, 0.015) == []
    assert len(watch.steps(0.009, 0.009)) == 1


def test_it_looks_at_the_first_step_and_at_those_that_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    watch = Watch(CollapseAlarm(0.08), every=3)
    monkeypatch.setattr(
        "ssl_framework.evaluation.during_training.alarm.feature_std",
        lambda x: looked.append(watch.trainer.global_step) or feature_std(x),
    )
    watch.steps(*[1.0] * 7)
    assert looked == [1, 1, 3, 3, 6, 6]
    assert [step for step, _ in watch.logged] == [2, 5]
    assert watch.logged[0][1] == {"train/feature_std": feature_std(rows()), "train/embedding_std": std(1.0)}


def test_under_gradient_accumulation_it_looks_once_a_step() -> None:
    watch = Watch(CollapseAlarm(0.08))
    watch.steps(1.0)
    watch.alarm.on_train_batch_end(watch.trainer)
    assert len(watch.logged) == 1


def test_the_positions_of_a_map_are_watched_as_if_they_were_samples() -> None:
    watch = Watch(CollapseAlarm(0.08), outputs=lambda x: {"pooled": rows(), "projector": x.T.reshape(1, 6, 4, 8)})
    (message,) = watch.steps(1.0, 0.04, 0.04)
    assert f"embeddings of a batch point almost all the same way (embedding_std {std(0.04):.2g} at step 3" in message


def test_single_numbers_and_tokens_are_not_watched() -> None:
    watch = Watch(CollapseAlarm(0.08), outputs=lambda x: {"pooled": rows(), "projector": x[:, :1]})
    assert watch.steps(1.0, 0.01, 0.01) == [] and set(watch.logged[0][1]) == {"train/feature_std"}
    watch.outputs = lambda x: {"pooled": rows(), "projector": x[..., None]}
    assert watch.steps(1.0, 0.01, 0.01) == []


def test_it_sees_the_whole_first_view_and_no_evaluator() -> None:
    module = build_module(small("byol", "data.micro_batch_size=3"), True, 48)
    alarm = CollapseAlarm(0.08)
    alarm.on_fit_start(SimpleNamespace(), module)  # type: ignore[arg-type]
    module.eval().student.embed(torch.zeros(2, 3, 32, 32))
    assert alarm._latest == {}
    samples = Samples(torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8))
    module.train().losses(samples, Clock(0, 0, 10))
    shapes = {what: tuple(x.shape) for what, x in alarm._latest.items()}
    assert shapes == {"feature": (8, module.student.dims["pooled"]), "embedding": (8, 256)}
    assert not any(x.requires_grad for x in alarm._latest.values())
    alarm.teardown(SimpleNamespace(), module, "fit")  # type: ignore[arg-type]
    assert not module.objective._forward_hooks and alarm._latest == {}


def test_other_ranks_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_framework.evaluation.during_training.alarm.rank", lambda: 1)
    watch = Watch(CollapseAlarm(0.08))
    assert watch.steps(1.0, 0.01, 0.01) == [] and watch.logged == []
    assert not watch.module.objective._forward_hooks


@pytest.mark.parametrize("below", [0.0, 1.0])
def test_a_threshold_that_says_nothing_is_refused(below: float) -> None:
    with pytest.raises(ValueError, match=r"trainer\.collapse_below is .*: it must be between 0 and 1"):
        CollapseAlarm(below)


def test_a_run_logs_trains_as_without_it_and_resumes_with_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small("simclr", "trainer.log_every_n_steps=2")
    assert cfg.trainer.collapse_below == 0.08
    run_in(tmp_path / "whole", cfg)
    run_in(tmp_path / "without", small("simclr", "trainer.log_every_n_steps=2", "trainer.collapse_below=null"))
    for key in ("state_dict", "optimizer_states"):
        assert_identical(last(tmp_path / "whole")[key], last(tmp_path / "without")[key], key)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, sigterm)
        run_in(tmp_path / "parts", cfg)
    run_in(tmp_path / "parts", cfg, resume=True)
    whole, parts = (read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "parts"))
    assert [step for step, _ in whole["train/feature_std"]] == [step for step, _ in whole["train/loss"]]
    own = {"train/feature_std", "train/embedding_std"}
    assert set(whole) - set(read_metrics(tmp_path / "without" / "metrics.csv")) == own
    assert {name: whole[name] for name in own} == {name: parts[name] for name in own}
    assert_identical(last(tmp_path / "whole")["callbacks"], last(tmp_path / "parts")["callbacks"])
    assert last(tmp_path / "whole")["callbacks"]["CollapseAlarm"]["first"]["feature"] > 0


def test_encoders_drawn_together_without_predictor_or_teacher_raise_the_alarm() -> None:
    """A collapse of its own making: BYOL's projections of two views are only drawn together."""
    torch.manual_seed(0)
    cfg = config("method=byol", "data.source.num_train=64", "student.heads.projector.hidden=[64]")
    module = build_module(cfg, True, 64)

    class Together(type(module.objective)):  # type: ignore[misc]
        def forward(self, student: Any, *_: Any) -> dict[str, Tensor]:
            a, b = (torch.nn.functional.normalize(view["projector"], dim=1) for view in student)
            return {"loss": (a - b).square().sum(dim=1).mean()}

    module.objective.__class__ = Together
    alarm, pixels = CollapseAlarm(0.08), torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8)
    trainer: Any = SimpleNamespace(global_step=0, log_every_n_steps=2, loggers=[])
    alarm.on_fit_start(trainer, module)
    optimizer = torch.optim.SGD(module.student.parameters(), lr=0.2, momentum=0.9)
    with pytest.warns(UserWarning, match="the embeddings of a batch point almost all the same way"):
        for _ in range(60):
            optimizer.zero_grad()
            module.losses(Samples(pixels, torch.arange(32)), Clock(0, 0, 10))["loss"].backward()
            optimizer.step()
            trainer.global_step += 1
            alarm.on_train_batch_end(trainer)
            if alarm.warned:
                break
