"""What a run that is good enough costs: the golden value, the limits, and a table of folders by the command."""

import math
from pathlib import Path

import pytest

from ssl_framework.commands.report import main
from ssl_framework.report.cost import cost_of_pass, frontier
from tests.golden import golden
from tests.report.test_report_folders import KNN, run


def test_golden() -> None:
    one = cost_of_pass([1, 2, 1, 2], [True, False, True, False])
    two = cost_of_pass([0.4] * 4, [False, False, True, False])
    name = "cost_of_pass: mean cost / mean success of four attempts; frontier over two models and a baseline of 5"
    assert [one, two, frontier([{"p": one}, {"p": two}], {"p": 5})] == pytest.approx(golden(name))


def test_it_is_what_trying_until_one_passes_costs() -> None:
    """Mean cost over probability: the mean of a geometric distribution times the cost of a trial."""
    p, cost = 0.25, 3.0
    expected = sum(n * cost * (1 - p) ** (n - 1) * p for n in range(1, 400))
    assert cost_of_pass([cost] * 4, [True, False, False, False]) == pytest.approx(expected)
    assert cost_of_pass([1, 1], [False, False]) == math.inf and math.isnan(cost_of_pass([], []))


def test_the_frontier_takes_the_cheapest_of_each_problem() -> None:
    systems = [{"a": 3.0, "b": math.inf}, {"a": 5.0, "b": 9.0, "c": math.inf}]
    assert frontier(systems) == math.inf
    assert frontier(systems, {"c": 30.0}) == pytest.approx((3 + 9 + 30) / 3)
    assert math.isnan(frontier([]))


def test_the_command_says_what_reaching_a_level_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, values in (("simclr", (61.0, 59.0)), ("byol", (50.0, 51.0))):
        for seed, value in enumerate(values):
            run(tmp_path / "a", f"method={method} seed={seed}", value, steps=100 + 20 * seed)
    main([str(tmp_path / "a"), "--metric", KNN, "--reach", "60", "--out", str(tmp_path / "out")])
    said = (tmp_path / "out" / "cost.md").read_text()
    assert said in capsys.readouterr().out
    rows = [line.split(" | ") for line in said.splitlines()]
    assert rows[2] == ["| method=byol", "shapes", "2", "0", "never", "never |"]
    assert rows[3] == ["| method=simclr", "shapes", "2", "1", "10", "220 |"]
    assert rows[4][-2:] == ["10", "220 |"]


@pytest.mark.parametrize("options", [["--reach", "60"], ["--metric", KNN, "--reach", "nan"]])
def test_a_level_without_a_metric_or_a_number_is_refused(tmp_path: Path, options: list[str]) -> None:
    run(tmp_path / "a", "method=simclr seed=0", 61.0)
    with pytest.raises(SystemExit, match=r"--reach is .*: give a number, and the metric that has to reach it"):
        main([str(tmp_path / "a"), *options])
