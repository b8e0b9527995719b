"""Results as a terminal shows them. Needs no torch, so a sweep's end costs nothing."""

import re
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ssl_framework.report.escaping import printable, terminal_text
from ssl_framework.report.layout import by_variation
from ssl_framework.report.sheet import cells
from ssl_framework.runs.folder import read_runs
from ssl_framework.runs.numbers import mean_and_spread, short, shown, speed_of, unit_of


def run_table(result: dict[str, Any]) -> Table:
    """One run beside its references, such as the weights it began with; accuracies with their 95 % interval over test
    samples."""
    baselines, spread = result["baselines"], result.get("intervals", {})
    title = terminal_text(f"{result['method']} on {result['data']}, seed {result['seed']}")
    table = Table(title=title, caption=terminal_text(cost_of(result)))
    raw = "raw_input" if "raw_input" in baselines else "raw_pixels"  # of data that are no pictures
    columns = {"trained": result["metrics"]}
    columns |= {"before": baselines["before"]} if "before" in baselines else {}
    columns |= {"untrained": baselines.get("untrained")}
    columns |= {raw.replace("_", " "): baselines.get(raw)}
    columns |= {name: values for name, values in baselines.items() if name not in ("before", "untrained", raw)}
    table.add_column(unit_of(list(result["metrics"])), overflow="fold")
    for name in columns:
        table.add_column(f"{name} (95 %)" if name == "trained" and spread else name, justify="right", no_wrap=True)
    for metric in result["metrics"]:
        cells = [shown(metric, values[metric]) if values and metric in values else "-" for values in columns.values()]
        if metric in spread:
            cells[0] += " ({}, {})".format(*(shown(metric, end) for end in spread[metric]))
        table.add_row(Name(printable(metric)), *cells)
    return table


class Name:
    """The name of a metric, which goes on in the next line at a bracket, comma or slash if there is no room for it."""

    def __init__(self, text: str) -> None:
        self.pieces = re.findall(r"/?[^,/[]+[,[]?", text) or [text]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1 + max(map(len, self.pieces)), len("".join(self.pieces))).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for piece in self.pieces:
            if lines[-1].strip() and len(lines[-1] + piece) > options.max_width:
                lines.append(" ")
            lines[-1] += piece
        yield Text("\n".join(lines), overflow="fold")


def cost_of(result: dict[str, Any]) -> str:
    """Time, throughput and device of a run, in one line."""
    minutes, seconds = divmod(round(result["wall_seconds"]), 60)
    return f"{minutes} min {seconds} s, {speed_of(result)}, {result['device']}"


def sweep_table(folder: Path) -> Table:
    """Mean and standard deviation over seeds for every setting of a sweep; what failed or is missing is shown as such.

    Args:
        folder: of the sweep; each job's folder lies in it.
    """
    sheet, common = by_variation(read_runs(folder))
    found = cells(sheet)
    title, caption = f"{unit_of(sheet.metrics)}, mean ± standard deviation over n seeds, final epoch", " ".join(common)
    table = Table(
        title=title,
        caption=terminal_text(caption),
        min_width=None if sheet.metrics else len(title),  # or a table without measures breaks its title
        box=box.SIMPLE,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    table.add_column("setting", no_wrap=True)
    for data in sheet.columns:
        table.add_column(f"{terminal_text(data)}\nn" if data else "n", justify="right", no_wrap=True, min_width=1)
        for name in sheet.metrics:
            # Parameters on a line of their own: three metrics stay readable in a terminal of 80 columns.
            table.add_column(terminal_text(short(name)).replace("\\[", "\n\\[", 1), justify="right", no_wrap=True)
    for row in sheet.rows:
        texts = []
        for data in sheet.columns:
            cell = found[row, data]
            texts.append(f"{len(cell.by_seed)} ({cell.lacks})" if cell.lacks else str(len(cell.by_seed)))
            texts += [mean_and_spread(cell.values(name), name) for name in sheet.metrics]
        table.add_row(terminal_text(row), *texts)
    return table
