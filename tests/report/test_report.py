"""Tables of multiruns and the record of a comparison: never a number without n, what failed or is missing is shown."""

import csv
import io
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from ssl_framework.commands.report import main
from ssl_framework.report import comparison
from ssl_framework.report.comparison import condense, read_record
from ssl_framework.report.tables import sweep_table
from ssl_framework.runs.config import job_folder
from ssl_framework.runs.numbers import natural

KNN = "knn[k=20,T=0.1]/top1"


def synthetic_job(
    sweep: Path, method: str, data: str, seed: int, value: float | None, state: str = "failed", config_hash: str = "abc"
) -> Path:
    """The folder of a job that ended with ``value``, or without a result in ``state``."""
    overrides = ["experiment=comparison", f"data={data}", f"method={method}", f"seed={seed}"]
    folder = sweep / job_folder(overrides)
    folder.mkdir(parents=True)
    names = {"method": method, "data": data, "overrides": overrides, "command": "python train.py"}
    (folder / "run.json").write_text(json.dumps(names))
    cfg = {"backbone": {"name": "ssl_tiny"}, "trainer": {"max_epochs": 3, "precision": "32-true", "num_threads": 1}}
    recipe = {"algorithm": {"_target_": "torch.optim.SGD"}, "lr_per_256": 0.1, "weight_decay": 0.0, "warmup": 0.1}
    cfg |= {"data": {"batch_size": 128}, "optimizer": recipe}
    cfg["trainer"]["accelerator"] = "cpu"
    OmegaConf.save(OmegaConf.create(cfg), folder / "config.yaml")
    result = {
        **names, "seed": seed, "metrics": {KNN: value}, "baselines": {}, "config_hash": config_hash, "steps": 9,
        "versions": {"torch": "2", "lightning": "2", "timm": "1"}, "commit": "0123", "device": "CPU, 1 threads",
        "cpu": "a CPU", "processes": 1, "images": {"pretrain": 30, "train": 30, "test": 20}, "wall_seconds": 5.0,
        "images_per_second": 70.0, "resumed_at": 0,
    }  # fmt: skip
    if value is not None:
        (folder / "result.json").write_text(json.dumps(result))
    elif state == "failed":
        (folder / "error.txt").write_text("ValueError: the loss, it is not finite\n")
    return folder


def cells(folder: Path) -> list[list[str]]:
    return [[str(column.header), *map(str, column.cells)] for column in sweep_table(folder).columns]


def test_one_row_a_setting_and_one_column_a_data_set_and_metric(tmp_path: Path) -> None:
    for method, data, seed, value in (
        ("a", "x", 0, 10.0), ("a", "x", 1, 14.0), ("a", "y", 0, 50.0), ("a", "y", 1, None),
        ("b", "x", 0, None), ("b", "x", 1, None), ("b", "y", 0, 30.0),
    ):  # fmt: skip
        synthetic_job(tmp_path, method, data, seed, value, "unfinished" if (method, seed) == ("b", 1) else "failed")
    knn = "knn\n\\[k=20,T=0.1]"
    assert cells(tmp_path) == [
        ["setting", "method=a", "method=b"],
        ["x\nn", "2", "0 (1 failed, 1 unfinished)"],
        [knn, "12.0 ± 2.8", "-"],
        ["y\nn", "1 (1 failed)", "1 (1 missing)"],
        [knn, "50.0", "30.0"],
    ]


def test_the_default_metrics_fit_a_terminal(tmp_path: Path) -> None:
    metrics = dict.fromkeys((KNN, "knn[k=200,T=0.1]/top1", "linear[l2=0.0001]/top1"), 52.5)
    for temperature in ("0.1", "0.2"):
        overrides = [f"objective.temperature={temperature}", "data.batch_size=256", "seed=0"]
        folder = tmp_path / job_folder(overrides)
        folder.mkdir()
        about = {"method": "simclr", "data": "shapes", "overrides": overrides, "command": "python train.py"}
        (folder / "run.json").write_text(json.dumps(about))
        (folder / "result.json").write_text(json.dumps({**about, "seed": 0, "metrics": metrics, "config_hash": "a"}))
    out = io.StringIO()
    Console(file=out, width=80).print(sweep_table(tmp_path))
    assert "…" not in out.getvalue() and out.getvalue().count(" 52.5") == 6
    assert "[k=20,T=0.1]  [k=200,T=0.1]  [l2=0.0001]" in out.getvalue()


def test_a_table_without_measures_has_its_title_in_a_line(tmp_path: Path) -> None:
    synthetic_job(tmp_path, "a", "x", 0, 10.0)
    (path,) = tmp_path.rglob("result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": {}}))
    out = io.StringIO()
    Console(file=out, width=200).print(sweep_table(tmp_path))
    assert "mean ± standard deviation over n seeds, final epoch" in out.getvalue()


def test_runs_of_different_configs_are_not_averaged(tmp_path: Path) -> None:
    synthetic_job(tmp_path, "a", "x", 0, 10.0)
    synthetic_job(tmp_path, "a", "x", 1, 14.0, config_hash="def")
    assert cells(tmp_path)[1:] == [["n", "2 (2 different configs)"], ["knn\n\\[k=20,T=0.1]", "-"]]


def test_numbers_in_settings_are_ordered_as_numbers() -> None:
    assert sorted(["b=16", "b=8", "a=0.25", "a=0.1"], key=natural) == ["a=0.1", "a=0.25", "b=8", "b=16"]


def test_a_record_holds_every_job_and_gives_back_the_same_table(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "record"
    for method, data, seed, value in (
        ("a", "x", 0, 10.0), ("a", "x", 1, 14.0), ("a", "y", 0, 50.0), ("a", "y", 1, None), ("b", "y", 0, 30.0)
    ):  # fmt: skip
        synthetic_job(runs, method, data, seed, value)
    resumed = synthetic_job(runs, "b", "y", 1, 30.0) / "result.json"
    resumed.write_text(json.dumps({**json.loads(resumed.read_text()), "resumed_at": 3}))
    (runs / "command.txt").write_text("python train.py -m\n")
    condense(runs, out, with_references=False)
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["row"], r["column"], r["seed"], r["state"], r[KNN]) for r in rows] == [
        ("a", "x", "0", "done", "10.0"), ("a", "x", "1", "done", "14.0"), ("a", "y", "0", "done", "50.0"),
        ("a", "y", "1", "failed", ""), ("b", "y", "0", "done", "30.0"), ("b", "y", "1", "done", "30.0"),
    ]  # fmt: skip
    assert rows[3]["error"] == "ValueError: the loss, it is not finite" and rows[0]["config_hash"] == "abc"
    assert rows[4]["seconds"] == "5.0" and rows[5]["seconds"] == ""  # a part of a run says nothing of the whole
    assert (out / "command.txt").read_text() == "python train.py -m\n"
    record = read_record(out)
    assert record is not None and record.about["commit"] == "0123" and record.about["cpu"] == "a CPU"
    assert record.shown("a", "x", KNN) == "12.0 ± 2.8 (2)" and record.shown("a", "y", KNN) == "50.0 (1, 1 failed)"
    assert record.shown("b", "x", KNN) == "not run"
    table = (out / "table.md").read_text()
    assert "| a | 12.0 ± 2.8 (2) | 50.0 (1, 1 failed) |" in table and "the loss, it is not finite" in table
    assert table == comparison.markdown(record)
    assert "All are trained with one optimizer (SGD, lr_per_256 0.1, weight_decay 0, warmup 0.1). Every method" in table


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert "holds no finished job" in str(ended.value)
    (tmp_path / "config.yaml").write_text("seed: 0")
    with pytest.raises(SystemExit, match=r"is a single run: python scripts/show.py report run=.* makes its page"):
        main([str(tmp_path)])


def test_settings_are_rows_of_their_own_and_what_belongs_to_the_data_is_none(tmp_path: Path) -> None:
    """Jobs on x differ in a mixer; those on y were all given fewer images, which is no setting of theirs."""
    for data, mixer, seed, value in (
        ("x", "none", 0, 10.0), ("x", "none", 1, 14.0), ("x", "cutmix", 0, 20.0), ("x", "cutmix", 1, 24.0),
        ("y", "none", 0, 30.0),
    ):  # fmt: skip
        folder = synthetic_job(tmp_path, "a", data, seed, value, config_hash=data + mixer)
        about = json.loads((folder / "run.json").read_text())
        about["overrides"] += [f"mixer={mixer}"] if data == "x" else ["data.num=9"]
        target = folder.with_name(f"{data}-{mixer}-{seed}")
        folder.rename(target)
        (target / "run.json").write_text(json.dumps(about))
    (tmp_path / "command.txt").write_text("python train.py -m\n")
    path = tmp_path / "y-none-0" / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "metrics": {**result["metrics"], "nc1": 0.25}}))  # a name without a slash
    record = condense(tmp_path, tmp_path, with_references=False)
    assert record.shown("a", "y", "nc1") == "0.25 (1, 1 missing)"
    assert record.sheet.rows == ("a", "a mixer=cutmix", "a mixer=none")
    table = comparison.table_of(record, [KNN]).splitlines()
    assert table[2:] == [
        "| a | not run | 30.0 (1, 1 missing) |",
        "| a mixer=cutmix | 22.0 ± 2.8 (2) | not run |",
        "| a mixer=none | 12.0 ± 2.8 (2) | not run |",
    ]
