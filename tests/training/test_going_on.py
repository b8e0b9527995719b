"""A run that goes on from any checkpoint, whatever bounds it, ends bit for bit as one that nothing disturbed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ssl_framework.training.checkpoints import Checkpoints, between_steps
from tests.small_runs import run_in, small
from tests.training.test_resume import assert_identical, last

SHORT = ("data.source.num_train=16", "data.source.num_test=8", "trainer.max_epochs=2", "data.image_size=8")
EACH = ("evaluation=frozen", "~evaluation.probes.linear", "evaluation.probes.knn.k=[5]", "evaluation.every_n_epochs=1")
END = (*EACH[:3], "evaluation.every_n_epochs=0")
THREE_IN_TWO = ("data.source.num_train=24", "trainer.accumulate_grad_batches=2")  # batches of an epoch, in two steps
BOUNDS = {
    "epochs": (*EACH,),
    "epochs, one evaluation": (*END,),
    "steps inside an epoch": (*EACH, "trainer.max_steps=3"),
    "steps at the end of an epoch": (*EACH, "trainer.max_steps=4", "trainer.max_epochs=3"),
    "both": (*EACH, "trainer.max_steps=4"),
    "steps, one evaluation": (*END, "trainer.max_steps=3"),
    "accumulated": (*EACH, *THREE_IN_TWO),
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
    places = set()
    for folder in sorted(snapshots.iterdir()):
        shutil.copy(whole / "metrics.csv", folder)  # it was killed long after
        loops = last(folder)["loops"]["fit_loop"]
        places.add((loops["epoch_loop.batch_progress"]["is_last_batch"], *loops["epoch_progress"]["current"].values()))
        run_in(folder, cfg, resume=True)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "DataModule"):
            assert_identical(last(whole)[key], last(folder)[key], f"{folder.name}: {key}")
        assert (folder / "metrics.csv").read_text() == metrics
        results = [json.loads((path / "result.json").read_text()) for path in (whole, folder)]
        for key in ("metrics", "intervals", "baselines", "steps"):
            assert results[0][key] == results[1][key] and results[0][key], f"{folder.name}: {key}"
    assert len(places) >= 4
