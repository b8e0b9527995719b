"""Results as tables. Reads result.json only: needs no torch, so a sweep's end costs nothing."""

import json
import statistics
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table


def run_table(result: dict[str, Any]) -> Table:
    """One run beside its two references, in percent."""
    baselines = result["baselines"]
    table = Table(title=f"{result['method']} on {result['data']}, seed {result['seed']}", caption=cost_of(result))
    columns = {"trained": result["metrics"], "untrained": baselines.get("untrained")}
    columns |= {"raw pixels": baselines.get("raw_pixels")}
    table.add_column("top-1, percent")
    for name in columns:
        table.add_column(name, justify="right")
    for metric in result["metrics"]:
        table.add_row(
            metric.replace("[", r"\["),
            *(f"{values[metric]:.1f}" if values and metric in values else "-" for values in columns.values()),
        )
    return table


def cost_of(result: dict[str, Any]) -> str:
    """Time, throughput and device of a run, in one line."""
    minutes, seconds = divmod(round(result["wall_seconds"]), 60)
    return f"{minutes} min {seconds} s, {result['images_per_second']:,.0f} images/s, {result['device']}"


def sweep_table(folder: Path) -> Table:
    """Mean and standard deviation over seeds for every setting of a sweep; jobs without a result are shown as failed.

    Args:
        folder: of the sweep; each job's folder lies in it.
    """
    jobs: list[tuple[list[str], dict[str, Any] | None]] = []
    for about_file in sorted(folder.glob("*/run.json"), key=lambda path: int(path.parent.name)):
        path = about_file.with_name("result.json")
        result = json.loads(path.read_text()) if path.exists() else None
        jobs.append((json.loads(about_file.read_text())["overrides"], result))
    common = [item for item in (jobs[0][0] if jobs else []) if all(item in overrides for overrides, _ in jobs)]
    settings: dict[str, list[dict[str, Any] | None]] = {}
    for overrides, result in jobs:  # what tells one setting from another: what varies, but for the seed
        varied = [item for item in overrides if item not in common and not item.startswith("seed=")]
        settings.setdefault("\n".join(varied), []).append(result)
    metrics = list(dict.fromkeys(name for runs in settings.values() for run in runs if run for name in run["metrics"]))
    table = Table(
        title="top-1, percent, mean ± standard deviation over n seeds, final epoch",
        caption=" ".join(common),
        box=box.SIMPLE,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    table.add_column("setting", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True, min_width=1)
    for name in metrics:
        table.add_column(name.removesuffix("/top1").replace("[", r"\["), justify="right", no_wrap=True)
    for setting, runs in settings.items():
        finished = [run for run in runs if run]
        failed = len(runs) - len(finished)
        count = f"{len(finished)}" + (f" ({failed} failed)" if failed else "")
        cells = [
            mean_and_spread([run["metrics"][name] for run in finished if name in run["metrics"]]) for name in metrics
        ]
        table.add_row(setting or "all alike", count, *cells)
    return table


def mean_and_spread(values: list[float]) -> str:
    """``52.1 ± 0.4``; without the spread for a single value, a dash for none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
