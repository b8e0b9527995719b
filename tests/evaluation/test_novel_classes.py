"""The discovery of new classes: what the clusters of easy, useless and half-known features score."""

from pathlib import Path

import pytest
import torch

from ssl_framework.evaluation.features import Frozen, KnowsChance, Readout
from ssl_framework.evaluation.probes.novel_classes import NovelClasses, TargetClasses, matched
from ssl_framework.runs.folder import read_json
from tests.evaluation.test_evaluation import clusters
from tests.small_runs import run_in, small

NAMES = [f"novel[known=0.5,seeds=3,classes={part}]/top1" for part in ("all", "old", "new")]
PROBE = NovelClasses(0.5, 0.5, 3, 50, 0)


def test_separable_classes_are_found_known_or_not() -> None:
    assert PROBE(clusters(200, 6, 0.02, 0), clusters(120, 6, 0.02, 1)) == pytest.approx(dict.fromkeys(NAMES, 100.0))


def test_useless_features_are_near_chance() -> None:
    train, test = (
        Frozen(torch.randn(n, 8, generator=torch.Generator().manual_seed(n)), torch.arange(n) % 6) for n in (300, 600)
    )
    found, chance = PROBE(train, test), PROBE.chance(train.y, test.y)
    assert isinstance(PROBE, KnowsChance) and list(found) == list(chance) == NAMES
    assert found[NAMES[0]] == pytest.approx(chance[NAMES[0]], abs=5)
    assert 100 / 6 < chance[NAMES[0]] < 25  # the best map of random clusters


def test_one_map_holds_for_all_samples() -> None:
    y = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    cluster = torch.tensor([1, 1, 2, 2, 2, 0, 0, 1])
    assert matched(cluster, y, 3).tolist() == [0, 0, 1, 1, 1, 2, 2, 0]
    right = (matched(cluster, y, 3) == y).double()
    found = NovelClasses(0.4, 1.0, 1, 5, 0).accuracies([cluster], y, y < 2, 3)
    assert list(found.values()) == pytest.approx([75.0, 80.0, 100 * right[y == 2].mean().item()])


def test_without_new_classes_nothing_is_scored() -> None:
    easy = clusters(60, 6, 0.02, 0)
    with pytest.warns(UserWarning, match="novel classes skipped: with known=1 the test split has samples of known"):
        assert NovelClasses(1.0, 0.5, 3, 50, 0)(easy, easy) == {}


def test_target_classes_are_scored_alone() -> None:
    y = torch.tensor([0, 1, 2, 3])
    readout = Readout(torch.eye(4), torch.tensor([0.0, 0.0, 5.0, 5.0]))
    x = torch.eye(4)
    assert TargetClasses(0.5)(Frozen(x, y), Frozen(x, y), readout) == {"target[known=0.5]/top1": 0.0}
    assert TargetClasses(1.0)(Frozen(x, y), Frozen(9 * x, y), readout) == {"target[known=1]/top1": 100.0}


def test_a_run_has_chance_beside_its_references(tmp_path: Path) -> None:
    probes = ("evaluation=novel_classes", "evaluation.probes.knn=null", "evaluation.probes.linear=null")
    run_in(tmp_path, small("simclr", "trainer.max_steps=1", *probes))
    result = read_json(tmp_path / "result.json")
    names = [f"novel[known=0.5,seeds=5,classes={part}]/top1" for part in ("all", "old", "new")]
    assert list(result["metrics"]) == list(result["baselines"]["chance"]) == names
    assert list(result["baselines"]) == ["raw_pixels", "untrained", "chance"]
