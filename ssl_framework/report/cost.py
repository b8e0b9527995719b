"""What a run that is good enough costs, by the framework of Erol et al., Cost-of-Pass: An Economic Framework for
Evaluating Language Models, 2025 (arXiv:2504.13359): the cost of an attempt over the share of attempts that succeed.

Here an attempt is a run, its cost its seconds or its steps, and its problem the data set.
"""

import math
from collections.abc import Mapping, Sequence

from ssl_framework.report.escaping import markdown_cell
from ssl_framework.report.sheet import Sheet

UNITS = ("seconds", "steps")
"""Fields of an entry that are costs."""


def cost_of_pass(costs: Sequence[float], passed: Sequence[bool]) -> float:
    """Mean cost over share of successes, in the unit of the costs: what a success costs on average if one tries until
    there is one. Infinite without a success, not a number without an attempt."""
    if not costs:
        return math.nan
    return math.inf if not any(passed) else sum(costs) / sum(passed)


def frontier(systems: Sequence[Mapping[str, float]], baseline: Mapping[str, float] | None = None) -> float:
    """The mean over problems of the least cost of a pass, of any system or of the baseline.

    Args:
        systems: each problem -> cost of a pass.
        baseline: likewise, of what is always possible, such as a person; ``None``: nothing is.
    """
    everyone = [*systems, *([] if baseline is None else [baseline])]
    problems = dict.fromkeys(problem for one in everyone for problem in one)
    least = [min(one[problem] for one in everyone if problem in one) for problem in problems]
    return sum(least) / len(least) if least else math.nan


def cost_table(sheet: Sheet, metric: str, least: float) -> str:
    """Of every setting and data set: runs that have ended, those that reach ``metric >= least``, and what one that does
    costs; then the cheapest. A run whose cost is not known, as it did not go in one piece, is no attempt.

    Raises:
        ValueError: no run has that metric.
    """
    if metric not in sheet.metrics:
        raise ValueError(f"no run has the metric {metric}; they have: {', '.join(sheet.metrics)}")
    lines = [
        f"| {metric} of at least {least:g} | data | runs | reach it | {' | '.join(f'{u} a pass' for u in UNITS)} |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    found: dict[str, dict[str, dict[str, float]]] = {unit: {} for unit in UNITS}  # unit -> row -> column -> cost
    for row in sheet.rows:
        for column in sheet.columns:
            runs = [e for e in sheet.entries if (e.row, e.column, e.state) == (row, column, "done")]
            if not (runs := [e for e in runs if metric in e.values]):
                continue
            for unit in UNITS:
                known = [
                    (float(cost), e.values[metric] >= least) for e in runs if (cost := getattr(e, unit)) is not None
                ]
                costs, passed = [cost for cost, _ in known], [good for _, good in known]
                found[unit].setdefault(row, {})[column] = cost_of_pass(costs, passed)
            reached = sum(e.values[metric] >= least for e in runs)
            shown = " | ".join(written(found[unit][row][column]) for unit in UNITS)
            lines.append(f"| {markdown_cell(row)} | {markdown_cell(column)} | {len(runs)} | {reached} | {shown} |")
    cheapest = " | ".join(written(frontier([costs_known(row) for row in found[unit].values()])) for unit in UNITS)
    return "\n".join([*lines, f"| *cheapest, mean over data* | - | - | - | {cheapest} |", ""])


def costs_known(costs: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers or infinite."""
    return {column: cost for column, cost in costs.items() if not math.isnan(cost)}


def written(cost: float) -> str:
    """A cost in a cell."""
    return "-" if math.isnan(cost) else "never" if math.isinf(cost) else f"{cost:,.0f}"
