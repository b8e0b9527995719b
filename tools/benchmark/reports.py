"""How long a report of many runs takes: ``python -m tools.benchmark.reports [RUNS]``.

Writes run folders with made-up results to a temporary place and reports them. Every run.json and result.json is read;
the operating system may have them in memory.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ssl_framework.report.folders import report_folders
from ssl_framework.runs.folder import RunFolder, read_runs

TEMPERATURES = (0.05, 0.1, 0.2, 0.5)


SEEDS = 5


ROUNDS = 3


def settings(count: int) -> Iterator[tuple[list[str], int]]:
    """Overrides and seed of so many runs: methods by temperatures by seeds."""
    for number in range(count):
        method, rest = divmod(number, len(TEMPERATURES) * SEEDS)
        temperature, seed = divmod(rest, SEEDS)
        yield [f"method=m{method}", "data=shapes", f"objective.temperature={TEMPERATURES[temperature]}"], seed


def write_runs(folder: Path, count: int) -> None:
    """Run folders of about the size of real ones (3 KB of JSON each)."""
    rng = random.Random(0)
    versions = {f"package{i}": "1.2.3" for i in range(12)}
    protocol = {"name": "frozen/1", "changed": [], "settings": {"probes": {f"p{i}": {"k": [i]} for i in range(20)}}}
    for number, (overrides, seed) in enumerate(settings(count)):
        own = RunFolder(folder / f"run{number}")
        own.path.mkdir()
        overrides = [*overrides, f"seed={seed}"]
        about = {"method": overrides[0], "data": "shapes", "overrides": overrides, "command": "python train.py"}
        metrics = {f"{name}/top1": round(rng.gauss(50, 5), 4) for name in ("knn", "linear", "few_shot")}
        result = {
            **about, "metrics": metrics, "intervals": {name: [1.0, 2.0] for name in metrics}, "protocol": protocol,
            "baselines": {"untrained": metrics, "raw_pixels": metrics}, "seed": seed, "versions": versions,
            "config_hash": "".join(overrides[:3]), "wall_seconds": 60.0, "resumed_at": 0, "steps": 100,
        }  # fmt: skip
        own.write_about(about)
        own.write_result(result)


def measure(count: int) -> tuple[float, float]:
    """Median seconds of reading the runs alone, and of a whole report of them."""
    reading, reporting = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "runs"
        folder.mkdir()
        write_runs(folder, count)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            read_runs(folder)
            reading.append(time.perf_counter() - started)
            started = time.perf_counter()
            report_folders([folder], folder.parent / "report", "method=m0", None)
            reporting.append(time.perf_counter() - started)
    return statistics.median(reading), statistics.median(reporting)


if __name__ == "__main__":
    import scipy.stats  # noqa: F401  what the report imports when it needs it

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    reading, reporting = measure(count)
    print(f"{count:,} runs: {reporting:.2f} s, of which reading them {reading:.2f} s (median of {ROUNDS})")
