"""A multirun condensed into a record: ``python scripts/report.py FOLDER [OUT]``.

results.csv  one row a job: its metrics or why it has none, seconds, hash of its config; "row" is its method with the
             overrides that set it apart from other jobs on the same data, "column" its data set
about.json   protocol, references, versions, hardware and commits, read from the jobs' folders
table.md     mean and standard deviation over seeds
command.txt  what was typed
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ssl_framework.report.escaping import markdown_cell, markdown_text
from ssl_framework.report.layout import by_method, in_order, shared
from ssl_framework.report.render import text_of
from ssl_framework.report.results_csv import read_csv, write_csv
from ssl_framework.report.sheet import Entry, Sheet, cells, entry_of
from ssl_framework.runs.folder import RunFolder, Summary, read_runs, write, write_json
from ssl_framework.runs.messages import shell_word, typed
from ssl_framework.runs.numbers import mean_and_spread, natural, short
from ssl_framework.runs.plain import printable

FILES = ("results.csv", "about.json", "table.md", "command.txt")


PROTOCOL = {
    "backbone": "backbone.name",
    "epochs": "trainer.max_epochs",
    "batch": "data.batch_size",
    "precision": "trainer.precision",
    "device": "trainer.accelerator",
    "threads": "trainer.num_threads",
}
"""Name -> key of a run's config that belongs to what a number means."""


SPLITS = ("pretrain", "train", "test")


REFERENCES = {"raw_pixels": "raw pixels", "raw_input": "raw input", "untrained": "untrained backbone"}


class Record(NamedTuple):
    """A comparison as the repository keeps it: methods by data sets."""

    sheet: Sheet
    about: dict[str, Any]

    def shown(self, row: str, data: str, metric: str) -> str:
        """``52.1 ± 0.4 (3)`` with the number of seeds, or what became of the runs."""
        if not any((entry.row, entry.column) == (row, data) for entry in self.sheet.entries):
            return "not run"
        return text_of(cells(self.sheet)[row, data], metric, mean_and_spread)

    def references(self) -> dict[str, str]:
        """Those that were scored on any of the data sets, by the words for them."""
        return {
            name: words
            for name, words in REFERENCES.items()
            if any(name in own for own in self.about["references"].values())
        }

    def reference(self, name: str, data: str, metric: str) -> str:
        """Of the raw input or of the untrained backbone; a dash where it was not scored."""
        runs = self.about["references"].get(data, {}).get(name, {}).values()
        values = [scores[metric] for scores in runs if metric in scores]
        return f"{mean_and_spread(values, metric)} ({len(values)})" if values else "-"


def read_record(folder: Path) -> Record | None:
    """The record in ``folder``; None where there is none."""
    if not (folder / "results.csv").is_file():
        return None
    entries = read_csv((folder / "results.csv").read_text())
    return Record(sheet_of(entries), json.loads((folder / "about.json").read_text()))


def sheet_of(entries: Sequence[Entry]) -> Sheet:
    """The runs of a record as a table."""
    return Sheet(
        "Comparison",
        "data",
        tuple(sorted({entry.row for entry in entries}, key=natural)),
        tuple(sorted({entry.column for entry in entries})),
        tuple(dict.fromkeys(name for entry in entries for name in entry.values)),
        tuple(sorted({entry.seed for entry in entries})),
        tuple(entries),
    )


def entries_of(runs: Sequence[Summary]) -> list[Entry]:
    """The rows of results.csv."""
    return [
        entry_of(run, row, column, {name: round(value, 4) for name, value in run.metrics.items()})
        for run, (row, column) in zip(runs, by_method(runs), strict=True)
    ]


def about_of(runs: Sequence[Summary]) -> dict[str, Any]:
    """Protocol, versions, hardware and commits: the value that all finished runs share, or a list of theirs."""
    done = [run.folder for run in runs if run.state == "done"]
    results, configs = [folder.read_result() for folder in done], [folder.read_config() for folder in sorted(done)]
    protocol = {name: together(OmegaConf.select(cfg, key) for cfg in configs) for name, key in PROTOCOL.items()}
    if all(cfg.trainer.get("max_steps", -1) > 0 for cfg in configs):
        del protocol["epochs"]  # the number of steps ends the runs
    data_sets = sorted({result["data"] for result in results})
    images = {
        data: {split: together(r["images"][split] for r in results if r["data"] == data) for split in SPLITS}
        for data in data_sets
    }
    names = ("versions", "commit", "device", "cpu", "processes")
    return {
        "protocol": {
            **protocol,
            "optimizer": together(trained_with(cfg.optimizer) for cfg in configs),
            "steps": together(r["steps"] for r in results),
            "images": images,
            "common": [item for item in runs[0].overrides if item in shared(runs)],
        },
        **{name: together(result[name] for result in results) for name in names},
    }


def trained_with(optimizer: Any) -> str:
    """An optimizer's settings in words."""
    name = optimizer.algorithm._target_.rpartition(".")[2]
    return ", ".join([name, *(f"{key} {optimizer[key]:g}" for key in ("lr_per_256", "weight_decay", "warmup"))])


def counted(count: int | list[int]) -> str:
    """One number of images, or the different ones: a method may add generated images."""
    return " or ".join(f"{each:,}" for each in (sorted(count) if isinstance(count, list) else [count]))


def together(values: Iterable[Any]) -> Any:
    """The one value, or a list of the different ones."""
    different: list[Any] = []
    for value in values:
        if value not in different:
            different.append(value)
    return different[0] if len(different) == 1 else different


def score_references(runs: Sequence[Summary]) -> dict[str, Any]:
    """The raw input once a data set and the untrained backbone once a data set and seed, by the jobs' own probes.

    No training is in them, so one finished run of each seed stands for all: the first by name. (Other methods may draw
    other initial weights from the same seed, as some draw their memory first.)
    """
    from ssl_framework.evaluation.score_all import references  # imports torch, which nothing else here needs

    found: dict[str, Any] = {}
    for run in sorted((run for run in runs if run.state == "done"), key=lambda run: run.folder):
        data, seed = run.data, str(run.seed)
        own = found.setdefault(data, {})
        if seed not in own.get("untrained", {}):
            for name, scores in references(run.folder.path, with_raw=not own).items():
                own.setdefault(name, {})[seed] = {metric: round(value, 4) for metric, value in scores.items()}
    return found


def protocol_line(about: dict[str, Any]) -> str:
    """What the numbers mean, in a paragraph."""
    protocol = about["protocol"]
    said = ", ".join(f"{name} {said_of(protocol[name])}" for name in (*PROTOCOL, "steps") if name in protocol)
    images = "; ".join(
        f"{data}: {', '.join(f'{counted(count)} {split}' for split, count in counts.items())} images"
        for data, counts in protocol["images"].items()
    )
    optimizer = protocol.get("optimizer")
    own = "views and other settings" if isinstance(optimizer, str) else "optimizer, views and other settings"
    shared_one = f"All are trained with one optimizer ({optimizer}). " if isinstance(optimizer, str) else ""
    return (
        f"Top-1 in percent, mean ± standard deviation over seeds (number of seeds), final epoch, nothing chosen on the "
        f"test split. k-NN votes on the backbone's frozen features of clean images. {said}. {images}. "
        f"{shared_one}Every method has the {own} of its own file; none was tuned for this budget."
    )


def said_of(value: Any) -> str:
    """A value, or the different ones."""
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(record: Record) -> str:
    """The record as a page: protocol, one row a method, one column a data set and metric, and what failed."""
    lines = [protocol_line(record.about), ""]
    lines += [table_of(record)]
    failed = [entry for entry in record.sheet.entries if entry.state == "failed"]
    if failed:
        lines += [
            "",
            "Failed:",
            "",
            *(f"- `{code(described(entry))}`: {markdown_text(entry.error)}" for entry in failed),
        ]
    hardware = ", ".join(said_of(record.about[name]) for name in ("device", "cpu"))
    versions = record.about["versions"]
    shown = [", ".join(f"{k} {v[k]}" for k in ("torch", "lightning", "timm")) for v in as_list(versions)]
    return "\n".join([*lines, "", f"{hardware}; {said_of(shown)}; commit {said_of(record.about['commit'])}.", ""])


def code(text: str) -> str:
    """A text between backticks."""
    return " ".join(printable(text).split()).replace("`", "'")


def described(entry: Entry) -> str:
    """The overrides that an entry of a record stands for."""
    method, *rest = entry.row.replace(" + ", " ").split(" ")
    return " ".join([*rest, f"data={entry.column}", f"method={method}", f"seed={entry.seed}"])


def table_of(record: Record, metrics: Sequence[str] | None = None) -> str:
    """One row a method and setting, one column a data set and metric (of all, or of some), then the references."""
    columns = [(data, metric) for data in record.sheet.columns for metric in metrics or record.sheet.metrics]
    lines = ["| method | " + " | ".join(markdown_cell(f"{data} {short(metric)}") for data, metric in columns) + " |"]
    lines += ["| --- |" + " --- |" * len(columns)]
    for row in record.sheet.rows:
        lines.append(f"| {markdown_cell(row)} | " + " | ".join(record.shown(row, *column) for column in columns) + " |")
    for name, words in record.references().items():
        lines.append(f"| *{words}* | " + " | ".join(record.reference(name, *c) for c in columns) + " |")
    return "\n".join(lines)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def condense(folder: Path, out: Path, with_references: bool) -> Record:
    """Writes the record of a multirun's folder into ``out``.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no finished job, or a column mixes protocols.
    """
    runs = in_order(read_runs(folder))
    if not any(run.state == "done" for run in runs):
        if RunFolder(folder).config_file.is_file():
            raise ValueError(
                f"{folder} is a single run: {typed('show')} report {shell_word(f'run={folder}')} makes its page; a "
                "record is of a folder in which the jobs of a multirun lie"
            )
        raise ValueError(
            f"{folder} holds no finished job of a multirun: give its hydra.sweep.dir, the folder in which the jobs lie"
        )
    about = {**about_of(runs), "references": score_references(runs) if with_references else {}}
    record = Record(sheet_of(entries_of(runs)), about)
    table = markdown(record)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "results.csv", write_csv(record.sheet.entries))
    write_json(out / "about.json", about)
    write(out / "table.md", table)
    if out.resolve() != folder.resolve():
        shutil.copyfile(folder / "command.txt", out / "command.txt")
    return record
