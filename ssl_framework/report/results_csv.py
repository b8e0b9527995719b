"""results.csv: one row a run."""

import csv
import io
from collections.abc import Sequence

from ssl_framework.report.sheet import Entry

COLUMNS = ("row", "column", "seed", "state", "seconds", "reached", "protocol", "config_hash")
"""Of results.csv, before the metrics; after them comes why a run failed."""


def write_csv(entries: Sequence[Entry]) -> str:
    """results.csv."""
    out = io.StringIO()
    metrics = list(dict.fromkeys(name for entry in entries for name in entry.values))
    writer = csv.DictWriter(out, [*COLUMNS, *metrics, "error"], lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        row = {name: getattr(entry, name) for name in (*COLUMNS, "error")}
        writer.writerow({**row, **entry.values})
    return out.getvalue()


def read_csv(text: str) -> list[Entry]:
    """The entries of a results.csv."""
    entries = []
    for line in csv.DictReader(io.StringIO(text)):
        values = {name: float(value) for name, value in line.items() if name not in (*COLUMNS, "error") and value}
        seconds, reached = (float(line[name]) if line[name] else None for name in ("seconds", "reached"))
        rest = (line[name] for name in ("protocol", "config_hash", "error"))
        entries.append(
            Entry(line["row"], line["column"], int(line["seed"]), line["state"], values, seconds, reached, *rest)
        )
    return entries
