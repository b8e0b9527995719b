"""The rows of results/parity and the table that is made of them."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.parity.cases import BATCH, CASES, EPOCHS, VARIANTS

FIELDS = ("method", "side", "seed", "steps", "knn20", "knn200", "linear", "loss_first", "loss_last")
SCORES = ("knn20", "knn200", "linear")
WINDOW = 50  # steps at both ends whose mean loss is recorded

Key = tuple[str, str, int]
"""Method, side, seed."""


def row_of(key: Key, metrics: Mapping[str, float], losses: Sequence[float]) -> dict[str, Any]:
    """One run."""
    method, side, seed = key
    linear = next(value for name, value in metrics.items() if name.startswith("linear"))
    scores = (metrics["knn[k=20,T=0.1]/top1"], metrics["knn[k=200,T=0.1]/top1"], linear)
    ends = (mean(losses[:WINDOW]), mean(losses[-WINDOW:]))
    shown = (f"{value:.2f}" for value in scores), (f"{value:.4f}" for value in ends)
    return dict(zip(FIELDS, (method, side, seed, len(losses), *shown[0], *shown[1]), strict=True))


def read(path: Path) -> list[dict[str, Any]]:
    """All rows; [] if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{**row, "seed": int(row["seed"])} for row in csv.DictReader(file)]


def key_of(row: Mapping[str, Any]) -> Key:
    """Which run a row is of."""
    return row["method"], row["side"], int(row["seed"])


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows in the order of the cases."""
    order = [*CASES]
    ordered = sorted(
        rows, key=lambda row: (order.index(row["method"]), row["side"] != "ours", row["side"], row["seed"])
    )
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(ordered)


def mean(values: Sequence[float]) -> float:
    """Of one or more numbers."""
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The sample's; 0 of one number."""
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / max(1, len(values) - 1))


def spread(values: Sequence[float]) -> str:
    """ "43.2 ± 0.5 (3)", or without the deviation where there is one."""
    if len(values) == 1:
        return f"{values[0]:.1f} (1)"
    return f"{mean(values):.1f} ± {deviation(values):.1f} ({len(values)})"


def apart(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The difference of the means, and in how many pooled deviations where both have two runs or more."""
    gap = mean(ours) - mean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return f"{gap:+.1f}"
    pooled = math.sqrt((deviation(ours) ** 2 + deviation(theirs) ** 2) / 2)
    return f"{gap:+.1f} ({abs(gap) / pooled:.1f} sd)" if pooled else f"{gap:+.1f}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line a method and side, differences behind the side they are to lightly's."""
    lines = [
        f"{EPOCHS} epochs of 10,000 images of CIFAR-10, batch {BATCH}, backbone=tiny, percent on 2,000 test images by",
        "evaluation=frozen: mean ± standard deviation (runs). *Apart*: the k-NN (k = 20) less lightly's, and",
        "how many pooled standard deviations that is. Losses are means over the first and the last 50 steps.",
        "",
        "| method | side | k-NN 20 | k-NN 200 | linear | apart | loss, first | loss, last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in CASES:
        sides = ["ours", "lightly", *(side for name, side in VARIANTS if name == method)]
        found = {side: [row for row in rows if (row["method"], row["side"]) == (method, side)] for side in sides}
        peers = [float(row["knn20"]) for row in found["lightly"]]
        for side, own in found.items():
            if not own:
                continue
            columns = [[float(row[field]) for row in own] for field in (*SCORES, "loss_first", "loss_last")]
            far = apart(columns[0], peers) if peers and side != "lightly" else ""
            losses = " | ".join(f"{mean(column):.3f}" for column in columns[3:])
            scores = " | ".join(spread(column) for column in columns[:3])
            lines.append(f"| {method} | {side} | {scores} | {far} | {losses} |")
    return "\n".join(lines) + "\n"
