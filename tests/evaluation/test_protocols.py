"""Every number carries its protocol: name, version, settings, and the interval over test samples."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.features import Accuracy, Frozen, intervals, plain
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.evaluation.protocol import protocol_of, settings
from ssl_framework.runs.addresses import as_first_published
from ssl_framework.runs.groups import CONFIGS
from tests.small_runs import config

PROTOCOLS = sorted(path.stem for path in (CONFIGS / "evaluation").glob("*.yaml"))
PUBLISHED = json.loads(Path(__file__).with_name("protocols.json").read_text())


def fingerprint(name: str) -> str:
    content = as_first_published(settings(config(f"evaluation={name}").evaluation))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_named_after_its_file_and_its_version_fixes_its_numbers(name: str) -> None:
    """A default that drifts changes published numbers: raise the version in the YAML and add it to protocols.json."""
    stored = config(f"evaluation={name}").evaluation.protocol
    file, version = stored.split("/")
    assert file == name and version.isdigit()
    assert PUBLISHED.get(stored) == fingerprint(name), f"{stored}: add version {int(version) + 1}"


def test_no_version_is_listed_for_a_protocol_that_is_gone() -> None:
    assert {name.split("/")[0] for name in PUBLISHED} == set(PROTOCOLS)


def test_the_record_lists_what_the_command_changed_and_the_settings_that_resulted() -> None:
    overrides = ("evaluation.probes.knn.k=5", "evaluation.every_n_epochs=0", "evaluation.baselines=false")
    cfg = config(*overrides).evaluation
    record = protocol_of(cfg, [*overrides, "seed=1", "+evaluation.measures.x=null", "evaluation=frozen"])
    assert record["name"] == "frozen/1"
    assert record["changed"] == ["evaluation.probes.knn.k=5", "+evaluation.measures.x=null"]
    assert record["settings"]["probes"]["knn"]["k"] == 5
    assert record["settings"]["probes"]["linear"]["weight_decay"] == 1e-4
    assert not {"protocol", "every_n_epochs", "baselines"} & set(record["settings"])
    json.dumps(record)


def test_a_config_of_an_earlier_version_has_no_name() -> None:
    assert protocol_of(OmegaConf.create({"probes": {}}), [])["name"] == "unnamed"


@pytest.mark.parametrize(("right", "count"), [(37, 100), (1, 20), (950, 1000), (50, 50), (0, 50)])
def test_the_interval_is_that_of_the_percentile_bootstrap(right: int, count: int) -> None:
    """Against resampling the hits 20,000 times: equal to within one sample."""
    hits = torch.zeros(count)
    hits[:right] = 1
    draws = torch.randint(count, (20_000, count), generator=torch.Generator().manual_seed(0))
    resampled = 100 * hits[draws].mean(dim=1).double()
    expected = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    value = Accuracy(right, count)
    assert value == 100 * right / count
    assert value.interval == pytest.approx(expected, abs=100 / count + 1e-9)
    assert value.interval[0] <= value <= value.interval[1]


def test_an_accuracy_survives_the_way_to_other_ranks_and_into_files() -> None:
    value = pickle.loads(pickle.dumps(Accuracy(3, 7)))
    assert value == Accuracy(3, 7) and (value.right, value.count) == (3, 7)
    scores = {"a/top1": value, "b": 2.0}
    assert json.loads(json.dumps(scores)) == plain(scores) == {"a/top1": 300 / 7, "b": 2.0}
    assert type(plain(scores)["a/top1"]) is float
    assert list(intervals(scores)) == ["a/top1"]


def data_of(label: torch.Tensor | None) -> Any:
    class Data:
        train = Split(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), label)
        test = Split(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), None if label is None else label[:4])
        has_labels = DataModule.has_labels

    return Data()


def test_measures_see_the_train_split_with_labels_or_without_and_probes_the_rest() -> None:
    seen: list[tuple[int, bool]] = []

    def measure(train: Frozen) -> dict[str, float]:
        seen.append((len(train.x), train.y is None))
        return {"mean": train.x.mean().item()}

    def probe(train: Frozen, test: Frozen) -> dict[str, float]:
        return {"probe/top1": Accuracy(len(test.x), len(test.x))}

    def features(images: Split) -> dict[str, torch.Tensor]:
        return {"": torch.ones(len(images.rows), 3)}

    both = FrozenEvaluation({"p": probe}, 0, measures={"m": measure, "off": None})  # type: ignore[dict-item]
    assert both.score(features, data_of(torch.arange(8) % 2)) == {"probe/top1": 100.0, "mean": 1.0}
    alone = FrozenEvaluation({}, 0, measures={"m": measure})
    assert alone.wanted and alone.score(features, data_of(None)) == {"mean": 1.0}
    assert seen == [(8, False), (8, True)]
