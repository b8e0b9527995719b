"""Results as tables. Reads result.json only: needs no torch, so a sweep's end costs nothing."""

import json
import statistics
from pathlib import Path
from typing import Any

from rich.table import Table


def run_table(result: dict[str, Any]) -> Table:
    """One run beside its two references, in percent."""
    baselines = result["baselines"]
    minutes, seconds = divmod(round(result["wall_seconds"]), 60)
    table = Table(
        title=f"{result['method']} on {result['data']}, seed {result['seed']}",
        caption=f"{minutes} min {seconds} s, {result['images_per_second']:,.0f} images/s, {result['device']}",
    )
    columns = {"trained": result["metrics"], "untrained": baselines.get("untrained")}
    columns |= {"raw pixels": baselines.get("raw_pixels")}
    table.add_column("top-1, percent")
    for name in columns:
        table.add_column(name, justify="right")
    for metric in result["metrics"]:
        table.add_row(
            metric.replace("[", r"\["), *(f"{values[metric]:.1f}" if values else "-" for values in columns.values())
        )
    return table


def setting_of(overrides: list[str]) -> str:
    """The overrides that tell one setting of a sweep from another: all but the seed."""
    return " ".join(item for item in overrides if not item.startswith("seed="))


def sweep_table(folder: Path) -> Table:
    """Mean and standard deviation over seeds for every setting of a sweep; jobs without a result are shown as failed.

    Args:
        folder: of the sweep; each job's folder lies in it.
    """
    settings: dict[str, list[dict[str, Any] | None]] = {}
    for about_file in sorted(folder.glob("*/run.json"), key=lambda path: int(path.parent.name)):
        about = json.loads(about_file.read_text())
        path = about_file.with_name("result.json")
        result = json.loads(path.read_text()) if path.exists() else None
        settings.setdefault(setting_of(about["overrides"]), []).append(result)
    metrics = list(dict.fromkeys(name for runs in settings.values() for run in runs if run for name in run["metrics"]))
    table = Table(title="mean ± standard deviation over seeds, final epoch, percent")
    table.add_column("setting")
    table.add_column("n", justify="right")
    for name in metrics:
        table.add_column(name.replace("[", r"\["), justify="right")
    for setting, runs in settings.items():
        finished = [run for run in runs if run]
        failed = len(runs) - len(finished)
        count = f"{len(finished)}" + (f" ({failed} failed)" if failed else "")
        cells = [
            mean_and_spread([run["metrics"][name] for run in finished if name in run["metrics"]]) for name in metrics
        ]
        table.add_row(setting or "defaults", count, *cells)
    return table


def mean_and_spread(values: list[float]) -> str:
    """``52.1 ± 0.4``; without the spread for a single value, a dash for none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
