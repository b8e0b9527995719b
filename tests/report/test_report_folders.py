"""One table of any multiruns: what is a row and what a column, what is refused, and that each is read as it stands."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssl_framework.commands.report import main
from ssl_framework.report.folders import report_folders
from ssl_framework.report.layout import by_setting
from ssl_framework.report.results_csv import read_csv
from ssl_framework.report.sheet import cells
from ssl_framework.runs.folder import read_runs
from tests.study.test_study import TABLE
from tools.benchmark.reports import settings, write_runs

KNN = "knn[k=20,T=0.1]/top1"


def run(folder: Path, overrides: str, value: float | None, **more: Any) -> Path:
    """The folder of a run that ended with ``value``; of None it is interrupted, or failed where ``error`` is given."""
    own = folder / overrides.replace(" ", "+")
    own.mkdir(parents=True)
    items = overrides.split()
    names = dict(item.split("=", 1) for item in items)
    about = {"method": names.get("method", "simclr"), "data": names.get("data", "shapes"), "overrides": items}
    (own / "run.json").write_text(json.dumps(about))
    if "error" in more:
        (own / "error.txt").write_text(more.pop("error"))
    if value is not None:
        config = " ".join(item for item in items if not item.startswith("seed="))
        result = {"metrics": {KNN: value, "nc1": 0.5}, "seed": int(names.get("seed", 0)), "config_hash": config}
        (own / "result.json").write_text(json.dumps({**result, "wall_seconds": 5.0, "resumed_at": 0, **more}))
    return own


def test_a_page_of_several_runs_has_their_curves(tmp_path: Path) -> None:
    """Also that of one that trains; a record that is damaged has none."""
    for seed, value in enumerate((50.0, 51.0, None)):
        own = run(tmp_path / "a", f"method=simclr seed={seed}", value)
        rows = [f'{step},"{name}",{step + seed}' for name in ("train/loss", f"eval/{KNN}") for step in (0, 5)]
        (own / "metrics.csv").write_text("\n".join(["step,name,value", *rows, ""]))
    (own / "metrics.csv").write_text("step,name,value\nno row\n0,train/loss,1.0\n")
    out = tmp_path / "out"
    main([str(tmp_path / "a"), "--out", str(out)])
    page = (out / "table.html").read_text()
    svg = base64.b64decode(page.partition("data:image/svg+xml;base64,")[2].partition('"')[0]).decode()
    assert svg.count("<polyline") == 4 and all(f">seed={seed}</text>" in svg for seed in range(3))
    assert ">loss</text>" in svg and f">{KNN}</text>" in svg
    main([str(tmp_path / "a"), "--metric", KNN, "--out", str(out)])
    for number in range(11):
        run(tmp_path / "many", f"method=simclr seed={number}", 1.0)
    main([str(tmp_path / "many"), "--out", str(out)])
    assert "svg" not in (out / "table.html").read_text()


def lines(out: Path) -> list[str]:
    return (out / "table.md").read_text().splitlines()


def test_rows_are_settings_and_columns_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for seed, value in enumerate((50.0, 52.0, 51.0)):
        run(tmp_path / "a", f"experiment=e method=simclr data=x seed={seed}", value)
        run(tmp_path / "a", f"experiment=e method=mochi data=x seed={seed}", value + 3 + seed % 2)
    run(tmp_path / "b", "experiment=e method=simclr data=y data.num=9 seed=0", 70.0, resumed_at=4)
    run(tmp_path / "b", "experiment=e method=simclr data=y data.num=9 seed=1", None)
    run(tmp_path / "b", "experiment=e method=mochi data=y data.num=9 seed=0", None, error="ValueError: no\n")
    out = tmp_path / "out"
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--baseline", "method=simclr", "--metric", KNN, "--out", str(out)])
    assert lines(out)[4] == "In common: experiment=e."
    table = lines(out)[lines(out).index("| data → | x | y |") :]
    assert table[2] == "| method=mochi | **54.3 ± 1.5 (3)** * | 1 failed, 2 missing |"
    assert table[3] == "| method=simclr | 51.0 ± 1.0 (3) | 70.0 (1, 1 unfinished, 1 missing) |"
    assert "| method=mochi | +3.3 ± 0.6 (n 3, p 0.0099) | - |" in table
    found = read_csv((out / "results.csv").read_text())
    assert len(found) == 9 and [e.error for e in found if e.state == "failed"] == ["ValueError: no"]
    assert sorted(p.name for p in out.iterdir()) == ["results.csv", "table.csv", "table.html", "table.md", "table.tex"]
    assert "<table>" in (out / "table.html").read_text() and r"\toprule" in (out / "table.tex").read_text()
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert [(r["row"], r["column"], r["n"]) for r in rows if r["n"] != "0"] == [
        ("method=mochi", "x", "3"), ("method=simclr", "x", "3"), ("method=simclr", "y", "1")
    ]  # fmt: skip
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


def test_the_one_number_that_was_swept_makes_the_columns(tmp_path: Path) -> None:
    for t in ("0.5", "0.05", "0.1"):
        for method in ("a", "b"):
            run(tmp_path, f"method={method} objective.temperature={t} seed=0", 50.0)
    sheet, common = by_setting(read_runs(tmp_path), None, None)
    assert (sheet.axis, sheet.columns) == ("objective.temperature", ("0.05", "0.1", "0.5"))
    assert (sheet.rows, sheet.metrics, common) == (("method=a", "method=b"), (KNN, "nc1"), ["seed=0"])
    run(tmp_path, "method=a seed=0", 50.0)  # has no such number
    assert by_setting(read_runs(tmp_path), None, None)[0].columns == ("shapes",)


def test_two_swept_numbers_are_rows_in_the_order_of_numbers(tmp_path: Path) -> None:
    for lr in ("8", "16"):
        for t in ("0.5", "0.1"):
            run(tmp_path, f"lr={lr} t={t}", 50.0)
    sheet, _ = by_setting(read_runs(tmp_path), "t=0.1 lr=8", KNN)
    assert sheet.rows == ("lr=8 t=0.1", "lr=8 t=0.5", "lr=16 t=0.1", "lr=16 t=0.5")
    assert (sheet.columns, sheet.baseline) == (("shapes",), "lr=8 t=0.1")


def test_a_run_found_twice_counts_once(tmp_path: Path) -> None:
    run(tmp_path / "a", "method=a seed=0", None)
    run(tmp_path / "b", "method=a seed=0", 50.0)
    run(tmp_path / "c", "method=a seed=0", 50.0)
    folders = [tmp_path / name for name in "abcc"]
    sheet = report_folders(folders, tmp_path / "out", None, None)
    assert len(sheet.entries) == 1 and cells(sheet)["all alike", "shapes"].values(KNN) == [50.0]
    run(tmp_path / "d", "method=a seed=0", 51.0)
    with pytest.raises(ValueError, match=r"/b/.* and .*/d/.* are runs of the same setting and seed with different"):
        report_folders([*folders, tmp_path / "d"], tmp_path / "out", None, None)


def test_refusals_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs, empty = tmp_path / "runs", tmp_path / "empty"
    empty.mkdir()
    for method in "ab":
        for mixer in "cd":
            run(runs, f"method={method} mixer={mixer}", 50.0)
    for arguments, message in (
        ([str(tmp_path / "no"), "--out", "x"], "no does not exist"),
        ([str(empty), "--out", "x"], "there is no finished run of a multirun in these folders"),
        ([str(runs), "--metric", "acc"], f"no run has the metric acc; they have: {KNN}, nc1"),
        (
            [str(runs), "--baseline", "method=e"],
            "--baseline 'method=e' is no row: give overrides that one row has, of:",
        ),
        ([str(runs), "--baseline", "method=a"], "--baseline 'method=a' is 2 rows"),
        ([str(runs), str(runs), "--references"], "--references is for the record of one multirun"),
        (["study=dcl/batch_size", "--metric", "x"], "--metric is not for studies"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = str(ended.value)
        assert said.startswith("error: ") and message in said and "\n" not in said


def test_protocols_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for seed, k in ((0, 20), (1, 200)):
        run(tmp_path, f"method=a seed={seed}", 50.0, protocol={"name": "frozen/1", "settings": {"k": k}})
    run(tmp_path, "method=b seed=0", 50.0)  # from before there were protocols
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert "error: the column shapes mixes protocols: method=a was measured with frozen/1#" in str(ended.value)
    assert not (tmp_path / "out").exists()


def test_the_record_of_one_multirun_is_as_before(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from tests.report.test_report import synthetic_job

    synthetic_job(tmp_path / "runs", "a", "x", 0, 10.0)
    (tmp_path / "runs" / "command.txt").write_text("python train.py -m\n")
    (tmp_path / "record").mkdir()
    main([str(tmp_path / "runs"), str(tmp_path / "record")])
    assert (tmp_path / "record" / "about.json").is_file()
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "record")


def test_the_table_of_a_study_as_it_stands(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TABLE))
    main(["study=mine.yaml", "--out", "out"])
    assert "| DCL | 1 missing |" in (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == "out"
    with pytest.raises(SystemExit, match="has no scale=large"):
        main(["study=mine.yaml", "scale=large"])


def test_a_result_that_is_none_is_named(tmp_path: Path) -> None:
    own = run(tmp_path, "method=a seed=0", 50.0)
    (own / "result.json").write_text("{")
    with (
        pytest.raises(ValueError, match="there is no finished run of a multirun"),
        pytest.warns(UserWarning, match=r"method=a\+seed=0.*result\.json is damaged"),
    ):
        report_folders([tmp_path], tmp_path / "out", None, None)


def test_the_benchmarks_runs_are_a_table_of_methods_by_temperature(tmp_path: Path) -> None:
    write_runs(tmp_path, 45)
    assert len(list(settings(45))) == 45
    sheet = report_folders([tmp_path], tmp_path / "out", "method=m0", None)
    assert sheet.rows == ("method=m0", "method=m1", "method=m2") and sheet.axis == "objective.temperature"
    assert len(cells(sheet)["method=m1", "0.1"].values("knn/top1")) == 5
