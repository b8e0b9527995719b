"""The record of a comparison grows by what has ended, and keeps what it had."""

from pathlib import Path
from typing import Any

import pytest

from ssl_framework.report import comparison
from ssl_framework.report.comparison import read_record
from tests.report.test_report import KNN, synthetic_job
from tools.comparison import TABLES, add, commands, joined, missing, wanted


def test_runs_are_added_once_with_the_references_of_their_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def score(runs: Any) -> dict[str, Any]:
        asked.append(runs[0].data)
        return {runs[0].data: {"untrained": {str(runs[0].seed): {KNN: 9.0 + runs[0].seed}}}}

    monkeypatch.setattr(comparison, "score_references", score)
    kept = tmp_path / "record"
    for data, seed in (("x", 0), ("y", 0), ("x", 1)):
        folder = tmp_path / "outputs" / f"{data}-{seed}"
        synthetic_job(folder, "a", data, seed, 10.0 + seed)
        (folder / "command.txt").write_text(f"python train.py -m hydra.sweep.dir={folder}\n")
        add(folder, kept)
    folder = tmp_path / "outputs" / "x-0"
    synthetic_job(folder, "b", "x", 0, None)
    synthetic_job(folder, "c", "x", 0, None, "unfinished")
    add(folder, kept)
    add(folder, kept)
    record = read_record(kept)
    assert record is not None and asked == ["x", "y", "x"]
    assert record.shown("a", "x", KNN) == "10.5 ± 0.7 (2)" and record.shown("a", "y", KNN) == "10.0 (1, 1 missing)"
    assert record.shown("b", "x", KNN) == "1 failed, 1 missing" and record.shown("c", "x", KNN) == "not run"
    assert record.reference("untrained", "x", KNN) == "9.5 ± 0.7 (2)"
    typed = (kept / "command.txt").read_text().splitlines()
    assert typed == [f"python train.py -m hydra.sweep.dir=outputs/record/{name}" for name in ("x-0", "y-0", "x-1")]
    other = record._replace(about={**record.about, "protocol": {**record.about["protocol"], "batch": 1}})
    with pytest.raises(ValueError, match="of batches of 128, the new runs of 1: remove the record's folder first"):
        joined(record, other)
    assert missing(record, [("a", "x", 0), ("b", "x", 0), ("c", "x", 0)]) == [("c", "x", 0)]


def test_every_method_takes_part_where_its_network_and_its_images_are() -> None:
    every, hidden = (wanted(TABLES[name], ()) for name in ("all", "vit"))
    assert {("adainf", "shapes", 0), ("simclr", "cifar10_10k", 2)} <= set(every)
    left_out = {("adainf", "cifar10_10k", 0), *((name, "shapes", 0) for name in ("mae", "distill", "dgi", "mixmatch"))}
    assert not left_out & set(every)
    assert not {("gopro", "digits", 0), ("hybrid_distillation", "digits", 0), ("hicmae", "digits", 0)} & set(hidden)
    assert {("mae", "digits", 0), ("simclr", "cifar10_10k", 1)} <= set(hidden)
    assert {method for method, _, _ in every} & {method for method, _, _ in hidden} == {"dino", "mocov3", "simclr"}
    (command,) = commands(TABLES["vit"], [case for case in hidden if case[1:] == ("cifar10_10k", 1)], Path("out"))
    assert command[2] == "experiment=comparison_vit" and "backbone.options.patch_size=8" in command
    assert command[-1] == "hydra.sweep.dir=out/cifar10_10k-1"
