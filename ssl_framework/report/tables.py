"""Results as tables. Reads result.json only: needs no torch, so a sweep's end costs nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from ssl_framework.runs.folder import ERROR
from ssl_framework.runs.numbers import mean_and_spread, natural, short, shown, unit_of


def run_table(result: dict[str, Any]) -> Table:
    """One run beside its two references; accuracies with their 95 % interval over test samples."""
    baselines, spread = result["baselines"], result.get("intervals", {})
    table = Table(title=f"{result['method']} on {result['data']}, seed {result['seed']}", caption=cost_of(result))
    raw = "raw_input" if "raw_input" in baselines else "raw_pixels"  # of data that are no pictures
    columns = {"trained": result["metrics"], "untrained": baselines.get("untrained")}
    columns |= {raw.replace("_", " "): baselines.get(raw)}
    table.add_column(unit_of(result["metrics"]), overflow="fold")
    for name in columns:
        table.add_column(f"{name} (95 %)" if name == "trained" and spread else name, justify="right", no_wrap=True)
    for metric in result["metrics"]:
        cells = [shown(metric, values[metric]) if values and metric in values else "-" for values in columns.values()]
        if metric in spread:
            cells[0] += " ({}, {})".format(*(shown(metric, end) for end in spread[metric]))
        table.add_row(metric.replace("[", r"\["), *cells)
    return table


def cost_of(result: dict[str, Any]) -> str:
    """Time, throughput and device of a run, in one line."""
    minutes, seconds = divmod(round(result["wall_seconds"]), 60)
    return f"{minutes} min {seconds} s, {result['images_per_second']:,.0f} images/s, {result['device']}"


class Job(NamedTuple):
    """One job of a multirun, as its folder tells it."""

    overrides: tuple[str, ...]  # what the command chose for it
    result: dict[str, Any] | None  # of result.json
    error: str | None  # why it failed, if it did
    about: dict[str, Any]  # of run.json

    @property
    def seed(self) -> str:
        """``seed=0`` as the command chose it; "" where it did not."""
        return next((item for item in self.overrides if item.startswith("seed=")), "")

    @property
    def state(self) -> str:
        """ "done", "failed", or "unfinished": interrupted, or still running."""
        return "done" if self.result else ("unfinished" if self.error is None else "failed")


def read_jobs(folder: Path) -> list[Job]:
    """All jobs of a multirun, ordered by their overrides and numbers in them, whoever ran them and when.

    Args:
        folder: of the multirun; each job's folder lies in it.
    """
    jobs = []
    for about_file in folder.glob("*/run.json"):
        result, error = about_file.with_name("result.json"), about_file.with_name(ERROR)
        about = json.loads(about_file.read_text())
        jobs.append(
            Job(
                tuple(about["overrides"]),
                json.loads(result.read_text()) if result.exists() else None,
                error.read_text().strip() if error.exists() else None,
                about,
            )
        )
    return sorted(jobs, key=lambda job: natural("\n".join(job.overrides)))


class Cell(NamedTuple):
    """The runs of one setting on one data set that differ in the seed only."""

    values: dict[str, list[float]]  # metric -> one value a finished run
    finished: int
    failed: int
    unfinished: int
    missing: int  # seeds that other cells have
    configs: int  # different configs among the finished runs: more than one must not be averaged

    @property
    def counted(self) -> str:
        """``3``, or ``2 (1 failed)``."""
        rest = [f"{n} {what}" for what in ("failed", "unfinished", "missing") if (n := getattr(self, what))]
        rest += [f"{self.configs} different configs"] if self.configs > 1 else []
        return f"{self.finished} ({', '.join(rest)})" if rest else str(self.finished)

    def mean(self, metric: str) -> str:
        """``52.1 ± 0.4``; a dash where there is nothing that may be averaged."""
        return mean_and_spread(self.values.get(metric, []) if self.configs <= 1 else [], metric)


class Grid(NamedTuple):
    """A multirun by setting and data set, over seeds."""

    common: tuple[str, ...]  # overrides of all jobs
    settings: list[tuple[str, ...]]  # what varies beside data set and seed
    data: list[str]  # "" where it does not vary
    metrics: list[str]
    cells: dict[tuple[tuple[str, ...], str], Cell]


def grid(jobs: Sequence[Job]) -> Grid:
    """The jobs of a multirun by what varies among them."""
    common = tuple(item for item in (jobs[0].overrides if jobs else ()) if all(item in job.overrides for job in jobs))
    found: dict[tuple[tuple[str, ...], str], list[Job]] = {}
    for job in jobs:
        varied = [item for item in job.overrides if item not in common and not item.startswith("seed=")]
        data = next((item.removeprefix("data=") for item in varied if item.startswith("data=")), "")
        setting = tuple(item for item in varied if not item.startswith("data="))
        found.setdefault((setting, data), []).append(job)
    seeds = {job.seed for job in jobs}
    settings = sorted({setting for setting, _ in found}, key=lambda setting: natural("\n".join(setting)))
    data_sets = sorted({data for _, data in found}, key=natural)
    cells = {(s, d): cell(found.get((s, d), []), seeds) for s in settings for d in data_sets}
    metrics = list(dict.fromkeys(name for each in cells.values() for name in each.values))
    return Grid(common, settings, data_sets, metrics, cells)


def cell(runs: Sequence[Job], seeds: set[str]) -> Cell:
    """What became of the runs of one setting; ``seeds`` are those it should have."""
    results = [job.result for job in runs if job.result]
    states = [job.state for job in runs]
    names = dict.fromkeys(name for result in results for name in result["metrics"])
    return Cell(
        {name: [result["metrics"][name] for result in results if name in result["metrics"]] for name in names},
        states.count("done"),
        states.count("failed"),
        states.count("unfinished"),
        len(seeds - {job.seed for job in runs}),
        len({result.get("config_hash") for result in results}),
    )


def sweep_table(folder: Path) -> Table:
    """Mean and standard deviation over seeds for every setting of a sweep; what failed or is missing is shown as such.

    Args:
        folder: of the sweep; each job's folder lies in it.
    """
    found = grid(read_jobs(folder))
    table = Table(
        title=f"{unit_of(found.metrics)}, mean ± standard deviation over n seeds, final epoch",
        caption=" ".join(found.common),
        box=box.SIMPLE,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    table.add_column("setting", no_wrap=True)
    for data in found.data:
        table.add_column(f"{data}\nn" if data else "n", justify="right", no_wrap=True, min_width=1)
        for name in found.metrics:
            # Parameters on a line of their own: three metrics stay readable in a terminal of 80 columns.
            table.add_column(short(name).replace("[", "\n\\[", 1), justify="right", no_wrap=True)
    for setting in found.settings:
        cells = [found.cells[setting, data] for data in found.data]
        row = [text for cell in cells for text in (cell.counted, *(cell.mean(name) for name in found.metrics))]
        table.add_row("\n".join(setting) or "all alike", *row)
    return table
