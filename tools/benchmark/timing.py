"""How the benchmarks measure: competitors in turns within one process, figures as ratios of neighbours in time."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from ssl_framework.device import give_back_freed_memory

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


def peak_extra_mib(function: Callable[[], object]) -> float:
    """Memory the call needed at its worst beyond what was in use before it, in MiB: of the GPU if there is one, else of
    this process (Linux only; ``getrusage`` would report the peak of the process that started this one)."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    give_back_freed_memory()  # or a call could do with what earlier ones have left
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is in use
    before = peak_kib()
    function()
    return (peak_kib() - before) / 2**10


def peak_kib() -> int:
    """The kernel's record of this process's largest resident size."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def figure(values: Sequence[float]) -> Figure:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Figure:
    """Of the two calls of each round."""
    return figure([a / b for a, b in zip(numerator, denominator, strict=True)])
