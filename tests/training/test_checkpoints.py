"""Checkpoints: the last two are kept, each with its checksums, and a damaged one is never used without a word."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_framework.loading import load_run
from ssl_framework.models.weights import load_checkpoint, newest_checkpoint
from ssl_framework.runs.durable import damage, replacing
from ssl_framework.runs.folder import RunFolder
from tests.small_runs import run_in, small
from tests.training.test_resume import assert_identical, last


def flip(path: Path, share: float, count: int = 1) -> None:
    """Flips a bit in each of ``count`` bytes at this share of a file."""
    content = bytearray(path.read_bytes())
    for at in range(int(share * len(content)), int(share * len(content)) + count):
        content[at] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_in(folder, small("simclr"))
    return folder


def copy_of(run: Path, folder: Path) -> RunFolder:
    folder.mkdir()
    os.system(f"cp -r {run}/. {folder}")
    return RunFolder(folder)


def test_the_last_two_are_kept_and_nothing_else(whole: Path) -> None:
    run = RunFolder(whole)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["before.ckpt", "last.ckpt"]
    steps = [load_checkpoint(path)["global_step"] for path in run.checkpoint_files]
    assert steps == [12, 6]
    assert run.checkpoint_file.stat().st_ino != run.previous_checkpoint_file.stat().st_ino


DAMAGES = {
    "flipped": lambda path: flip(path, 0.5, 20),
    "one bit": lambda path: flip(path, 0.3),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_of_a_damaged_last_one_the_one_before_is_taken_with_a_line(how: str, whole: Path, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path / "run")
    DAMAGES[how](run.checkpoint_file)
    found = newest_checkpoint(run)
    assert found.path == run.previous_checkpoint_file and found.content["global_step"] == 6
    what = "missing" if how == "deleted" else "damaged"
    assert found.note.startswith(f"last.ckpt is {what}") and found.note.endswith(": going on with before.ckpt, step 6")
    run.previous_checkpoint_file.write_bytes(b"PK")
    if how == "deleted":
        with pytest.raises(ValueError, match=r"no whole checkpoint: last.ckpt is missing; before.ckpt is damaged \("):
            newest_checkpoint(run)
    else:
        with pytest.raises(ValueError, match=r"no whole checkpoint: last.ckpt is damaged \(.*; before.ckpt is damaged"):
            newest_checkpoint(run)


def test_a_run_goes_on_from_the_one_before_to_the_same_end(whole: Path, tmp_path: Path, capfd: Any) -> None:
    run = copy_of(whole, tmp_path / "run")
    flip(run.checkpoint_file, 0.5)
    run.result_file.unlink()
    assert run_in(run.path, small("simclr"), resume=True) is None
    assert "going on with before.ckpt, step 6\nresuming at step 6" in capfd.readouterr().out
    assert_identical(last(run.path)["state_dict"], last(whole)["state_dict"])
    assert run.metrics_file.read_text() == RunFolder(whole).metrics_file.read_text()
    assert [load_checkpoint(path)["global_step"] for path in run.checkpoint_files] == [12, 6]


def test_who_loads_a_run_is_told_of_a_damaged_checkpoint(whole: Path, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path / "run")
    flip(run.checkpoint_file, 0.5)
    with pytest.warns(UserWarning, match=r"last.ckpt is damaged \(.*\): going on with before.ckpt, step 6"):
        _, module = load_run(run.path, [])
    expected = load_checkpoint(run.previous_checkpoint_file)["state_dict"]
    assert_identical(dict(module.state_dict()), dict(expected))


def test_every_byte_of_the_tensors_is_covered_by_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"a": torch.arange(300.0)}}, path)
    content = path.read_bytes()
    start = content.index(torch.arange(300.0).numpy().tobytes())
    for at in range(start, start + 1200, 37):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert "checksum" in damage(path)
    path.write_bytes(content)
    assert damage(path) == ""


def test_what_fails_while_a_file_is_replaced_leaves_it_as_it_was(tmp_path: Path) -> None:
    path, older = tmp_path / "last.ckpt", tmp_path / "before.ckpt"
    for text in ("one", "two"):
        with replacing(path, older) as partial:
            partial.write_text(text)
    with pytest.raises(OSError, match="full"), replacing(path, older) as partial:
        partial.write_text("thr")
        raise OSError("the disk is full")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"last.ckpt": "two", "before.ckpt": "one"}


def test_a_file_system_without_links_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", link)
    path, older = tmp_path / "last.ckpt", tmp_path / "before.ckpt"
    for text in ("one", "two", "three"):
        with replacing(path, older) as partial:
            partial.write_text(text)
    assert (path.read_text(), older.read_text()) == ("three", "two")


def test_partial_files_of_killed_processes_are_swept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    run.pictures.mkdir()
    stale = [tmp_path / f".config.yaml.{gone}", run.checkpoints / f".last.ckpt.{gone}"]
    stale += [tmp_path / f".report.{gone}.html", run.pictures / f".views.{gone}.png"]
    stale.append(run.checkpoints / f".last.ckpt.{os.getpid()}")  # in a container every start may have the same number
    kept = [tmp_path / f".config.yaml.{os.getppid()}", tmp_path / ".hydra", run.checkpoints / "last.ckpt"]
    for path in (*stale, *kept):
        path.touch()
    run.sweep_partials()
    assert [path.exists() for path in (*stale, *kept)] == [False] * 5 + [True] * 3


def without(name: str) -> Any:
    return lambda found: {key: value for key, value in found.items() if key != name}


CONTENTS = {
    "nothing": (lambda found: {}, "is no checkpoint of a run: what lies in it lacks 'state_dict'"),
    "a list": (lambda found: [1], "is no checkpoint of a run: what lies in it is of the type list"),
    "a tensor": (lambda found: torch.zeros(3), "is no checkpoint of a run: what lies in it is of the type Tensor"),
    "weights alone": (lambda found: {"state_dict": found["state_dict"]}, "has no global_step, without which a run"),
    **{
        f"no {name}": (without(name), f"has no {name}, without which a run does not go on exactly")
        for name in ("loops", "callbacks", "DataModule", "optimizer_states", "lr_schedulers")
    },
    "no optimizer": (lambda found: {**found, "optimizer_states": []}, "has 0 optimizer_states, but a run has one"),
    "no evaluation": (lambda found: {**found, "callbacks": {}}, "does not say what was evaluated when"),
    "no counts": (lambda found: {**found, "loops": {"fit_loop": {}}}, "does not say where in the run it was made"),
    "other counts": (lambda found: {**found, "global_step": 5}, "contradicts itself .step 5 and 12, batch 0 and 0"),
    "other data": (lambda found: {**found, "DataModule": {"served": 2}}, "batch 2 and 0 of an epoch"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_run_goes_on_from_a_checkpoint_that_has_everything_or_not_at_all(
    kind: str, whole: Path, tmp_path: Path
) -> None:
    run = copy_of(whole, tmp_path / "run")
    change, words = CONTENTS[kind]
    torch.save(change(load_checkpoint(run.checkpoint_file)), run.checkpoint_file)
    with pytest.raises(ValueError, match=words):
        run_in(run.path, small("simclr", "trainer.max_epochs=3"), resume=True)


def test_the_checkpoint_of_another_method_is_refused(whole: Path) -> None:
    with pytest.raises(ValueError, match=r"is not of this run: .* is missing there .and \d+ more"):
        run_in(whole, small("mocov2", "trainer.max_epochs=3"), resume=True)


def test_a_run_that_has_trained_longer_than_it_should_is_refused(whole: Path) -> None:
    for key, value, allowed in (("max_epochs", 1, 6), ("max_steps", 7, 7)):
        words = f"has trained for 12 steps, but trainer.{key}={value} allows {allowed}: leave trainer.{key} out"
        with pytest.raises(ValueError, match=words):
            run_in(whole, small("simclr", f"trainer.{key}={value}"), resume=True)
    with pytest.raises(ValueError, match=r"is complete \(12 steps\): raise trainer.max_epochs to train it further"):
        run_in(whole, small("simclr"), resume=True)


def test_a_cut_line_of_metrics_goes_and_a_damaged_one_is_named(whole: Path, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path / "run")
    text, rows = run.metrics_file.read_text(), run.read_metrics()
    run.metrics_file.write_text(text + "12,train/loss,2.0")  # without an end nobody knows whether it is all of it
    assert run.read_metrics() == rows
    run.result_file.unlink()
    assert run_in(run.path, small("simclr"), resume=True) is None
    assert run.metrics_file.read_text() == text
    run.metrics_file.write_text(text.replace("3,train/loss", "3,train/loss\n3", 1))
    with pytest.raises(ValueError, match=r"line \d+ of .*metrics.csv is no step, name and value \('3,train/loss'\)"):
        run.read_metrics()
