"""A multirun condensed into a record: ``python scripts/report.py FOLDER [OUT]``.

results.csv  one row a job: what it was, its metrics or why it has none, seconds, hash of its config; "overrides" are
             those that set it apart from other jobs on the same data
about.json   protocol, references, versions, hardware and commits, read from the jobs' folders
table.md     mean and standard deviation over seeds
command.txt  what was typed
"""

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ssl_framework.report.tables import Job, cell, grid, read_jobs
from ssl_framework.runs.folder import write
from ssl_framework.runs.numbers import mean_and_spread, natural, short

FILES = ("results.csv", "about.json", "table.md", "command.txt")


COLUMNS = ("method", "data", "seed", "overrides", "state", "seconds", "images_per_second", "steps", "config_hash")
"""Of results.csv, before the metrics; after them comes why a job failed."""


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


REFERENCES = {"raw_pixels": "raw pixels", "untrained": "untrained backbone"}


class Record(NamedTuple):
    """A comparison as the repository keeps it."""

    jobs: list[Job]
    about: dict[str, Any]

    @property
    def data(self) -> list[str]:
        """Names of the data sets."""
        return sorted({job.about["data"] for job in self.jobs})

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the probes."""
        return list(dict.fromkeys(name for job in self.jobs if job.result for name in job.result["metrics"]))

    @property
    def settings(self) -> list[tuple[str, str]]:
        """Method, and the overrides that set it apart from other jobs on the same data ("" for none), in order."""
        return sorted({(job.about["method"], setting_of(job)) for job in self.jobs}, key=lambda s: natural(" ".join(s)))

    def shown(self, method: str, data: str, metric: str, setting: str = "") -> str:
        """``52.1 ± 0.4 (3)`` with the number of seeds, or what became of the jobs."""
        wanted = (method, data, setting)
        runs = [job for job in self.jobs if (job.about["method"], job.about["data"], setting_of(job)) == wanted]
        if not runs:
            return "not run"
        found = cell(runs, {job.seed for job in self.jobs})
        if not found.finished:
            return found.counted.removeprefix("0 ").strip("()")
        return f"{found.mean(metric)} ({found.counted.replace(' (', ', ').rstrip(')')})"

    def reference(self, name: str, data: str, metric: str) -> str:
        """Of raw pixels or of the untrained backbone; a dash where it was not scored."""
        runs = self.about["references"].get(data, {}).get(name, {}).values()
        values = [scores[metric] for scores in runs if metric in scores]
        return f"{mean_and_spread(values, metric)} ({len(values)})" if values else "-"


def setting_of(job: Job) -> str:
    """The overrides of a record's job beside method, data and seed, and beside the parts that its name tells."""
    named = job.about["method"].split()
    return " ".join(i for i in job.overrides if i.split("=")[0] not in ("method", "data", "seed") and i not in named)


def read_record(folder: Path) -> Record | None:
    """The record in ``folder``; None where there is none."""
    if not (folder / "results.csv").is_file():
        return None
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return Record([job_of(row) for row in rows], json.loads((folder / "about.json").read_text()))


def job_of(row: dict[str, str]) -> Job:
    """A row of results.csv as the job it came from."""
    metrics = {name: float(value) for name, value in row.items() if name not in (*COLUMNS, "error") and value}
    result = {"metrics": metrics, "config_hash": row["config_hash"]} if row["state"] == "done" else None
    overrides = (*row["overrides"].split(), *(f"{key}={row[key]}" for key in ("data", "method", "seed")))
    error = row["error"] if row["state"] == "failed" else None
    return Job(overrides, result, error, {"method": row["method"], "data": row["data"]})


def rows_of(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Rows of results.csv; seconds only of what ran in one go."""
    by_data: dict[str, list[Job]] = {}
    for job in jobs:
        by_data.setdefault(job.about["data"], []).append(job)
    common = {data: set(grid(members).common) for data, members in by_data.items()}
    rows = []
    for job in jobs:
        result = job.result or {}
        named = {"method": job.about["method"], "data": job.about["data"], "seed": job.seed.removeprefix("seed=") or 0}
        rest = [i for i in job.overrides if i not in common[named["data"]] and i.split("=")[0] not in named]
        seconds = result.get("wall_seconds") if not result.get("resumed_at") else None
        row = {**named, "overrides": " ".join(rest), "state": job.state, "seconds": seconds}
        row |= {name: result.get(name) for name in ("images_per_second", "steps", "config_hash")}
        row |= {name: round(value, 4) for name, value in result.get("metrics", {}).items()}
        rows.append(row | {"error": job.error or ""})
    return rows


def about_of(folder: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    """Protocol, versions, hardware and commits: the value that all finished jobs share, or a list of theirs."""
    results = [job.result for job in jobs if job.result]
    configs = [OmegaConf.load(path.with_name("config.yaml")) for path in sorted(folder.glob("*/result.json"))]
    protocol = {name: together(OmegaConf.select(cfg, key) for cfg in configs) for name, key in PROTOCOL.items()}
    data_sets = sorted({result["data"] for result in results})
    images = {
        data: {split: together(r["images"][split] for r in results if r["data"] == data) for split in SPLITS}
        for data in data_sets
    }
    names = ("versions", "commit", "device", "cpu", "processes")
    return {
        "protocol": {
            **protocol,
            "steps": together(r["steps"] for r in results),
            "images": images,
            "common": list(grid(jobs).common),
        },
        **{name: together(result[name] for result in results) for name in names},
    }


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


def score_references(folder: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    """Raw pixels once a data set and the untrained backbone once a data set and seed, by the jobs' own probes.

    No training is in them, so one finished job of each seed stands for all: the first by name. (Other methods may draw
    other initial weights from the same seed, as some draw their memory first.)
    """
    from ssl_framework.evaluation.score_all import references  # imports torch, which nothing else here needs

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*/result.json")):
        result = json.loads(path.read_text())
        data, seed = result["data"], str(result["seed"])
        if seed not in found.setdefault(data, {name: {} for name in REFERENCES})["untrained"]:
            wanted = REFERENCES if not found[data]["raw_pixels"] else ["untrained"]
            for name, scores in references(path.parent, wanted).items():
                found[data][name][seed] = {metric: round(value, 4) for metric, value in scores.items()}
    return found


def protocol_line(about: dict[str, Any]) -> str:
    """What the numbers mean, in a paragraph."""
    protocol = about["protocol"]
    said = ", ".join(f"{name} {said_of(protocol[name])}" for name in (*PROTOCOL, "steps") if name in protocol)
    images = "; ".join(
        f"{data}: {', '.join(f'{counted(count)} {split}' for split, count in counts.items())} images"
        for data, counts in protocol["images"].items()
    )
    return (
        f"Top-1 in percent, mean ± standard deviation over seeds (number of seeds), final epoch, nothing chosen on the "
        f"test split. k-NN votes on the backbone's frozen features of clean images. {said}. {images}. Every method has "
        "the optimizer, views and other settings of its own file; none was tuned for this budget."
    )


def said_of(value: Any) -> str:
    """A value, or the different ones."""
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(record: Record) -> str:
    """The record as a page: protocol, one row a method, one column a data set and metric, and what failed."""
    lines = [protocol_line(record.about), ""]
    lines += [table_of(record)]
    failed = [job for job in record.jobs if job.state == "failed"]
    if failed:
        lines += ["", "Failed:", "", *(f"- `{' '.join(job.overrides)}`: {job.error}" for job in failed)]
    hardware = ", ".join(said_of(record.about[name]) for name in ("device", "cpu"))
    versions = record.about["versions"]
    shown = [", ".join(f"{k} {v[k]}" for k in ("torch", "lightning", "timm")) for v in as_list(versions)]
    return "\n".join([*lines, "", f"{hardware}; {said_of(shown)}; commit {said_of(record.about['commit'])}.", ""])


def table_of(record: Record, metrics: Sequence[str] | None = None) -> str:
    """One row a method and setting, one column a data set and metric (of all, or of some), then the references."""
    columns = [(data, metric) for data in record.data for metric in metrics or record.metrics]
    lines = ["| method | " + " | ".join(f"{data} {short(metric)}" for data, metric in columns) + " |"]
    lines += ["| --- |" + " --- |" * len(columns)]
    for method, setting in record.settings:
        cells = " | ".join(record.shown(method, *column, setting) for column in columns)
        lines.append(f"| {f'{method} {setting}'.strip()} | {cells} |")
    for name, words in REFERENCES.items() if record.about["references"] else ():
        lines.append(f"| *{words}* | " + " | ".join(record.reference(name, *c) for c in columns) + " |")
    return "\n".join(lines)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def condense(folder: Path, out: Path, with_references: bool) -> Record:
    """Writes the record of a multirun's folder into ``out``.

    Raises:
        ValueError: there is no finished job.
    """
    jobs = read_jobs(folder)
    if not any(job.result for job in jobs):
        raise ValueError(f"{folder} holds no finished job of a multirun")
    rows = rows_of(jobs)
    about = about_of(folder, jobs)
    about["references"] = score_references(folder, jobs) if with_references else {}
    out.mkdir(parents=True, exist_ok=True)
    metrics = list(dict.fromkeys(name for row in rows for name in row if name not in (*COLUMNS, "error")))
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *metrics, "error"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write(out / "about.json", json.dumps(about, indent=2) + "\n")
    record = read_record(out)
    assert record is not None
    write(out / "table.md", markdown(record))
    if out.resolve() != folder.resolve():
        shutil.copyfile(folder / "command.txt", out / "command.txt")
    return record
