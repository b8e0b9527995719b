"""The folder of a run: the one place that knows what its files are called, what they say of the run, and how they are
written and read. A report of ten thousand runs reads their files in seconds, so nothing is kept beside them."""

import contextlib
import csv
import hashlib
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.addresses import as_first_published
from ssl_framework.runs.durable import replacing, sweep
from ssl_framework.runs.held import held, holder, is_held
from ssl_framework.runs.plain import plain_json, printable, read_config
from ssl_framework.runs.plugins import typed

LATEST = Path("outputs") / "latest"
"""Link to the folder of the run that began last."""


NAMES, WHOLE = "# run.json: ", "# whole"
"""What config.yaml begins with, before what run.json says as well, and ends with: one that was cut does not."""


RUNNING = b'http-equiv="refresh"'
"""What the page of a run that trains has near its beginning."""


class RunFolder(NamedTuple):
    """The folder of a run.

    config.yaml       the resolved config
    run.json          what the run is called, its overrides and its command
    checkpoints       the last two states, to go on from, and the best ones if that was asked for
    metrics.csv       every logged number, appended as it comes
    loggers.json      under which names loggers have it
    scores.npz        distributions of similarities, where they are measured
    nonfinite         the step at which a run came to a number that is not finite, to be made again
    result.json       the end: metrics, references, versions, times
    error.txt         why a job of a multirun failed
    .held             which process writes here, while one does
    output.txt        what a run of a study has printed
    evaluation.json   later evaluations; report.html and pictures: the page; backbone.safetensors: the export
    further folders   parts of the run that are runs of their own, such as earlier stages
    """

    path: Path

    def __str__(self) -> str:
        """As a user would type it here."""
        return typed(self.path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def about_file(self) -> Path:
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def checkpoint_file(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous_checkpoint_file(self) -> Path:
        return self.checkpoints / "before.ckpt"

    @property
    def best_checkpoint_file(self) -> Path:
        return self.checkpoints / "best.ckpt"

    def best_checkpoint_at(self, step: int) -> Path:
        """One of several that are kept, by its step."""
        return self.checkpoints / f"best_{step}.ckpt"

    @property
    def best_checkpoint_files(self) -> list[Path]:
        """Of several that are kept."""
        return sorted(self.checkpoints.glob("best_*.ckpt"))

    @property
    def checkpoint_files(self) -> list[Path]:
        """The states that it can go on from, as far as there are any, the newest first (see ``newest_checkpoint``)."""
        return [path for path in (self.checkpoint_file, self.previous_checkpoint_file) if path.is_file()]

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def names_elsewhere_file(self) -> Path:
        return self.path / "loggers.json"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.npz"

    @property
    def pseudo_labels_file(self) -> Path:
        return self.path / "pseudo_labels.npy"

    @property
    def generated_file(self) -> Path:
        return self.path / "generated.npy"

    @property
    def nonfinite(self) -> Path:
        return self.path / "nonfinite"

    def nonfinite_files(self, rank: int) -> tuple[Path, Path]:
        """Of one rank: its tensors, and what they are."""
        return self.nonfinite / f"rank_{rank}.safetensors", self.nonfinite / f"rank_{rank}.json"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def error_file(self) -> Path:
        return self.path / "error.txt"

    @property
    def output_file(self) -> Path:
        return self.path / "output.txt"

    @property
    def held_file(self) -> Path:
        return self.path / ".held"

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def page_file(self) -> Path:
        return self.path / "report.html"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def export_file(self) -> Path:
        return self.path / "backbone.safetensors"

    @property
    def parts(self) -> list["RunFolder"]:
        """The folders inside it that hold runs of their own, which are parts of this one, and then itself."""
        return [*(RunFolder(found.parent) for found in sorted(self.path.glob(f"*/{self.config_file.name}"))), self]

    # What the files say.

    @property
    def state(self) -> str:
        """ "done", "damaged" (its result is), "failed", "running" (a process holds it), "interrupted", or "missing":
        never begun."""
        if self.result_file.is_file():
            return "damaged" if self.result_fault else "done"
        if self.error_file.is_file():
            return "failed"
        if not (self.about_file.is_file() or self.config_file.is_file()):
            return "missing"
        return "running" if self.is_held else "interrupted"

    @property
    def result_fault(self) -> str:
        """What is wrong with result.json, in a few words with its path; "" where it is whole or not there."""
        try:
            metrics = self.read_result().get("metrics", {} if not self.result_file.is_file() else None)
        except ValueError as error:
            return str(error)
        if not isinstance(metrics, dict):
            return f"{self.result_file} is damaged: it has no metrics"
        wrong = [name for name, value in metrics.items() if type(value) not in (int, float) or not isfinite(value)]
        return f"{self.result_file} is damaged: its {wrong[0]} is {metrics[wrong[0]]!r}" if wrong else ""

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run, or a part of it, has come as far as its first checkpoint."""
        return any(where.checkpoint_files for where in self.parts)

    @property
    def has_trained(self) -> bool:
        """Whether the run, or a part of it, has left what training leaves from its first steps on."""
        return any(
            trace.exists()
            for where in self.parts
            for trace in (where.checkpoints, where.metrics_file, where.result_file, where.nonfinite)
        )

    def read_config(self) -> DictConfig:
        """The stored config as written, unchecked: ``loading.load_run_config`` is for what will be built of it.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        self.refuse_cut_config()
        if not (found := read_config(self.config_file)):
            raise ValueError(f"{self.config_file} is damaged: it holds no settings")
        return OmegaConf.create(found)

    def refuse_cut_config(self) -> None:
        """Raises as ``read_config`` where the file ends too early; reads nothing of what it says."""
        if not self.config_file.is_file():
            raise FileNotFoundError(f"{self.config_file} does not exist")
        try:
            text = self.config_file.read_text()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.config_file} is damaged: it is no text") from error
        if not text.strip():
            raise ValueError(f"{self.config_file} is damaged: it is empty")
        if text.startswith(NAMES[:5]) and text.rstrip().rpartition("\n")[2] != WHOLE:
            raise ValueError(f"{self.config_file} is damaged: it was cut")

    def read_about(self) -> dict[str, Any]:
        """What the run is called, its overrides and its command; {} where nothing says so. What run.json has lost,
        the first line of config.yaml may still say.

        Raises:
            ValueError: run.json is damaged, and nothing else says it.
        """
        try:
            if found := read_json(self.about_file) if self.about_file.is_file() else {}:
                return found
        except ValueError:
            if not (kept := self.names_in_config()):
                raise
            return kept
        return self.names_in_config()

    def names_in_config(self) -> dict[str, Any]:
        """What the first line of config.yaml says of the run's names; {} where it does not."""
        with contextlib.suppress(OSError, ValueError), self.config_file.open() as file:
            if (line := file.readline()).startswith(NAMES):
                return as_mapping(json.loads(line.removeprefix(NAMES)), self.config_file)
        return {}

    def read_result(self) -> dict[str, Any]:
        """The end of the run; {} where it has not ended."""
        return read_json(self.result_file) if self.result_file.is_file() else {}

    def read_metrics(self) -> dict[str, list[tuple[int, float]]]:
        """Name -> [(step, value), ...] in the order written; {} where nothing was logged."""
        return read_metrics(self.metrics_file) if self.metrics_file.is_file() else {}

    def read_names_elsewhere(self) -> dict[str, str]:
        """Logger -> the name or number that it has for the run; {} where none has one.

        Raises:
            ValueError: the file is damaged.
        """
        found = read_json(self.names_elsewhere_file) if self.names_elsewhere_file.is_file() else {}
        return {str(key): str(name) for key, name in found.items()}

    @property
    def has_page(self) -> bool:
        """Whether the page of its end is there, and not that of a run that trains."""
        return self.page_file.is_file() and RUNNING not in self.page_file.read_bytes()[:2000]

    def read_error(self) -> str:
        """Why the last try failed, "" if it did not."""
        return printable(self.error_file.read_text().strip()) if self.error_file.is_file() else ""

    # What is written.

    def write_config(self, cfg: DictConfig) -> None:
        """The config, resolved, behind what run.json says, so that neither is lost with the other."""
        text = OmegaConf.to_yaml(cfg, resolve=True)
        with contextlib.suppress(ValueError):  # of a damaged run.json
            if about := self.read_about():
                text = f"{NAMES}{json.dumps(about)}\n{text}{WHOLE}\n"
        write(self.config_file, text)

    def write_about(self, about: dict[str, Any]) -> None:
        """What the run is called."""
        write_json(self.about_file, about)

    def write_result(self, result: dict[str, Any]) -> None:
        """The end of the run."""
        write_json(self.result_file, result)

    def write_names_elsewhere(self, names: dict[str, str]) -> None:
        """Under which names it goes on."""
        write_json(self.names_elsewhere_file, names)

    def write_error(self, error: Exception) -> None:
        """Why the run failed, in one line."""
        write(self.error_file, f"{type(error).__name__}: {' '.join(str(error).split())}\n")

    def prepare(self, cfg: DictConfig, about: dict[str, Any]) -> None:
        """Makes the folder with what the ranks of the run read: its config, and what it is called."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_about(about)
        self.write_config(cfg)

    def said(self) -> dict[Path, bytes]:
        """What its config and its names are written in, as they are."""
        return {file: file.read_bytes() for file in (self.config_file, self.about_file) if file.is_file()}

    def say_again(self, said: dict[Path, bytes]) -> None:
        """Writes them as they were, if a run that has trained says something else now."""
        for file, content in said.items() if self.has_trained else ():
            if not file.is_file() or file.read_bytes() != content:
                with replacing(file) as partial:
                    partial.write_bytes(content)

    def sweep_partials(self) -> None:
        """Removes the files that killed processes have left half-written, in it and its parts."""
        places = ((where.path, where.checkpoints, where.pictures) for where in self.parts)
        for folder in (LATEST.parent, *itertools.chain.from_iterable(places)):
            sweep(folder)

    def forget_try(self) -> None:
        """Removes what a try has left that was killed before its first checkpoint."""
        for file in (self.metrics_file, self.scores_file, self.result_file, self.names_elsewhere_file):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.forget_nonfinite()

    def forget_nonfinite(self) -> None:
        """Removes the step that a try before has left."""
        shutil.rmtree(self.nonfinite, ignore_errors=True)

    def progress(self) -> list[tuple[str, int]]:
        """What training writes, and when it last did: differs once there was a step."""
        files = (file for where in self.parts for file in (where.metrics_file, where.checkpoint_file))
        return [(str(file), file.stat().st_mtime_ns) for file in files if file.is_file()]

    def point_latest_here(self) -> None:
        """Points outputs/latest to this folder."""
        LATEST.parent.mkdir(exist_ok=True)
        link = LATEST.with_name(f".latest.{os.getpid()}")
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(self.path.resolve(), LATEST.parent.resolve()))
        link.replace(LATEST)

    def discard_unless_trained(self) -> None:
        """Removes the folder of a run that was refused before its first step, so that the next try can have it."""
        if self.has_trained:
            return
        for where in self.parts:
            own = (where.config_file, where.about_file, where.names_elsewhere_file, where.pseudo_labels_file)
            for file in (*own, where.generated_file, where.page_file, where.held_file):
                file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else lies there, or nothing at all
                where.path.rmdir()

    # Who holds it.

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Holds the folder, which is made, for this process; False where another process holds it. Given up when the
        process ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.held_file) as mine:
            yield mine

    @property
    def is_held(self) -> bool:
        """Whether a process holds the folder, such as one that a killed study left behind."""
        return is_held(self.held_file)

    @property
    def held_by(self) -> str:
        """A sentence that says which process holds the folder."""
        return f"{self} is being written by another process{holder(self.held_file)}"

    def summary(self) -> "Summary":
        """What a table needs of the run.

        Raises:
            ValueError: a file is no JSON, or lacks something.
        """
        try:
            state = self.state
            if state == "damaged":
                raise ValueError(self.result_fault)
            about, result = self.read_about(), self.read_result() if state == "done" else {}
            overrides = tuple(about.get("overrides", ()))
            seed = next((item.partition("=")[2] for item in overrides if item.startswith("seed=")), "0")
            return Summary(
                self,
                overrides,
                about.get("method", ""),
                about.get("data", ""),
                int(result.get("seed", seed)),
                state,
                self.read_error() if state == "failed" else "",
                result["metrics"] if state == "done" else {},
                None if result.get("resumed_at") else result.get("wall_seconds"),
                result.get("images_per_second"),
                result.get("steps"),
                protocol_id(result),
                result.get("config_hash", ""),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            said = str(error) if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"{self} holds a run.json or result.json that cannot be read: {said}") from error


class Summary(NamedTuple):
    """What a table needs of a run."""

    folder: RunFolder
    overrides: tuple[str, ...]  # what the command chose for it
    method: str
    data: str
    seed: int
    state: str  # as ``RunFolder.state``
    error: str
    metrics: dict[str, float]
    seconds: float | None  # None where it did not go in one piece
    images_per_second: float | None
    steps: int | None
    protocol: str
    config_hash: str


def runs_in(folder: Path) -> list[RunFolder]:
    """The runs whose folders lie in ``folder``, in the order of their names; outputs/latest is no folder of its own.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    with os.scandir(folder) as entries:
        own = [entry.name for entry in entries if entry.is_dir() and not is_latest(entry)]
    found = [RunFolder(folder / name) for name in sorted(own)]
    return [run for run in found if run.about_file.is_file() or run.config_file.is_file()]


def is_latest(entry: os.DirEntry) -> bool:
    """Whether it is the link to the run that began last."""
    return entry.name == LATEST.name and entry.is_symlink()


def read_runs(folder: Path) -> list[Summary]:
    """What tables need of the runs in ``folder``; a damaged one is named in a note and left out.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    found = []
    for run in runs_in(folder):
        try:
            found.append(run.summary())
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return found


def point_back(before: str | None) -> None:
    """Points outputs/latest to where it led before; ``None``: to nothing."""
    if LATEST.is_symlink() and os.readlink(LATEST) != before:
        LATEST.unlink()
        if before is not None:
            LATEST.symlink_to(before)
        else:
            with contextlib.suppress(OSError):  # other runs lie there
                LATEST.parent.rmdir()


def protocol_id(result: dict[str, Any]) -> str:
    """``frozen/1`` and a fingerprint of the settings; nothing for a result of an earlier version."""
    if not (protocol := result.get("protocol")):
        return ""
    content = json.dumps(as_first_published(protocol["settings"]), sort_keys=True)
    return f"{protocol['name']}#{hashlib.sha256(content.encode()).hexdigest()[:6]}"


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes whole or not at all."""
    write(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content.

    Raises:
        ValueError: it is empty, no JSON, or no mapping.
    """
    content = path.read_bytes()
    if not content.strip():
        raise ValueError(f"{path} is damaged: it is empty")
    try:
        return as_mapping(plain_json(content, str(path)), path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error})") from error


def as_mapping(found: Any, path: Path) -> dict[str, Any]:
    """What a file holds, which must be a mapping."""
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    return found


def read_metrics(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.csv as name -> [(step, value), ...] in the order written."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in metric_rows(Path(path)):
        curves.setdefault(printable(name), []).append((step, float(value)))
    return curves


def metric_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Step, name and value of each row of metrics.csv; a last one that was cut off while it was written is left out.

    Raises:
        ValueError: a row before the last is none.
    """
    *lines, _ = path.read_bytes().decode("utf-8", "replace").split("\n")
    for number, line in enumerate(lines[1:], 2):
        try:
            ((step, name, value),) = csv.reader([line.rstrip("\r")])
            float(value)
            yield int(step), name, value
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"line {number} of {path} is no step, name and value ({line[:80]!r}): the file is damaged; remove it, "
                "and the run goes on without the record of its first part"
            ) from error
