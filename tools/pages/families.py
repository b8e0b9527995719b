"""``docs/families.md``: which model of each family of timm has gone through a whole run, from the record."""

from pathlib import Path

from tools.families import MOST, RECORD, Row, read

HEAD = """# Backbones: every family of timm

`backbone=timm backbone.name=<any model of timm>` at any `data.image_size` that timm can build the model for: what has
to be told its size (`img_size`) is told it. A size that a model cannot take is refused with sizes that it can.
"""


def families_page(root: Path) -> str:
    """The page of a source tree."""
    folder = root / RECORD
    rows = read(folder / "table.csv")
    whole = sum(row.outcome == "whole" for row in rows)
    command = (folder / "command.txt").read_text().splitlines()[0]
    versions = (folder / "output.txt").read_text().strip().splitlines()[-1].partition("; ")[2]
    return "\n".join(
        [
            HEAD,
            f"The smallest model of each family with fewer than {MOST / 1e6:g} million parameters, and some that are "
            "asked for by name, each at the smallest usual size that it takes: two steps of SimCLR, k-NN, the export, "
            "and both read back with equal features. The map is what dense evaluations read.",
            "",
            f"`{command}` gave [{whole} whole runs of {len(rows)}](../results/families/table.csv) ({versions}).",
            "",
            "| family | model | M parameters | px | told | D | map | |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *map(line_of, sorted(rows, key=lambda row: (row.family, row.model))),
            "",
        ]
    )


def line_of(row: Row) -> str:
    """A row of the table."""
    cells = (row.family, f"`{row.model}`", f"{row.parameters:.2f}", row.image_size, row.told, row.dim or "", row.map)
    return f"| {' | '.join(map(str, cells))} | {row.outcome} |"
