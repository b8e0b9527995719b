"""The page of mixers says what the code that builds a run says."""

import json
import re
from pathlib import Path

import pytest

from ssl_framework.build import build_module
from tests.small_runs import small
from tools.pages.mixing import alike, mixing_page, read_mixers, verdicts

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_mixers_is_up_to_date() -> None:
    """To mend it: python -m tools.pages.readme"""
    assert (ROOT / "docs" / "mixing.md").read_text() == mixing_page(ROOT)


@pytest.mark.parametrize(
    ("method", "mixer", "accepted"),
    [("mochi", "cutmix", True), ("hallucinator", "cutmix", False), ("amcl", "mixup", False)],
)
def test_a_verdict_is_that_of_building_the_run(method: str, mixer: str, accepted: bool) -> None:
    reason = verdicts(ROOT, [method])[method][mixer]
    if accepted:
        assert reason == "" and build_module(small(method, f"mixer={mixer}"), has_labels=True).mixer is not None
        return
    with pytest.raises(ValueError) as error:
        build_module(small(method, f"mixer={mixer}"), has_labels=True)
    assert reason and reason == str(error.value)


def test_every_mixer_is_described() -> None:
    mixers = read_mixers(ROOT)
    assert {m.name for m in mixers} == {p.stem for p in (ROOT / "configs" / "mixer").glob("*.yaml")} - {"none"}
    assert all(re.search(r" et al\., .*\b20\d\d\b", m.title) for m in mixers)
    assert alike({"a": (1, 2), "b": (1, 3), "c": (1, 2)}) == [["a", "c"], ["b"]]


def test_a_mixer_without_a_network_costs_at_most_a_twentieth_of_a_step() -> None:
    """By the record, on the tiny backbone; what else there is states its cost on the page."""
    figures = json.loads((ROOT / "results" / "speed_mixers" / "benchmark.json").read_text())["mixers"]
    rules = {m.name: m.node.rule._target_ for m in read_mixers(ROOT) if not m.node.get("labels")}
    plain = {name: rule for name, rule in rules.items() if rule.split(".")[-2] in ("rules", "masks")}
    costs = {name: figures[f"{name}/over_step"]["median"] for name in plain if f"{name}/over_step" in figures}
    assert len(costs) >= 12 and max(costs.values()) <= 0.05
    assert set(plain.values()) == {plain[name] for name in costs}  # others are one of these with other numbers
