"""What the record of the comparison lacks, run and added: python -m tools.comparison OUTPUTS [--minutes 30]

Every method meets every data set with every seed (``experiment=comparison``). Runs whose row is in results/comparison
are not made again, whatever machine made them; those that are interrupted go on with the next call. Two processes share
the jobs. Methods that the record should leave as they are may be named with ``--only``.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from ssl_framework.report.comparison import Record, condense, markdown, read_record, sheet_of, together
from ssl_framework.report.results_csv import write_csv
from ssl_framework.report.sheet import Entry
from ssl_framework.runs.folder import write, write_json

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "results" / "comparison"
DATA = {"cifar10_10k": (), "shapes": ("data.source.num_train=4000",)}
"""Data set -> what else its command says."""

SEEDS = (0, 1, 2)
PROCESSES = 2
LEFT_OUT = ("override /backbone:", "override /teacher: frozen", "override /views: image_text")
"""What the files of methods say that cannot take part: another network than all have, a trained teacher, texts."""

Case: TypeAlias = tuple[str, str, int]
"""Method, data set, seed."""


def wanted(only: Sequence[str]) -> list[Case]:
    """All cases, or those of some methods; every method once before any of them again."""
    files = {path.stem: path.read_text() for path in sorted((ROOT / "configs" / "method").glob("*.yaml"))}
    able = [name for name, text in files.items() if not any(words in text for words in LEFT_OUT)]
    methods = [name for name in able if not only or name in only]
    return [(method, data, seed) for seed in SEEDS for data in DATA for method in methods]


def missing(record: Record | None, cases: Iterable[Case]) -> list[Case]:
    """The cases without a row."""
    there = set() if record is None else {(e.row, e.column, e.seed) for e in record.sheet.entries}
    return [case for case in cases if case not in there]


def commands(cases: Sequence[Case], outputs: Path) -> list[list[str]]:
    """One multirun a seed and data set."""
    found = []
    for seed, data in dict.fromkeys((seed, data) for _, data, seed in cases):
        methods = ",".join(method for method, *rest in cases if rest == [data, seed])
        swept = f"hydra.sweep.dir={outputs / f'{data}-{seed}'}"
        said = ("experiment=comparison", f"data={data}", *DATA[data], f"method={methods}", f"seed={seed}", swept)
        found.append(["train.py", "-m", *said])
    return found


def run(command: Sequence[str], until: float) -> None:
    """The same command in several processes, which share its jobs; at ``until`` they are told to save and stop."""
    started = [subprocess.Popen([sys.executable, *command], cwd=ROOT) for _ in range(PROCESSES)]
    for process in started:
        try:
            process.wait(max(until - time.time(), 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
    for process in started:
        process.wait()


def joined(old: Record | None, new: Record) -> Record:
    """Two records as one; of what belongs to the numbers both values stand, where they differ."""
    if old is None:
        return new
    entries = [*old.sheet.entries, *(entry for entry in new.sheet.entries if entry.state in ("done", "failed"))]
    one, other = old.about, new.about
    about = {key: both(value, other[key]) for key, value in one.items() if key != "references"}
    about["protocol"]["common"] = [said for said in one["protocol"]["common"] if said in other["protocol"]["common"]]
    return Record(sheet_of(sorted(entries, key=place_of)), {**about, "references": one["references"]})


def place_of(entry: Entry) -> tuple[str, str, int]:
    """Where a run stands in results.csv."""
    return entry.row, entry.column, entry.seed


def both(one: object, other: object) -> object:
    """A value, or the different ones, key by key."""
    if isinstance(one, dict) and isinstance(other, dict):
        common = {key: both(value, other[key]) for key, value in one.items() if key in other}
        return {**one, **other, **common}
    parts = [part for value in (one, other) for part in (value if isinstance(value, list) else [value])]
    return together(parts)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, help="where the runs go")
    parser.add_argument("--minutes", type=float, default=30, help="after which what has ended is added")
    parser.add_argument("--only", nargs="*", default=(), help="methods")
    given = parser.parse_args()
    until = time.time() + 60 * given.minutes
    outputs = given.outputs.resolve()
    for command in commands(missing(read_record(RECORD), wanted(given.only)), outputs):
        if time.time() < until:
            run(command, until)
    for folder in sorted(outputs.glob("*-*")):
        add(folder)
    print(f"{len(missing(read_record(RECORD), wanted(given.only)))} of {len(wanted(given.only))} runs are missing")


def add(folder: Path) -> None:
    """Adds the finished runs of a multirun to the record, and its command, and removes its folder's runs."""
    record = read_record(RECORD)
    found = joined(record, condense(folder, folder, with_references=False))
    command = (folder / "command.txt").read_text().replace(f"{folder.parent}/", "outputs/comparison/")
    write(RECORD / "results.csv", write_csv(found.sheet.entries))
    write_json(RECORD / "about.json", found.about)
    write(RECORD / "table.md", markdown(found))
    before = (RECORD / "command.txt").read_text()
    if command not in before:
        write(RECORD / "command.txt", before + command)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
