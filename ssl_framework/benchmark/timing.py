"""How the benchmarks measure: competitors in turns within one process, figures as ratios of neighbours in time."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

Figure: TypeAlias = dict[str, float]
"""``{"median": ..., "min": ..., "max": ...}`` of one measured quantity."""


def interleaved(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, the functions called in turns (A B C A B C ...), after one unmeasured round.

    A machine that slows down for a while then slows all of them. GPU work is waited for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(repeats + 1):
        for name, function in functions.items():
            wait()
            started = time.perf_counter()
            function()
            wait()
            if round_number > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def wait() -> None:
    """Until the GPU, if any, has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def figure(values: Sequence[float]) -> Figure:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Figure:
    """Of the two calls of each round."""
    return figure([a / b for a, b in zip(numerator, denominator, strict=True)])
