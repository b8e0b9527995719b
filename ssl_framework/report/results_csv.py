"""results.csv: one row a run. Every record of runs is written and read here, whatever its rows and columns are."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from ssl_framework.report.escaping import csv_cells, csv_text
from ssl_framework.report.sheet import Entry

COLUMNS = (
    *("row", "column", "seed", "state", "seconds", "images_per_second", "steps", "reached", "protocol", "config_hash"),
)
"""Before the metrics; after them comes why a run failed."""


NUMBERS = {"seed": int, "seconds": float, "images_per_second": float, "steps": int, "reached": float}
"""Columns that are no text; a run need not have them, but for the seed."""


def write_csv(entries: Sequence[Entry]) -> str:
    """results.csv."""
    out = io.StringIO()
    metrics = list(dict.fromkeys(name for entry in entries for name in entry.values))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(csv_cells([*COLUMNS, *metrics, "error"]))
    for entry in entries:
        own = {name: getattr(entry, name) for name in (*COLUMNS, "error")} | entry.values
        writer.writerow(csv_cells(own.get(name, "") for name in (*COLUMNS, *metrics, "error")))
    return out.getvalue()


def read_csv(text: str) -> list[Entry]:
    """The entries of a results.csv."""
    lines = csv.DictReader(io.StringIO(text))
    return [entry_in({csv_text(name): csv_text(cell) for name, cell in line.items()}) for line in lines]


def entry_in(line: dict[str, str]) -> Entry:
    """The entry of a row."""
    own = (*COLUMNS, "error")
    values = {name: float(value) for name, value in line.items() if name not in own and value}
    rest: dict[str, Any] = {name: line[name] for name in own if name not in NUMBERS}
    numbers: dict[str, Any] = {name: kind(line[name]) if line[name] else None for name, kind in NUMBERS.items()}
    return Entry(values=values, **rest, **numbers)
