"""The runs of multirun folders as a table in every form.

table.md, table.csv, table.tex, table.html   the table, as a study's
results.csv                                  one line a run
"""

from collections.abc import Sequence
from pathlib import Path

from ssl_framework.report.escaping import markdown_text
from ssl_framework.report.layout import by_setting
from ssl_framework.report.render import as_csv, latex, markdown, page
from ssl_framework.report.results_csv import write_csv
from ssl_framework.report.sheet import Sheet
from ssl_framework.runs.folder import read_runs, write


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
        "table.html": page(sheet, lead),
        "results.csv": write_csv(sheet.entries),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in forms.items():
        write(out / name, text)
    return sheet
