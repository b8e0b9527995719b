"""Numbers as they are printed: percent, spread, natural order."""

import math
import re
import statistics
from collections.abc import Sequence
from typing import Any


def natural(text: str) -> list[tuple[int, float, str]]:
    """A key that sorts 8 before 16 and 0.1 before 0.25."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def short(metric: str) -> str:
    """A metric's name without what all have in common."""
    return metric.removesuffix("/top1")


def mean_and_spread(values: list[float], metric: str = "/top1") -> str:
    """``52.1 ± 0.4`` of one multirun; without the spread for a single value, a dash for none.

    Of fractions, where a table of many runs adds floats (``report.sheet``): a mean that ends in 5 is rounded the other
    way at times, and what was printed once stays.
    """
    if not values:
        return "-"
    if not all(map(math.isfinite, values)):
        return shown(metric, math.fsum(values))
    mean = statistics.mean(values)
    return with_spread(mean, statistics.stdev(values), metric) if len(values) > 1 else shown(metric, mean)


def with_spread(mean: float, spread: float, metric: str) -> str:
    """``52.1 ± 0.4``, and of other metrics ``65.0 ± 3.4``: the spread with as many decimals as the mean has."""
    if in_percent(metric):
        decimals = 1
    else:
        decimals = 2 - math.floor(math.log10(abs(mean))) if mean and math.isfinite(mean) else -1
    if not 0 <= decimals <= 5:
        return f"{shown(metric, mean)} ± {shown(metric, spread)}"
    return f"{mean:.{decimals}f} ± {spread:.{decimals}f}"


def shown(metric: str, value: float) -> str:
    """A metric's value as it is printed: percent with one decimal, errors and correlations with three digits."""
    return f"{value:.1f}" if in_percent(metric) else f"{value:.3g}"


def in_percent(metric: str) -> bool:
    """Whether a metric of result.json is an accuracy."""
    return metric.endswith(("/top1", "/train_top1"))


def unit_of(metrics: Sequence[str]) -> str:
    """What a table of these metrics shows."""
    percent = [in_percent(metric) for metric in metrics]
    return (
        "top-1, percent" if any(percent) and all(percent) else "metric; top1 in percent" if any(percent) else "metric"
    )


def several(sample: str) -> str:
    """What samples of a modality are called: ``image`` -> ``images``, ``series`` -> ``series``."""
    return sample if sample.endswith("s") else f"{sample}s"


def speed_of(result: dict[str, Any]) -> str:
    """``1,344 images/s`` of a result.json; one of an earlier version does not say what a sample is."""
    return f"{result['images_per_second']:,.0f} {several(result.get('sample', 'image'))}/s"


def work_of(result: dict[str, Any]) -> str:
    """``0.12 TFLOP a step, 35 % of the device's peak`` of a result.json, as far as it is known; else nothing."""
    flops, share = result.get("flops_per_step"), result.get("share_of_peak")
    if not flops:
        return ""
    at_peak = "" if share is None else f", {100 * share:.1f} % of the device's peak"
    return f"{flops / 1e12:.3g} TFLOP a step{at_peak}"
