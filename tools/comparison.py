"""What the record of the comparison lacks, run and added: python -m tools.comparison OUTPUTS [--minutes 30]

Every method meets every data set with every seed (``experiment=comparison``). Runs whose row is in results/comparison
are not made again, whatever machine made them; those that are interrupted go on with the next call. What has ended is
added at the end, or by a call with ``--minutes 0`` while another one still runs. ``--only`` names methods where not all
are meant. ``--table vit``: the methods that need a ViT, and some others on the same one (``experiment=comparison_vit``,
results/comparison_vit). ``--record``: another folder of the record, such as of another budget, until it is whole.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ssl_framework.report.comparison import Record, condense, markdown, read_record, sheet_of, together
from ssl_framework.report.results_csv import write_csv
from ssl_framework.report.sheet import Entry
from ssl_framework.runs.folder import read_runs, write, write_json

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
OTHER_PARTS = (
    "override /backbone:",
    "override /teacher: frozen",
    "override /data:",
    "override /sampler: labelled",
)
"""What the files of methods say that cannot take part: another network than all have, a trained teacher, other data,
few labels among many samples (which study sounds/semi_supervised compares)."""

OTHER_IMAGES = ("override /generated: shapes", "override /generated: redrawn")
"""What the files of methods say whose generated images are of ``data=shapes``."""


class Table(NamedTuple):
    """A record, and what belongs into it."""

    experiment: str  # also the folder in results/
    data: dict[str, tuple[str, ...]]  # data set -> what else its command says

    @property
    def record(self) -> Path:
        return ROOT / "results" / self.experiment

    def has(self, text: str, data: str) -> bool:
        """Whether a method, by the text of its file, takes part on a data set."""
        if any(words in text for words in OTHER_IMAGES) and data != "shapes":
            return False
        if self.experiment == "comparison":
            return not any(words in text for words in OTHER_PARTS)
        return "override /backbone: vit" in text and not any(words in text for words in OTHER_PARTS[1:])


TABLES = {
    "all": Table("comparison", {"shapes": ("data.source.num_train=4000",), "cifar10_10k": ()}),
    "vit": Table("comparison_vit", {"digits": (), "cifar10_10k": ("backbone.options.patch_size=8",)}),
}
CONTROLS = ("simclr", "mocov3", "dino")
"""Methods without hidden patches, on the same ViT."""

Case: TypeAlias = tuple[str, str, int]
"""Method, data set, seed."""


def wanted(table: Table, only: Sequence[str]) -> list[Case]:
    """All cases, or those of some methods; every method once before any of them again."""
    files = {path.stem: path.read_text() for path in sorted((ROOT / "configs" / "method").glob("*.yaml"))}
    added = () if table.experiment == "comparison" else CONTROLS
    return [
        (name, data, seed)
        for seed in SEEDS
        for data in table.data
        for name, text in files.items()
        if (table.has(text, data) or name in added) and (not only or name in only)
    ]


def missing(record: Record | None, cases: Iterable[Case]) -> list[Case]:
    """The cases without a row."""
    there = set() if record is None else {(e.row, e.column, e.seed) for e in record.sheet.entries}
    return [case for case in cases if case not in there]


def commands(table: Table, cases: Sequence[Case], outputs: Path) -> list[list[str]]:
    """One multirun a seed and data set."""
    found = []
    for seed, data in dict.fromkeys((seed, data) for _, data, seed in cases):
        methods = ",".join(method for method, *rest in cases if rest == [data, seed])
        swept = f"hydra.sweep.dir={outputs / f'{data}-{seed}'}"
        said = (f"experiment={table.experiment}", f"data={data}", *table.data[data])
        found.append(["train.py", "-m", *said, f"method={methods}", f"seed={seed}", swept])
    return found


def run(command: Sequence[str], until: float, processes: int) -> None:
    """The same command in several processes, which share its jobs; at ``until`` they are told to save and stop."""
    started = [subprocess.Popen([sys.executable, *command], cwd=ROOT) for _ in range(processes)]
    for process in started:
        try:
            process.wait(max(until - time.time(), 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
    for process in started:
        process.wait()


def joined(old: Record | None, new: Record) -> Record:
    """Two records as one, the newer row of a run; where what belongs to the numbers differs, both stand.

    Raises:
        ValueError: they are of different budgets.
    """
    if old is not None and (was := old.about["protocol"]["batch"]) != (now := new.about["protocol"]["batch"]):
        raise ValueError(f"the record is of batches of {was}, the new runs of {now}: remove the record's folder first")
    ended = [entry for entry in new.sheet.entries if entry.state in ("done", "failed")]
    entries = {place_of(entry): entry for entry in (*(old.sheet.entries if old else ()), *ended)}
    about, references = new.about, new.about["references"]
    if old is not None:
        about = {key: both(value, new.about[key]) for key, value in old.about.items() if key != "references"}
        said = [record.about["protocol"]["common"] for record in (old, new)]
        about["protocol"]["common"] = [words for words in said[0] if words in said[1]]
        references = {data: dict(own) for data, own in old.about["references"].items()}
        for data, own in new.about["references"].items():
            for name, scores in own.items():
                references.setdefault(data, {})[name] = {**references.get(data, {}).get(name, {}), **scores}
    return Record(sheet_of([entries[place] for place in sorted(entries)]), {**about, "references": references})


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
    parser.add_argument("--table", choices=list(TABLES), default="all")
    parser.add_argument("--record", type=Path, help="folder of the record, in the place of results/<table>")
    parser.add_argument("--processes", type=int, default=2, help="that share the jobs")
    given = parser.parse_args()
    table, until = TABLES[given.table], time.time() + 60 * given.minutes
    outputs, cases = given.outputs.resolve(), wanted(table, given.only)
    record = given.record or table.record
    for command in commands(table, missing(read_record(record), cases), outputs):
        if time.time() < until:
            run(command, until, given.processes)
    for folder in sorted(outputs.glob("*-*")):
        add(folder, record)
    print(f"{len(missing(read_record(record), cases))} of {len(cases)} runs are missing")


def add(folder: Path, kept: Path) -> None:
    """Adds what has ended of a multirun to the record, with its command and the references of its seed."""
    runs, record = read_runs(folder), read_record(kept)
    if not any(run.state == "done" for run in runs):
        return
    data, _, seed = folder.name.rpartition("-")
    known = record is not None and seed in record.about["references"].get(data, {}).get("untrained", {})
    found = joined(record, condense(folder, folder, with_references=not known))
    kept.mkdir(parents=True, exist_ok=True)
    write(kept / "results.csv", write_csv(found.sheet.entries))
    write_json(kept / "about.json", found.about)
    write(kept / "table.md", markdown(found))
    command = (folder / "command.txt").read_text().replace(f"{folder.parent}/", f"outputs/{kept.name}/")
    before = (kept / "command.txt").read_text() if (kept / "command.txt").is_file() else ""
    if command not in before:
        write(kept / "command.txt", before + command)


if __name__ == "__main__":
    main()
