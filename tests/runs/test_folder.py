"""The folder of a run: its state and who holds it, what a table reads of it, and that nobody else spells its files."""

import ast
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ssl_framework.runs.folder import LATEST, RunFolder, point_back, read_runs, runs_in

ROOT = Path(__file__).resolve().parents[2]
RUN = RunFolder(Path("."))
FILES = [getattr(RUN, name).name for name in dir(RunFolder) if name.endswith("_file")]
FILES += ["checkpoints"]


def test_no_other_module_spells_a_file_of_a_run() -> None:
    assert {"config.yaml", "run.json", "result.json", "metrics.csv", "error.txt", "last.ckpt"} <= set(FILES)
    for path in [*(ROOT / "ssl_framework").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), ROOT / "train.py"]:
        if path.relative_to(ROOT).as_posix() == "ssl_framework/runs/folder.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value.rpartition("/")[2] not in FILES, f"{path}:{node.lineno} spells {node.value}"


def finished(folder: Path, seed: int = 0, **more: Any) -> RunFolder:
    run = RunFolder(folder)
    about = {"method": "simclr", "data": "shapes", "overrides": [f"seed={seed}"], "command": "python train.py"}
    run.prepare(OmegaConf.create({"seed": seed, "twice": "${seed}"}), about)
    result = {"metrics": {"knn/top1": 50.0 + seed}, "seed": seed, "config_hash": "abc", "wall_seconds": 5.0}
    run.write_result({**result, "resumed_at": 0, "steps": 9, "images_per_second": 70.5, **more})
    return run


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", 3, protocol={"name": "frozen/1", "settings": {"k": 1}})
    assert run.read_config() == {"seed": 3, "twice": 3} and run.read_about()["method"] == "simclr"
    found = run.summary()
    assert (found.folder, found.overrides, found.method, found.data) == (run, ("seed=3",), "simclr", "shapes")
    assert (found.seed, found.state, found.metrics, found.error) == (3, "done", {"knn/top1": 53.0}, "")
    assert (found.seconds, found.images_per_second, found.steps, found.config_hash) == (5.0, 70.5, 9, "abc")
    assert found.protocol.startswith("frozen/1#") and len(found.protocol) == len("frozen/1#") + 6
    assert finished(tmp_path / "resumed", resumed_at=4).summary().seconds is None  # the rest says nothing of the whole
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "result.json", "run.json"]


def test_an_error_is_one_line_and_a_result_hides_it(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.write_error(ValueError("the loss\n is not finite"))
    assert run.read_error() == "ValueError: the loss is not finite" and run.summary().error == ""
    run.result_file.unlink()
    assert (run.state, run.summary().error, run.summary().metrics) == ("failed", run.read_error(), {})


def test_a_run_is_running_while_a_process_holds_it_and_one_alone_can(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.result_file.unlink()
    assert (run.state, run.is_held) == ("interrupted", False)
    with run.claimed() as mine:
        assert mine and (run.state, run.is_held) == ("running", True)
        with run.claimed() as too:
            assert not too
    assert (run.state, run.is_held) == ("interrupted", False)


def look(folder: Path, ended: Any) -> None:
    while not ended.is_set():
        assert RunFolder(folder).state == "interrupted"


def test_who_merely_looks_does_not_keep_a_run_from_its_process(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.result_file.unlink()
    context = multiprocessing.get_context("fork")
    ended = context.Event()
    watchers = [context.Process(target=look, args=(run.path, ended)) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        held = 0
        for _ in range(100):
            with run.claimed() as mine:
                held += mine
            ended.wait(0.001)
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()
    assert held == 100


@pytest.mark.parametrize("trace", ["checkpoints", "metrics.csv", "result.json"])
@pytest.mark.parametrize("stage", [".", "stage_0"])
def test_a_folder_with_a_trace_of_training_is_kept(tmp_path: Path, trace: str, stage: str) -> None:
    run = RunFolder(tmp_path / "run")
    for part in (run, RunFolder(run.path / stage)):
        part.prepare(OmegaConf.create(), {})
    (run.path / stage / trace).mkdir()
    run.discard_unless_trained()
    assert run.has_trained and run.config_file.is_file()
    assert not run.has_checkpoint
    RunFolder(run.path / stage).forget_try() if trace == "checkpoints" else (run.path / stage / trace).rmdir()
    run.discard_unless_trained()
    assert not run.path.exists()


def test_latest_points_back_when_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder(Path("outputs/a")), RunFolder(Path("outputs/b"))
    first.prepare(OmegaConf.create(), {})
    first.point_latest_here()
    before = os.readlink(LATEST)
    second.prepare(OmegaConf.create(), {})
    second.point_latest_here()
    assert LATEST.resolve() == second.path.resolve()
    second.discard_unless_trained()
    point_back(before)
    assert LATEST.resolve() == first.path.resolve()


def test_runs_of_a_folder_are_those_that_say_what_they_are(tmp_path: Path) -> None:
    for seed in (1, 0):
        finished(tmp_path / f"run{seed}", seed)
    (tmp_path / "notes").mkdir()
    (tmp_path / "command.txt").write_text("python train.py -m")
    (tmp_path / "latest").symlink_to(tmp_path / "run1")
    assert [str(run) for run in runs_in(tmp_path)] == [str(tmp_path / "run0"), str(tmp_path / "run1")]
    assert [run.metrics for run in read_runs(tmp_path)] == [{"knn/top1": 50.0}, {"knn/top1": 51.0}]
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        runs_in(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", "{}", '{"metrics": {}, "seed": "x"}', "[]"])
def test_a_result_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    run = finished(tmp_path / "run")
    run.result_file.write_text(text)
    with pytest.raises(ValueError, match=r"/run holds a run.json or result.json that cannot be read"):
        run.summary()
    run.result_file.write_text(json.dumps({"metrics": {}}))
    assert run.summary().metrics == {}
