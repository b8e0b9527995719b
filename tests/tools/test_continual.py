"""The record of words in two tasks: which runs it asks for, and its table."""

from pathlib import Path

import pytest

from tests.small_runs import config
from tools import continual


def test_every_second_task_begins_with_the_first_of_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, tuple[str, ...]] = {}

    def train(folder: Path, arguments: tuple[str, ...]) -> dict:
        asked[folder.name] = arguments
        scores = {metric: float(len(asked)) for metric in continual.SCORES.values()}
        return {"metrics": scores, "steps": 3, "overrides": list(arguments)}

    monkeypatch.setattr(continual, "train", train)
    rows = continual.rows(tmp_path)
    assert len(rows) == len(continual.WAYS) * 3 and len(asked) == len(rows) + 3
    for name, arguments in asked.items():
        kind, *_, seed = name.split("-")
        assert f"seed={seed}" in arguments
        assert (f"teacher.backbone.weights={tmp_path}/first-{seed}" in arguments) == (kind == "second")
    assert str(tmp_path) not in rows[0]["command"] and "backbone.weights=<first>" in rows[0]["command"]
    assert continual.table(rows).splitlines()[2].startswith("| no rehearsal | 7.0 ± 5.0 (3) |")


def test_both_tasks_are_told_their_classes_by_the_protocol_too() -> None:
    first, second = (config(*continual.COMMON, *own) for own in (continual.FIRST, continual.WAYS["COCONUT"]))
    assert (first.labels.first, first.labels.end, second.labels.first, second.labels.end) == (0, 5, 5, 10)
    assert second.evaluation.head_probes.classifier.tasks.first == 5
    assert (
        second.objective.pairs > 0
        and config(*continual.COMMON, *continual.WAYS["rehearsal alone"]).objective.weight == 0
    )
