"""The files of a run's folder."""

import contextlib
import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.addresses import as_first_published

TRACES = ("checkpoints", "metrics.csv", "result.json")
"""What training leaves in a run folder from its first steps on."""


def with_parts(folder: Path) -> list[Path]:
    """The folder of a run, and before it those inside it that hold runs of their own, which are parts of this one."""
    return [*sorted(path.parent for path in folder.glob("*/config.yaml")), folder]


def has_checkpoint(folder: Path) -> bool:
    """Whether a run, or a part of it, has come as far as its first checkpoint."""
    return any((where / "checkpoints" / "last.ckpt").is_file() for where in with_parts(folder))


def has_trained(folder: Path) -> bool:
    """Whether a run, or a part of it, has taken a step."""
    return any((where / name).exists() for where in with_parts(folder) for name in TRACES)


def discard_unless_trained(folder: Path, latest: str | None) -> None:
    """Removes the folder of a run that was refused before its first step, so that the next try can have it.

    ``latest`` is where outputs/latest pointed before, and points again.
    """
    if has_trained(folder):
        return
    for where in with_parts(folder):
        for name in ("config.yaml", "run.json", "pseudo_labels.npy"):
            (where / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies there, or nothing at all
            where.rmdir()
    link = Path("outputs") / "latest"
    if link.is_symlink() and not link.exists():
        link.unlink()
        if latest is not None:
            link.symlink_to(latest)


def record(cfg: DictConfig, folder: Path, about: dict[str, Any]) -> None:
    """Writes the resolved config and what the run is called, which is what its ranks read."""
    write(folder / "run.json", json.dumps(about, indent=2) + "\n")
    write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def read_metrics(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.csv as name -> [(step, value), ...] in the order written."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    return curves


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes whole or not at all."""
    write(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content."""
    return json.loads(path.read_text())


def protocol_id(result: dict[str, Any]) -> str:
    """``frozen/1`` and a fingerprint of the settings; nothing for a result of an earlier version."""
    if not (protocol := result.get("protocol")):
        return ""
    content = json.dumps(as_first_published(protocol["settings"]), sort_keys=True)
    return f"{protocol['name']}#{hashlib.sha256(content.encode()).hexdigest()[:6]}"


ERROR = "error.txt"
"""Lies in the folder of a job that failed, and says why."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Holds a job's folder for this process; False where another process holds it. Given up when the process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)
