"""The table of docs/continue.md: what weights score before and after they were gone on from, by the record."""

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

RECORD = Path("results") / "continue"


def rows_of(root: Path) -> list[dict[str, str]]:
    """The runs of the record."""
    with (root / RECORD / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def continued_table(root: Path) -> str:
    """A row a data set and way, of which the scores of all seeds stand there, and below what was measured."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows_of(root):
        found.setdefault((row["data"], row["way"]), []).append(row)
    lines = ["| data | second stage | before | after | gain | untrained |", "| --- | --- | --- | --- | --- | --- |"]
    for (data, way), rows in found.items():
        before, after, untrained = (scores(rows, key) for key in ("before", "after", "untrained"))
        gain = f"{mean(after) - mean(before):+.1f}" if before else "-"
        lines.append(f"| {data} | {way} | {shown(before)} | {shown(after)} | {gain} | {shown(untrained)} |")
    return "\n".join(lines) + f"\n\n{caption(root, next(iter(found.values()))[0])}\n"


def scores(rows: list[dict[str, str]], key: str) -> list[float]:
    """Of all seeds; none where it was not scored."""
    return [float(row[key]) for row in rows if row[key]]


def shown(values: list[float]) -> str:
    """The value of every seed; one that all have stands once."""
    return ", ".join(dict.fromkeys(f"{value:.1f}" for value in values)) or "-"


def caption(root: Path, row: dict[str, str]) -> str:
    """What the numbers are, and where they were measured."""
    public: dict[str, Any] = json.loads((root / RECORD / "public.json").read_text())
    versions = ", ".join(f"{name} {public['versions'][name]}" for name in ("torch", "lightning", "timm"))
    return (
        f"`{row['metric']}`, one number a seed. The public weight: `{public['command']}`, {public['steps']:,} steps. "
        f"[Record]({RECORD.as_posix()}) by `python -m tools.continued`, {public['device']} ({public['cpu']}), "
        f"{versions}."
    )
