"""The command ``python scripts/report.py``: a record of a multirun, or a table of any number of them or of a study."""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_framework.report.comparison import condense
from ssl_framework.report.cost import cost_table
from ssl_framework.report.folders import report_folders
from ssl_framework.runs.folder import runs_in, write
from ssl_framework.runs.groups import admit
from ssl_framework.runs.messages import as_typed, commanded, refusing, typed
from ssl_framework.study.record import report
from ssl_framework.study.request import OUT as OUT_OF_STUDIES
from ssl_framework.study.request import understood

OUT = Path("outputs") / "report"


USAGE = """python scripts/report.py FOLDER [OUT] [--references]
           a record of one multirun: results.csv, about.json, table.md (in OUT, or in FOLDER itself)
       python scripts/report.py FOLDER [FOLDER ...] [--baseline "method=NAME"] [--metric NAME] [--reach LEVEL]
               [--out DIR]
           the runs of any multiruns in one table, rows by setting, columns by data set or the one number that was
           swept: table.md, .csv, .tex, .html and results.csv in DIR (outputs/report); two folders of runs, or any of
           these options, ask for it; with --reach also what a run costs that reaches the level: cost.md
       python scripts/report.py study=NAME [scale=small] [key=value ...] [--out DIR]
           the table of a study as far as it has been run (python scripts/study.py --help)"""


@commanded()
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``scripts/report.py``."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    others = admit(arguments)
    parser = argparse.ArgumentParser(prog=typed("report"), usage=as_typed(USAGE))
    parser.add_argument("folders", nargs="+", help="hydra.sweep.dir of multiruns; or study=NAME and overrides")
    parser.add_argument("--references", action="store_true", help="score raw pixels and the untrained backbone too")
    parser.add_argument("--baseline", help="overrides of the row that the others are tested against")
    parser.add_argument("--metric", help="the one to show, by its name in result.json")
    parser.add_argument("--reach", type=float, help="level of the metric that a run has to reach to be good enough")
    parser.add_argument("--out", type=Path, help=f"where the table goes (default: {OUT})")
    given = parser.parse_args(others)
    chosen = [f"--{name}" for name in ("baseline", "metric", "reach", "out") if getattr(given, name) is not None]
    with refusing():
        if any(item.startswith("study=") for item in given.folders):
            if wrong := [f"--{name}" for name in ("references", "baseline", "metric", "reach") if getattr(given, name)]:
                raise ValueError(f"{wrong[0]} is not for studies, which declare what they show")
            study(given.folders, given.out, f"{typed('report')} {shlex.join(arguments)}")
            return
        folders = [Path(item) for item in given.folders]
        if chosen or len(folders) > 2 or (len(folders) == 2 and all(map(holds_runs, folders))):
            if given.references:
                raise ValueError("--references is for the record of one multirun: leave out other folders and options")
            if given.reach is not None and (given.metric is None or not math.isfinite(given.reach)):
                raise ValueError(
                    f"--reach is {given.reach:g}: give a number, and the metric that has to reach it (--metric)"
                )
            table(folders, given.out or OUT, given.baseline, given.metric, given.reach)
            return
        out = folders[-1]
        condense(folders[0], out, given.references)
    print((out / "table.md").read_text(), end="")
    print(out)


def holds_runs(folder: Path) -> bool:
    """Whether the folder is a multirun's."""
    return folder.is_dir() and bool(runs_in(folder))


def table(
    folders: Sequence[Path], out: Path, baseline: str | None, metric: str | None, reach: float | None = None
) -> None:
    """Writes the table of the folders' runs and prints it, unless it is longer than a screen is read; with a level that
    the metric has to reach also what that costs."""
    sheet = report_folders(folders, out, baseline, metric)
    if len(sheet.rows) <= 60:
        print((out / "table.md").read_text())
    if reach is not None and metric is not None:
        write(out / "cost.md", said := cost_table(sheet, metric, reach))
        print(said)
    print(f"{len(sheet.entries)} runs in {len(sheet.rows)} rows and {len(sheet.columns)} columns")
    print(out)


def study(arguments: Sequence[str], out: Path | None, command: str) -> None:
    """Writes the table of a study as it stands; runs nothing."""
    request, cells = understood(arguments)
    folder = out or OUT_OF_STUDIES / request.study.name / request.scale
    report(request, cells, folder, command)
    print((folder / "table.md").read_text())
    print(folder)
