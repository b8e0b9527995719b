"""A hash names what a run learns from, so that records and studies find their runs again: it outlives moves of code.

That every choice has the hash it had is seen where the choices are composed, in tests/test_configs.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ssl_framework.loading import load_run_config
from ssl_framework.runs.added_keys import as_built_first, gate_of
from ssl_framework.runs.addresses import MOVED, as_first_published, as_now
from ssl_framework.runs.config import config_hash
from tests.small_runs import config

RECORDS = Path(__file__).resolve().parents[2] / "results"


@pytest.mark.parametrize("method", ["byol", "simlap", "symmetric_relu_head", "clip"])
def test_a_stored_config_whose_parts_were_partial_is_the_config_of_today(method: str, tmp_path: Path) -> None:
    now: Any = OmegaConf.to_container(config(f"method={method}"), resolve=True)
    before = as_built_first(now)
    assert all(head["_partial_"] for head in before["student"]["heads"].values())
    assert ("_partial_" in str(before["teacher"])) == (method == "byol")
    assert (gate_of(before) or {}).get("_partial_") == (True if method == "simlap" else None)
    assert before["objective"].get("gate") is None or "num_classes" not in before["objective"]["gate"]
    OmegaConf.save(before, tmp_path / "config.yaml")
    assert load_run_config(tmp_path) == now
    assert config_hash(OmegaConf.create(before)) == config_hash(OmegaConf.create(now))


EARLIER_HEAD = {name: ("student.heads.projector.last_norm=false",) for name in ("default",)}
"""Records of SimCLR from when its projector did not end in a normalisation, and what repeats them."""


@pytest.mark.parametrize("name", ["default", "mochi_cifar10", "clip", "waves", "front_page/simclr", "front_page/mochi"])
def test_the_command_of_a_record_has_the_hash_of_the_record(name: str) -> None:
    result = json.loads((RECORDS / name / "result.json").read_text())
    settled = (f"trainer.precision={result['precision']}", *EARLIER_HEAD.get(name, ()))
    assert config_hash(config(*result["overrides"], *settled)) == result["config_hash"]


def test_every_moved_class_is_where_the_table_says() -> None:
    from hydra.utils import get_object

    for old, new in MOVED.items():
        assert get_object(new).__name__ == old.rpartition(".")[2]
    assert as_now(as_first_published({"a": [{"_target_": new} for new in MOVED.values()]})) == {
        "a": [{"_target_": new} for new in MOVED.values()]
    }


def test_a_stored_config_of_an_earlier_version_loads(tmp_path: Path) -> None:
    now: Any = OmegaConf.to_container(config("method=mochi"), resolve=True)
    before = as_first_published(now)
    assert before["views"]["_target_"] == "ssl_framework.data.views.Views"
    OmegaConf.save(before, tmp_path / "config.yaml")
    assert load_run_config(tmp_path) == now


def test_weights_of_a_run_of_the_same_seed_are_the_same_for_every_seed() -> None:
    """So that the second of two stages has a mean over seeds; weights of one and the same run are others for each."""

    def of(weights: str, seed: int) -> str:
        return config_hash(config(f"backbone.weights={weights}", f"seed={seed}"))

    assert of("outputs/first/0", 0) == of("outputs/first/1", 1) != of("outputs/other/0", 0)
    assert len({of("outputs/first/0", 0), of("outputs/first/0", 1), of("outputs/first/0", 2)}) == 2
    assert of("outputs/10/last.ckpt", 1) == of("outputs/10/last.ckpt", 2)
