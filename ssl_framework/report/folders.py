"""The runs of multirun folders as a table in every form.

table.md, table.csv, table.tex, table.html   the table, as a study's; the last with the curves of up to ten runs
results.csv                                  one line a run
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssl_framework.report.escaping import markdown_text
from ssl_framework.report.layout import by_setting
from ssl_framework.report.lines import COLOURS, Curve, drawn_lines
from ssl_framework.report.render import as_csv, latex, markdown, page
from ssl_framework.report.results_csv import write_csv
from ssl_framework.report.sheet import Sheet
from ssl_framework.runs.folder import Summary, read_runs, write


def report_folders(folders: Sequence[Path], out: Path, baseline: str | None, metric: str | None) -> Sheet:
    """Writes the table of all runs in the folders, in every form, into ``out``.

    Args:
        folders: of multiruns.
        out: is made.
        baseline: overrides that one row has, which the others are compared with.
        metric: to show alone, by its name in result.json; ``None`` for all.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no finished run, the baseline or the metric is not among them, runs contradict each other,
            or a column mixes protocols.
    """
    runs = [run for folder in dict.fromkeys(path.resolve() for path in folders) for run in read_runs(folder)]
    sheet, common = by_setting(runs, baseline, metric)
    lead = [f"Runs in {', '.join(map(str, folders))}."]
    lead += [f"In common: {' '.join(common)}."] if common else []
    forms = {
        "table.md": "\n\n".join([f"# {markdown_text(sheet.title)}", *map(markdown_text, lead), markdown(sheet)]),
        "table.csv": as_csv(sheet),
        "table.tex": latex(sheet),
        "table.html": page(sheet, lead, curves_of(runs, common)),
        "results.csv": write_csv(sheet.entries),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in forms.items():
        write(out / name, text)
    return sheet


def curves_of(runs: Sequence[Summary], common: Sequence[str]) -> bytes | None:
    """The loss and all evaluations of runs over their steps, also of those that still train, as an SVG; ``None`` for
    one run, and for more than there are colours. A record that is damaged is left out."""
    if not 1 < len(runs) <= len(COLOURS):
        return None
    names = [" ".join(item for item in run.overrides if item not in common) or run.folder.path.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} ({'/'.join(run.folder.path.parts[-2:])})" for name, run in zip(names, runs, strict=True)]
    panels: dict[str, dict[str, Curve]] = {"train/loss": {}}
    for name, run in zip(names, runs, strict=True):
        found: Mapping[str, Curve] = {}
        with contextlib.suppress(ValueError):
            found = run.folder.read_metrics()
        for metric, curve in found.items():
            if metric == "train/loss" or metric.startswith("eval/"):
                panels.setdefault(metric, {})[name] = curve
    panels = {metric.removeprefix("eval/").removeprefix("train/"): curves for metric, curves in panels.items()}
    return drawn_lines(panels, names) if any(panels.values()) else None
