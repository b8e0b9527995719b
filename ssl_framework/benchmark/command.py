"""``python scripts/benchmark.py NAME``: one table of ratios, every one measured interleaved in one process."""

import argparse
import importlib
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ssl_framework.benchmark.timing import Figure
from ssl_framework.run import device_name, versions, write_json

NAMES = ("views", "step", "loss", "knn", "load", "startup")


def main(arguments: list[str] | None = None) -> None:
    """Entry point; prints a table for each benchmark, and writes the figures with ``--json FILE``."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__)
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, help="write {benchmark: {name: {median, min, max}}} to this file")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: tiny sizes, numbers without meaning")
    given = parser.parse_args(arguments)
    console, found = Console(), {}
    for name in given.names:
        try:
            figures = importlib.import_module(f"ssl_framework.benchmark.{name}").run(given.quick)
        except ValueError as error:
            parser.exit(1, f"error: {error}\n")
        found[name] = figures
        console.print(table(name, figures))
        if given.json is not None:  # after each: an interrupted command keeps what it measured
            write_json(given.json, {**found, "about": about(given.quick)})


def about(quick: bool) -> dict[str, object]:
    """Where the figures come from."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {"device": device_name(device), "cpu": cpu_name(), "versions": versions(), "quick": quick}


def cpu_name() -> str:
    """As Linux calls it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def table(name: str, figures: dict[str, Figure]) -> Table:
    """Median, least and greatest of each figure."""
    drawn = Table("figure", "median", "min", "max", title=f"benchmark: {name}", title_justify="left")
    for key, value in figures.items():
        drawn.add_row(key, *(f"{value[column]:,.3g}" for column in ("median", "min", "max")))
    return drawn
