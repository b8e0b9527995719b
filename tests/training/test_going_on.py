"""A run that goes on from any checkpoint, whatever bounds it, ends bit for bit as one that nothing disturbed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.training.checkpoints import Checkpoints, between_steps
from ssl_framework.training.loops import position_of
from ssl_framework.training.progress import last_epoch
from tests.small_runs import run_in, small
from tests.training.test_resume import assert_identical, interrupt_at, last, sigterm

SHORT = ("data.source.num_train=16", "data.source.num_test=8", "trainer.max_epochs=2", "data.image_size=8")
EACH = ("evaluation=frozen", "~evaluation.probes.linear", "evaluation.probes.knn.k=[5]", "evaluation.every_n_epochs=1")
END = (*EACH[:3], "evaluation.every_n_epochs=0")
THREE_IN_TWO = ("data.source.num_train=24", "trainer.accumulate_grad_batches=2")  # batches of an epoch, in two steps
BOUNDS = {
    "epochs": (*EACH,),
    "steps inside an epoch": (*EACH, "trainer.max_steps=3"),
    "steps at the end of an epoch": (*EACH, "trainer.max_steps=4", "trainer.max_epochs=3"),
    "steps, one evaluation": (*END, "trainer.max_steps=3"),
    "accumulated steps": (*END, *THREE_IN_TWO, "trainer.max_steps=3"),
}


def save_every_step(patch: pytest.MonkeyPatch, snapshots: Path) -> None:
    """After each step and wherever else a run saves, its checkpoints are kept as they are then."""
    step, save = Checkpoints.on_train_batch_end, Checkpoints.save

    def save_and_copy(self: Checkpoints, trainer: Any, *args: Any) -> None:
        save(self, trainer, *args)
        self.settle(trainer)
        shutil.copytree(self.path.parent, snapshots / f"{len(list(snapshots.iterdir())):02d}" / "checkpoints")

    def step_and_save(self: Checkpoints, trainer: Any, *args: Any) -> None:
        if between_steps(trainer):
            self.save(trainer)
        step(self, trainer, *args)

    patch.setattr(Checkpoints, "save", save_and_copy)
    patch.setattr(Checkpoints, "on_train_batch_end", step_and_save)


@pytest.mark.parametrize("bound", BOUNDS)
def test_from_every_checkpoint_to_the_same_end(bound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, whole, snapshots = small("mocov2", *SHORT, *BOUNDS[bound]), tmp_path / "whole", tmp_path / "parts"
    snapshots.mkdir()
    with monkeypatch.context() as patch:
        save_every_step(patch, snapshots)
        run_in(whole, cfg)
    metrics = (whole / "metrics.csv").read_text()
    kinds = {}  # the last snapshot of each
    for folder in sorted(snapshots.iterdir()):
        found = last(folder)
        at = position_of(found["loops"]["fit_loop"])
        kinds[at.batches > 0, at.whole, at.ended, found["global_step"] == last(whole)["global_step"]] = folder
    for folder in kinds.values():
        shutil.copy(whole / "metrics.csv", folder)  # it was killed long after
        run_in(folder, cfg, resume=True)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "DataModule"):
            assert_identical(last(whole)[key], last(folder)[key], f"{folder.name}: {key}")
        assert (folder / "metrics.csv").read_text() == metrics
        results = [json.loads((path / "result.json").read_text()) for path in (whole, folder)]
        for key in ("metrics", "intervals", "baselines", "steps"):
            assert results[0][key] == results[1][key] and results[0][key], f"{folder.name}: {key}"
    assert len(kinds) >= 4


@pytest.mark.parametrize(("step", "bound"), [(2, "epochs"), (4, "epochs"), (3, "steps, one evaluation")])
def test_an_evaluation_that_was_due_when_a_signal_came_is_made_once(
    step: int, bound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small("simclr", *SHORT, *BOUNDS[bound])
    run_in(tmp_path / "whole", cfg)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, sigterm)
        assert run_in(tmp_path / "parts", cfg) == "SIGTERM"
    assert not (tmp_path / "parts" / "result.json").exists()
    assert run_in(tmp_path / "parts", cfg, resume=True) is None
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert (parts / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    results = [json.loads((path / "result.json").read_text())["metrics"] for path in (whole, parts)]
    assert results[0] == results[1] and results[0]


def test_a_run_killed_in_its_last_evaluation_makes_it_and_then_has_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small("simclr", *SHORT, *BOUNDS["steps inside an epoch"])
    run_in(tmp_path / "whole", cfg)
    scored, score = [], FrozenEvaluation.score_module

    def die(self: FrozenEvaluation, *args: Any, **kwargs: Any) -> Any:
        scored.append(1)
        if len(scored) == 3:  # the untrained backbone, the first epoch, and this
            raise RuntimeError("power cut")
        return score(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(FrozenEvaluation, "score_module", die)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(tmp_path / "parts", cfg)
    run_in(tmp_path / "parts", cfg, resume=True)
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts")]
    assert results[0]["metrics"] == results[1]["metrics"] and results[1]["resumed_at"] == results[1]["steps"] == 3


def test_a_result_has_metrics_of_its_own_step_only(tmp_path: Path) -> None:
    run_in(tmp_path, small("simclr", *SHORT, *EACH))
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]
    run_in(tmp_path, small("simclr", *SHORT, "trainer.max_epochs=3"), resume=True)  # evaluation=none from here on
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["steps"], result["metrics"], result["intervals"]) == (6, {}, {})


@pytest.mark.parametrize(
    ("epochs", "steps", "accumulated", "last"),
    [(15, -1, 1, 15), (15, 8, 1, 1), (15, 23, 1, 3), (2, 23, 1, 2), (-1, 23, 1, 3), (-1, -1, 1, None), (15, 8, 2, 2)],
)
def test_the_line_of_an_epoch_says_of_how_many(epochs: int, steps: int, accumulated: int, last: int | None) -> None:
    trainer: Any = SimpleNamespace(
        max_epochs=epochs, max_steps=steps, num_training_batches=11, accumulate_grad_batches=accumulated
    )
    assert last_epoch(trainer) == last
