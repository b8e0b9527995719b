"""When a state is saved and where it goes: by steps and minutes, as the best one, in the background, to a mirror."""

import json
import resource
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.config import config_hash
from ssl_framework.runs.folder import RunFolder, read_metrics
from ssl_framework.runs.stopping import Interrupted
from ssl_framework.training import checkpoints, mirror
from ssl_framework.training.best import Best
from ssl_framework.training.checkpoints import Checkpoints, Intervals
from ssl_framework.training.mirror import Mirror
from ssl_framework.training.writing import CheckpointWriter, on_host
from tests.small_runs import config, run_in, small
from tests.training.test_going_on import EACH, END, SHORT
from tests.training.test_resume import assert_identical, crash, interrupt_at, last

LONG = (*SHORT, "data.source.num_train=40")  # five steps an epoch


def saved_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which a run saves."""
    steps: list[int] = []
    save = Checkpoints.save

    def noting(self: Checkpoints, trainer: Any, *args: Any) -> None:
        steps.append(trainer.global_step)
        save(self, trainer, *args)

    monkeypatch.setattr(Checkpoints, "save", noting)
    return steps


class Clock:
    """Moves on by some seconds whenever an optimizer has made a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.time = 0.0
        step = torch.optim.SGD.step

        def slow(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            self.time += seconds
            return step(optimizer, *args, **kwargs)

        monkeypatch.setattr(torch.optim.SGD, "step", slow)
        monkeypatch.setattr(checkpoints, "now", lambda: self.time)


def test_by_steps_and_by_minutes_also_inside_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = saved_at(monkeypatch)
    seldom = ("trainer.checkpoint_every_n_epochs=9", "trainer.checkpoint_every_minutes=null")
    run_in(tmp_path / "steps", small("simclr", *LONG, *seldom, "trainer.checkpoint_every_n_steps=3"))
    assert steps == [3, 6, 9, 10]
    steps.clear()
    Clock(monkeypatch, 60)
    run_in(tmp_path / "minutes", small("simclr", *LONG, seldom[0], "trainer.checkpoint_every_minutes=4"))
    assert steps == [4, 8, 10]
    steps.clear()
    run_in(tmp_path / "end", small("simclr", *LONG, seldom[0], "trainer.checkpoint_every_minutes=2.5"))
    assert steps == [3, 6, 9, 10]  # what is due in the last step of an epoch waits for its end, as step 5 would
    assert_identical(last(tmp_path / "end")["state_dict"], last(tmp_path / "steps")["state_dict"])


def test_a_run_killed_inside_an_epoch_loses_the_interval_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small("mocov2", *LONG, "trainer.max_epochs=1", "trainer.checkpoint_every_n_steps=2")
    run_in(tmp_path / "whole", cfg)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(tmp_path / "parts", cfg)
    assert [load_checkpoint(path)["global_step"] for path in RunFolder(tmp_path / "parts").checkpoint_files] == [4, 2]
    run_in(tmp_path / "parts", cfg, resume=True)
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_identical(last(tmp_path / "whole")[key], last(tmp_path / "parts")[key])
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


@pytest.mark.parametrize("evaluation", [EACH, END])
def test_a_run_bounded_by_time_goes_on_with_the_time_it_has_left(
    evaluation: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, 60)
    cfg = small("mocov2", *LONG, *evaluation, "trainer.max_minutes=7", "trainer.checkpoint_every_n_steps=1")
    snapshots, whole = tmp_path / "parts", tmp_path / "whole"
    snapshots.mkdir()
    save = Checkpoints.save

    def save_and_copy(self: Checkpoints, trainer: Any, *args: Any) -> None:
        save(self, trainer, *args)
        self.settle(trainer)
        shutil.copytree(self.path.parent, snapshots / f"{len(list(snapshots.iterdir()))}" / "checkpoints")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_copy)
        run_in(whole, cfg)
    assert last(whole)["global_step"] == 7 and len(list(snapshots.iterdir())) == 8  # 7 before the evaluation and after
    for number in (4, 6, 7):
        folder = snapshots / str(number)
        shutil.copy(whole / "metrics.csv", folder)
        run_in(folder, cfg, resume=True)
        for key in ("state_dict", "optimizer_states", "callbacks", "global_step"):
            assert_identical(last(whole)[key], last(folder)[key], f"{number}: {key}")
        assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
        metrics = [json.loads((path / "result.json").read_text())["metrics"] for path in (whole, folder)]
        assert metrics[0] == metrics[1] and metrics[0]
    (snapshots / "7" / "result.json").unlink()
    longer = small("mocov2", *LONG, *evaluation, "trainer.max_minutes=9")
    run_in(snapshots / "7", longer, resume=True)
    assert last(snapshots / "7")["global_step"] == 9


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("checkpoint_every_n_epochs=null", "trainer.checkpoint_every_n_epochs is None: it must be a whole number, at"),
        ("checkpoint_every_n_epochs=1.5", "trainer.checkpoint_every_n_epochs is 1.5: it must be a whole number, at"),
        ("checkpoint_every_n_steps=0", "n_steps is 0: it must be a whole number, at least 1, or null"),
        ("checkpoint_every_minutes=-1", "minutes is -1: it must be a number above 0, or null"),
        ("checkpoint_every_minutes=nan", "minutes is nan: it must be a number above 0, or null"),
    ],
)
def test_intervals_that_cannot_be(override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Intervals.read(config(f"trainer.{override}").trainer)


def test_when_and_where_a_state_is_saved_is_no_part_of_what_a_run_is() -> None:
    plain = config_hash(config())
    own = ("checkpoint_every_n_steps=5", "checkpoint_every_minutes=1", "keep_best=train/loss", "keep_best_k=3")
    own += ("mirror=memory://a",)
    assert config_hash(config(*(f"trainer.{item}" for item in own))) == plain
    older = config()
    OmegaConf.set_struct(older, False)
    for key in ("max_minutes", "stop_early", "keep_best_mode", *(item.partition("=")[0] for item in own)):
        del older.trainer[key]
    assert config_hash(older) == plain != config_hash(config("trainer.max_minutes=5"))
    assert Intervals.read(older.trainer) == Intervals(1)
    early = [config("trainer.stop_early=2", *more) for more in ((), ("trainer.keep_best=train/loss",))]
    assert len({plain, *map(config_hash, early)}) == 3  # what is better decides the end


# --- the best one


PLAIN_HEAD = ("student.heads.projector.last_norm=false",)
"""With which the loss falls and rises again at a rate that is far too high."""


def test_the_best_state_by_the_mean_loss_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small(
        "simclr",
        *LONG,
        "trainer.max_epochs=4",
        "trainer.keep_best=train/loss",
        *PLAIN_HEAD,
        "optimizer.lr_per_256=30",
        *PLAIN_HEAD,
    )
    run_in(tmp_path / "whole", cfg)
    losses = [value for _, value in read_metrics(tmp_path / "whole" / "metrics.csv")["train/loss"]]
    means = [sum(losses[i : i + 5]) / 5 for i in range(0, 20, 5)]
    best = means.index(min(means))
    assert 0 < best < 3, means  # or the test would show little
    run = RunFolder(tmp_path / "whole")
    assert load_checkpoint(run.best_checkpoint_file)["global_step"] == 5 * (best + 1)
    assert last(run.path)["callbacks"]["Checkpoints"]["best"] == pytest.approx(min(means), rel=1e-6)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 12, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(tmp_path / "parts", cfg)
    run_in(tmp_path / "parts", cfg, resume=True)
    parts = RunFolder(tmp_path / "parts")
    assert load_checkpoint(parts.best_checkpoint_file)["global_step"] == 5 * (best + 1)


def test_the_best_state_by_a_measure(tmp_path: Path) -> None:
    cfg = small("simclr", *SHORT, *EACH)
    OmegaConf.set_struct(cfg, False)
    cfg.evaluation.measures = {
        "all": {
            "_target_": "ssl_framework.evaluation.measures.Measures",
            **{"num_samples": 16, "seed": 0, "t": 2.0, "epsilon": 1e-7, "alpha_ranks": [2, 5]},
        }
    }
    cfg.trainer.keep_best, cfg.trainer.keep_best_mode = "eval/rankme", "max"
    run_in(tmp_path, cfg)
    ((_, values),) = [item for item in read_metrics(tmp_path / "metrics.csv").items() if item[0].endswith("]/rankme")]
    step, _ = max(values, key=lambda item: item[1])
    assert load_checkpoint(RunFolder(tmp_path).best_checkpoint_file)["global_step"] == step
    cfg.trainer.keep_best = "eval/nothing"
    with pytest.raises(ValueError, match=r"trainer.keep_best is eval/nothing, but the measures are measures\[n=16\]"):
        run_in(tmp_path / "other", cfg)


@pytest.mark.parametrize("name", ["eval/knn[k=20,T=0.1]/top1", "loss", "test/loss"])
def test_nothing_is_chosen_by_test_labels(name: str, tmp_path: Path) -> None:
    cfg = small("simclr", *SHORT, *EACH)
    cfg.trainer.keep_best = name
    with pytest.raises(ValueError, match=r"trainer.keep_best is .*: choose train/<loss>.* comes from test labels"):
        run_in(tmp_path, cfg)


def epochs(folder: Path) -> list[float]:
    """The mean loss of each epoch of five steps."""
    losses = [value for _, value in read_metrics(folder / "metrics.csv")["train/loss"]]
    return [sum(losses[i : i + 5]) / 5 for i in range(0, len(losses), 5)]


RISING = ("trainer.max_epochs=8", "trainer.keep_best=train/loss", "optimizer.lr_per_256=30", *PLAIN_HEAD)
"""A rate with which the loss falls and rises."""


def test_several_of_the_best_states_and_an_early_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(tmp_path / "long", small("simclr", *LONG, *RISING, "trainer.keep_best_k=3"))
    means = epochs(tmp_path / "long")
    order = sorted(range(8), key=means.__getitem__)[:3]
    run = RunFolder(tmp_path / "long")
    assert {path.name for path in run.best_checkpoint_files} == {f"best_{5 * (e + 1)}.ckpt" for e in order}
    for path in run.best_checkpoint_files:
        assert load_checkpoint(path)["global_step"] == int(path.stem.removeprefix("best_"))
    assert load_checkpoint(run.best_checkpoint_file)["global_step"] == 5 * (order[0] + 1)
    result = run.read_result()
    assert result["ended_by"] == "trainer.max_epochs=8" and [each["step"] for each in result["best"]] == [
        5 * (e + 1) for e in order
    ]
    assert [each["train/loss"] for each in result["best"]] == pytest.approx([means[e] for e in order], rel=1e-6)

    stale = [sum(1 for _ in range(e - means[: e + 1].index(min(means[: e + 1])))) for e in range(8)]
    assert 2 in stale[:-1], means  # or the test would show little
    end = stale.index(2)
    cfg = small("simclr", *LONG, *RISING, "trainer.keep_best_k=3", "trainer.stop_early=2", *END)
    run_in(tmp_path / "whole", cfg)
    whole = RunFolder(tmp_path / "whole")
    assert epochs(whole.path) == means[: end + 1] and whole.read_result()["steps"] == 5 * (end + 1)
    best = end - 2
    assert whole.read_result()["ended_by"] == (
        f"trainer.stop_early=2: train/loss was {means[best]:.4g} at step {5 * (best + 1)} and never below since"
    )
    assert whole.read_result()["metrics"]  # the evaluation of the end was made
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5 * end + 2, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(tmp_path / "parts", cfg)
    run_in(tmp_path / "parts", cfg, resume=True)
    RunFolder(tmp_path / "parts").result_file.unlink()  # as if it had been killed before it was written
    run_in(tmp_path / "parts", cfg, resume=True)
    for key in ("state_dict", "optimizer_states", "callbacks", "global_step"):
        assert_identical(last(whole.path)[key], last(tmp_path / "parts")[key], key)
    results = [folder.read_result() for folder in (whole, RunFolder(tmp_path / "parts"))]
    for key in ("steps", "ended_by", "best", "metrics"):
        assert results[0][key] == results[1][key], key


def look_at(values: Sequence[float | None], patience: int, mode: str = "max", count: int = 1) -> tuple[Any, Best]:
    """What a best by a measure finds, epoch after epoch of ten steps; ``None``: nothing was measured there."""
    evaluation: Any = SimpleNamespace(measures={"all": None}, evaluated_at=-1, metrics={})
    best = Best("eval/rankme", mode, evaluation, count, patience)
    loop = SimpleNamespace(max_steps=-1)
    trainer: Any = SimpleNamespace(
        global_step=0, should_stop=False, fit_loop=SimpleNamespace(epoch_loop=loop),
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )  # fmt: skip
    found = []
    for value in values:
        trainer.global_step += 10
        best.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
        if value is not None:
            evaluation.evaluated_at, evaluation.metrics = trainer.global_step, {"measures[n=9]/rankme": value}
        found.append((best.look(trainer), loop.max_steps))
    return found, best


def test_epochs_without_a_measure_take_no_patience_and_equal_ones_do() -> None:
    found, best = look_at([1.0, None, 3.0, None, 3.0, None, None, 2.0], patience=2)
    assert [end for _, end in found] == [-1] * 7 + [80]
    assert best.reason == "trainer.stop_early=2: eval/rankme was 3 at step 30 and never above since"
    assert [kept and kept.steps for kept, _ in found] == [(10,), None, (30,), None, None, None, None, None]
    found, _ = look_at([4.0, 3.0, 5.0, 3.5], patience=9, mode="min", count=2)
    assert [kept and (kept.is_best, kept.steps) for kept, _ in found] == [
        (True, (10,)), (True, (20, 10)), None, (False, (20, 40))
    ]  # fmt: skip


def test_what_was_found_goes_on_and_an_older_checkpoint_has_one_best() -> None:
    _, best = look_at([1.0, 3.0, 2.0], patience=5, count=2)
    again = Best("eval/rankme", "max", best.evaluation, 2, 5)
    again.go_on(best.state())
    assert again.state() == best.state() and again.found == [(3.0, 20), (2.0, 30)] and again.stale == 1
    older = Best("eval/rankme", "max", best.evaluation)
    older.go_on({"best": -3.0, "sum": 0.0, "count": 0})
    older.take(-2.0, 40)
    assert older.kept == [(-3.0, -1)]


@pytest.mark.parametrize("override", ["keep_best_k=2", "stop_early=3"])
def test_nothing_is_better_where_nobody_says_what_is(override: str, tmp_path: Path) -> None:
    key, value = override.split("=")
    with pytest.raises(ValueError, match=f"trainer.{key} is {value}, but nothing says what is better: set trainer.kee"):
        run_in(tmp_path, small("simclr", f"trainer.{override}"))


# --- the writer


def test_a_copy_is_what_was_there_when_it_was_taken() -> None:
    weight = torch.arange(4.0)
    state = {"a": weight, "tied": weight, "more": [{"n": [1]}, (weight.view(2, 2), torch.zeros(0))]}
    found = on_host(state, {})
    weight += 1
    state["more"][0]["n"].append(2)
    assert torch.equal(found["a"], torch.arange(4.0)) and found["a"] is found["tied"]
    assert found["more"][0] == {"n": [1]} and found["more"][1][0].shape == (2, 2)


def test_training_does_not_wait_for_the_disk_but_the_next_checkpoint_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, save = RunFolder(tmp_path), torch.save

    def slow(*args: Any) -> None:
        time.sleep(0.2)
        save(*args)

    monkeypatch.setattr(torch, "save", slow)
    writer, state = CheckpointWriter(run, background=True), {"state_dict": {}, "global_step": torch.tensor(1)}
    started = time.perf_counter()
    writer.save_checkpoint(state, run.checkpoint_file)
    assert time.perf_counter() - started < 0.1 and not run.checkpoint_file.exists()
    state["global_step"] += 1  # what is saved is what was
    writer.save_checkpoint(state, run.checkpoint_file)
    assert time.perf_counter() - started > 0.2 and run.checkpoint_file.exists()
    writer.teardown()
    assert [int(load_checkpoint(path)["global_step"]) for path in run.checkpoint_files] == [2, 1]


def test_what_the_disk_refuses_is_said_at_the_next_checkpoint_and_the_last_one_stays(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    writer = CheckpointWriter(run, background=True)
    writer.save_checkpoint({"state_dict": {}, "global_step": 1}, run.checkpoint_file)
    writer.settle()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # as a quota
    try:
        writer.save_checkpoint({"state_dict": {"a": torch.zeros(100_000)}, "global_step": 2}, run.checkpoint_file)
        with pytest.raises(Interrupted, match=r"last.ckpt cannot be written \(File too large\): make room there"):
            writer.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(run.checkpoint_file)["global_step"] == 1
    assert [path.name for path in run.checkpoints.iterdir()] == ["last.ckpt"]


# --- the mirror


def test_a_mirror_has_all_that_it_takes_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = small("simclr", *SHORT, f"trainer.mirror={tmp_path}/far")
    run_in(Path("outputs/run"), cfg)
    copied = RunFolder(tmp_path / "far" / "outputs" / "run")
    assert copied.checkpoint_file.read_bytes() == RunFolder(Path("outputs/run")).checkpoint_file.read_bytes()
    assert copied.metrics_file.read_text() and not list(copied.path.rglob(".*"))
    longer = small("simclr", *SHORT, "trainer.max_epochs=3")
    run_in(copied.path, longer, resume=True)
    assert last(copied.path)["global_step"] == 6


def test_a_mirror_may_be_anything_that_fsspec_writes(tmp_path: Path) -> None:
    import fsspec

    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    run.checkpoint_file.write_bytes(b"state")
    far = Mirror("memory://bucket/runs", run)
    far.send()
    far.close()
    assert fsspec.filesystem("memory").cat("/bucket/runs/run/checkpoints/last.ckpt") == b"state"


def test_a_mirror_that_fails_or_hangs_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    run.checkpoint_file.write_bytes(b"state")
    (tmp_path / "file").touch()
    failing = Mirror(f"file://{tmp_path}/file", run)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        for _ in range(3):
            failing.send()
            time.sleep(0.05)
        failing.close()
    assert [str(note.message).partition(":")[0] for note in notes] == ["trainer.mirror"]
    monkeypatch.setattr(mirror, "PATIENCE", 0.05)
    hanging = Mirror(f"{tmp_path}/far", run)
    monkeypatch.setattr(hanging, "copy", lambda: time.sleep(0.5))
    started = time.perf_counter()
    with pytest.warns(UserWarning, match="takes too long: the last checkpoint may be missing there"):
        hanging.send()
        hanging.close()
    assert time.perf_counter() - started < 0.4
    with pytest.raises(ValueError, match=r"trainer.mirror is what://x, which cannot be opened \(Protocol not known"):
        Mirror("what://x", run)
