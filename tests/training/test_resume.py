"""A run that was interrupted anywhere and resumed ends bit for bit as one that was not."""

import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch

from ssl_framework.loading import load_run
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.folder import read_metrics
from ssl_framework.runs.stopping import Interrupted
from ssl_framework.training.progress import Progress
from tests.small_runs import run_in, small

EVALUATED = ("evaluation=frozen", "evaluation.every_n_epochs=1", "evaluation.probes.linear.max_iter=5")


def last(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")


def assert_identical(a: Any, b: Any, where: str = "") -> None:
    """The same nested content, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_identical(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{where}/{i}")
    else:
        assert a == b or (a != a and b != b), f"{where}: {a} and {b}"


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, how: Any) -> None:
    """Something happens to the process just after optimizer step ``step``."""
    original = Progress.on_train_batch_end

    def hook(self: Progress, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == step:
            how()

    monkeypatch.setattr(Progress, "on_train_batch_end", hook)


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise RuntimeError("power cut")


RESUMED = [(method, step) for method in ("mocov2", "mochi", "byol", "simclr") for step in (3, 6, 9)]
EPOCHAL = [("deepcluster_v2", 6), ("deepcluster_v2", 9), ("pcl", 9), ("gpc", 9)]
"""Methods that compute something once an epoch, stopped before and after they have."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A method -> the folder of its run without interruption."""

    @cache
    def run(method: str) -> Path:
        folder = tmp_path_factory.mktemp(method)
        assert run_in(folder, small(method)) is None
        return folder

    return run


@pytest.mark.parametrize(("method", "step"), [*RESUMED, ("isogclr", 9), ("ibot", 9), *EPOCHAL])
def test_stopped_by_a_signal_and_resumed(
    method: str, step: int, finished: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small(method)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, sigterm)
        assert run_in(tmp_path / "parts", cfg) == "SIGTERM"
    assert last(tmp_path / "parts")["global_step"] == step
    assert not (tmp_path / "parts" / "result.json").exists()
    assert run_in(tmp_path / "parts", cfg, resume=True) is None
    whole, parts = last(finished(method)), last(tmp_path / "parts")
    assert whole["global_step"] == parts["global_step"] == 12
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert_identical(whole[key], parts[key], key)
    assert read_metrics(finished(method) / "metrics.csv") == read_metrics(tmp_path / "parts" / "metrics.csv")


@pytest.mark.skipif(not hasattr(timm.optim, "Muon"), reason="timm before 1.0.21")
def test_growing_views_and_muon_go_on_as_if_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small("simclr", "+views.groups.0.ramp=[0.5,0.8,8]", "optimizer=muon", "trainer.max_epochs=1")
    run_in(tmp_path / "whole", cfg)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, sigterm)
        assert run_in(tmp_path / "parts", cfg) == "SIGTERM"
    assert run_in(tmp_path / "parts", cfg, resume=True) is None
    for key in ("state_dict", "optimizer_states", "callbacks"):
        assert_identical(last(tmp_path / "whole")[key], last(tmp_path / "parts")[key], key)


def test_state_of_samples_loads_without_the_data_and_not_with_another_number_of_them(tmp_path: Path) -> None:
    cfg = small("isogclr", "trainer.max_steps=2")
    run_in(tmp_path, cfg)
    _, module = load_run(tmp_path, ["data.source.num_train=40"])
    saved = last(tmp_path)["state_dict"]
    assert saved["objective.bank.visited"].sum() == 16
    assert_identical(dict(module.state_dict()), dict(saved))
    with pytest.raises(ValueError, match="the state of 48 training samples, but the training set has 40: go on with"):
        run_in(tmp_path, small("isogclr", "trainer.max_steps=4", "data.source.num_train=40"), resume=True)


def test_killed_between_checkpoints_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is saved at the moment of a power cut: the run goes on from the end of the last epoch."""
    cfg = small("mochi", *EVALUATED)
    run_in(tmp_path / "whole", cfg)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 10, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(tmp_path / "parts", cfg)
    assert last(tmp_path / "parts")["global_step"] == 6
    run_in(tmp_path / "parts", cfg, resume=True)
    for key in ("state_dict", "optimizer_states", "callbacks"):
        assert_identical(last(tmp_path / "whole")[key], last(tmp_path / "parts")[key], key)
    whole, parts = (read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "parts"))
    assert whole == parts and len(whole["train/loss"]) == 12 and len(whole["eval/linear[l2=0.0001]/top1"]) == 2


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small("simclr", "trainer.max_epochs=1")
    run_in(tmp_path, cfg)
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()

    def half(obj: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(Interrupted, match=r"last.ckpt cannot be written \(No space left on device\): make room"):
            run_in(tmp_path, cfg)
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_damaged_or_foreign_checkpoint_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: File is not a zip file"):
        load_checkpoint(path)
    torch.save({"state": sigterm}, path)  # a function: unpickling it would import whatever it names
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be loaded safely"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")


def test_runs_of_one_process_do_not_touch_each_other(tmp_path: Path) -> None:
    """A sweep runs its jobs in one process: the second must not depend on the first."""
    cfg = small("mocov2", "trainer.max_epochs=1")
    run_in(tmp_path / "alone", cfg)
    run_in(tmp_path / "other", small("simclr", "seed=3", "trainer.max_epochs=1"))
    run_in(tmp_path / "after", cfg)
    assert_identical(last(tmp_path / "alone")["state_dict"], last(tmp_path / "after")["state_dict"])
