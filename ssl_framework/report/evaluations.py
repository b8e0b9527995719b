"""evaluation.json as tables. Needs no torch."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ssl_framework.report.escaping import csv_cells, terminal_text
from ssl_framework.runs.numbers import short, shown

REFERENCES = {
    **{"before": "before", "untrained": "untrained", "raw_pixels": "raw pixels", "raw_input": "raw input"},
    **{name: name for name in ("smoothed", "chance", "popularity", "transitions")},
}
"""Keys of a record's references, and what tables call them."""


def results_of(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """One entry for each data set and protocol."""
    return record.get("results", [record])


def evaluation_tables(record: Mapping[str, Any]) -> list[Table]:
    """One table of all protocols for a single data set; for several, one a protocol with a row a data set.

    Where nothing was measured, as notes say, there is no row, and without any row no table.
    """
    results = [result for result in results_of(record) if result["metrics"]]
    if not results:
        return []
    data = list(dict.fromkeys(result["data"] for result in results))
    if len(data) == 1:
        return [by_protocol(record, results)]
    names = list(dict.fromkeys(result["protocol"]["name"] for result in results))
    return [by_data(record, name, [r for r in results if r["protocol"]["name"] == name]) for name in names]


def title_of(record: Mapping[str, Any]) -> str:
    """The backbone in a few words."""
    model = record["model"]
    return (
        f"{model['method']} trained on {model['data']}, seed {model['seed']}" if "run" in model else model["backbone"]
    )


def what(record: Mapping[str, Any]) -> str:
    """What the column of the backbone's own values is called."""
    if "run" in record["model"]:
        return "trained"
    return "given weights" if record["model"]["trained"] else "random weights"


def by_protocol(record: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Table:
    """Rows are the metrics of all protocols; one that several share, with the same value, stands with the first."""
    table = Table(
        title=terminal_text(f"{title_of(record)}; scored on {results[0]['data']}"),
        caption=terminal_text(record["device"]),
    )
    table.add_column("protocol", no_wrap=True)
    table.add_column("metric", overflow="fold")
    spread = any(result["intervals"] for result in results)
    present = [name for name in REFERENCES if any(name in result["references"] for result in results)]
    for name in (f"{what(record)} (95 %)" if spread else what(record), *(REFERENCES[name] for name in present)):
        table.add_column(name, justify="right", no_wrap=True)
    seen: set[tuple[str, float]] = set()
    for result in results:
        fresh = [metric for metric, value in result["metrics"].items() if (metric, value) not in seen]
        seen.update(result["metrics"].items())
        if not fresh:
            table.add_row(terminal_text(result["protocol"]["name"]), "all above")
        for number, metric in enumerate(fresh):
            others = (result["references"].get(name, {}).get(metric) for name in present)
            cells = [value_of(result, metric), *(dash(metric, value) for value in others)]
            table.add_row("" if number else terminal_text(result["protocol"]["name"]), terminal_text(metric), *cells)
    return table


def by_data(record: Mapping[str, Any], name: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """Rows are data sets, with their references below; columns are metrics."""
    metrics = list(dict.fromkeys(metric for result in results for metric in result["metrics"]))
    table = Table(
        title=terminal_text(f"{title_of(record)}; evaluation={name}"), caption=terminal_text(record["device"])
    )
    table.add_column("data", no_wrap=True)
    table.add_column("features", no_wrap=True)
    for metric in metrics:
        table.add_column(terminal_text(short(metric)), justify="right", overflow="fold")
    for result in results:
        table.add_row(terminal_text(result["data"]), what(record), *(value_of(result, metric) for metric in metrics))
        for key, label in REFERENCES.items():
            if values := result["references"].get(key):
                table.add_row("", label, *(dash(metric, values.get(metric)) for metric in metrics))
    return table


def value_of(result: Mapping[str, Any], metric: str) -> str:
    """``52.1 (49.9, 54.3)``: a metric and, where it has one, its interval; a dash where it was not measured."""
    text = dash(metric, result["metrics"].get(metric))
    if metric in result["intervals"]:
        text += " ({}, {})".format(*(shown(metric, end) for end in result["intervals"][metric]))
    return text


def dash(metric: str, value: float | None) -> str:
    """The value as it is printed, or a dash."""
    return "-" if value is None else shown(metric, value)


def csv_of(record: Mapping[str, Any]) -> str:
    """One line a value: data, protocol, features, metric, value, and the ends of its 95 % interval."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["data", "protocol", "features", "metric", "value", "low", "high"])
    for result in results_of(record):
        head = [result["data"], result["protocol"]["name"]]
        for metric, value in result["metrics"].items():
            ends = result["intervals"].get(metric, ("", ""))
            out.writerow(csv_cells([*head, what(record), metric, value, *ends]))
        for key, label in REFERENCES.items():
            for metric, value in result["references"].get(key, {}).items():
                out.writerow(csv_cells([*head, label, metric, value, "", ""]))
    return text.getvalue()
