"""The table of methods and modalities: every method is in its record, and verdicts of it are those of building now."""

import json
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from ssl_framework.runs.groups import CONFIGS
from tests.small_runs import DATA, METHODS
from tools.pages.modalities import HOSTS, KINDS, RECORD, kind_of, modalities_table, verdict

ROOT = Path(__file__).resolve().parents[2]
SETS = sorted(data for data in HOSTS.values() if data in DATA)
FOUND = json.loads((ROOT / RECORD).read_text())


def test_the_record_has_every_method_on_every_host() -> None:
    """To mend it: python -m tools.pages.modalities"""
    assert sorted(FOUND) == METHODS and all(list(own) == SETS for own in FOUND.values())


@pytest.mark.parametrize("number", range(len(SETS)))
def test_a_sample_of_its_verdicts_is_that_of_building(number: int) -> None:
    """Two methods for each host, others whenever the list of methods grows."""
    data = SETS[number]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for method in METHODS[number :: len(METHODS) // 2]:
            assert verdict(method, data) == FOUND[method][data], method


def test_the_table_tells_kinds_of_refusals_apart() -> None:
    table = modalities_table(ROOT)
    assert "| all " in table and "[`simclr`](docs/methods/simclr.md)" in table
    assert kind_of("Mixup mixes pictures, but view 0 is of modality node: set mixer=none") == "mixes pictures"
    assert list(KINDS)[-1] == ""
    for method in ("simclr", "mochi", "byol", "swav"):
        assert not any(FOUND[method].values())
