"""The runs of a multirun's folder, each read once: ``index.sqlite`` beside them keeps what a report needs of them.

An entry stands for a run as long as its files have the time, size and inode they had when they were read. Deleting the
index changes nothing but time; where it cannot be read or written, the runs are.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssl_framework.runs.folder import ERROR, protocol_id

NAME = "index.sqlite"


VERSION = 1
"""Of what is kept of a run; an index of another version is made anew."""


FILES = ("run.json", "result.json", ERROR)


SETTLED = 2.0
"""Seconds after which a file that changes again gets another time on every file system in use."""


class Summary(NamedTuple):
    """What a report needs of a run."""

    folder: Path
    overrides: tuple[str, ...]  # what the command chose for it
    method: str
    data: str
    seed: int
    state: str  # "done", "failed", or "interrupted": still running, or stopped
    error: str
    metrics: dict[str, float]
    seconds: float | None  # None where it did not go in one piece
    protocol: str
    config_hash: str


def read_runs(folder: Path) -> list[Summary]:
    """The runs whose folders lie in ``folder``, in the order of their names.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file of a run is not what it should be.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    now = time.time_ns()
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    stamps = {name: found for name in names if (found := stamp_of(f"{folder}/{name}")) is not None}
    known = load(folder / NAME) if stamps else {}
    contents: dict[str, str] = {}
    fresh: dict[str, tuple[str, str]] = {}
    for name, (stamp, newest) in stamps.items():
        if name in known and known[name][0] == stamp:
            contents[name] = known[name][1]
            continue
        contents[name] = json.dumps(content_of(folder / name))
        if newest < now - SETTLED * 1e9:  # else it may change once more and look the same
            fresh[name] = (stamp, contents[name])
    gone = known.keys() - stamps.keys()
    if fresh or gone:
        store(folder / NAME, fresh, gone)
    return [summary(folder / name, json.loads(content)) for name, content in contents.items()]


def stamp_of(folder: str) -> tuple[str, int] | None:
    """What tells one state of a run's files from another, and the time of their last change in nanoseconds; None where
    no run is."""
    parts, newest = [], 0
    for name in FILES:
        try:
            found = os.stat(f"{folder}/{name}")
        except FileNotFoundError:
            if name == "run.json":
                return None
            parts.append("-")
            continue
        parts.append(f"{found.st_mtime_ns} {found.st_ctime_ns} {found.st_size} {found.st_ino}")
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
    return ";".join(parts), newest


def content_of(folder: Path) -> dict[str, Any]:
    """What the index keeps of a run, read from its files.

    Raises:
        ValueError: a file is no JSON, or lacks something.
    """
    try:
        about = json.loads((folder / "run.json").read_bytes())
        seed = next((item.partition("=")[2] for item in about["overrides"] if item.startswith("seed=")), "0")
        content = {name: about.get(name, "") for name in ("method", "data")}
        content |= {"overrides": about["overrides"], "seed": seed, "state": "interrupted", "error": ""}
        content |= {"metrics": {}, "seconds": None, "protocol": "", "config_hash": ""}
        with contextlib.suppress(FileNotFoundError):
            content |= {"error": (folder / ERROR).read_text().strip(), "state": "failed"}
        with contextlib.suppress(FileNotFoundError):
            result = json.loads((folder / "result.json").read_bytes())
            content |= {"state": "done", "error": "", "seed": result.get("seed", seed), "metrics": result["metrics"]}
            content |= {"protocol": protocol_id(result), "config_hash": result.get("config_hash", "")}
            content["seconds"] = None if result.get("resumed_at") else result.get("wall_seconds")
        content["seed"] = int(content["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds a run.json or result.json that cannot be read: {error!r}") from error
    return content


def summary(folder: Path, content: dict[str, Any]) -> Summary:
    """An entry of the index as a run."""
    return Summary(**{**content, "folder": folder, "overrides": tuple(content["overrides"])})


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The index with its table, in a transaction that others wait for.

    Raises:
        sqlite3.Error: it cannot be read, written or made.
    """
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("CREATE TABLE IF NOT EXISTS runs (name TEXT PRIMARY KEY, stamp TEXT, content TEXT)")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


def load(path: Path) -> dict[str, tuple[str, str]]:
    """Name -> stamp and content of the runs in the index; nothing where there is no index that can be read."""
    if not path.is_file():
        return {}
    try:
        with opened(path) as connection:
            rows = connection.execute("SELECT name, stamp, content FROM runs").fetchall()
    except sqlite3.OperationalError:  # another process takes too long, or the folder may not be written
        return {}
    except sqlite3.Error:
        path.unlink(missing_ok=True)  # no index, or a broken one
        return {}
    return {name: (stamp, content) for name, stamp, content in rows}


def store(path: Path, fresh: Mapping[str, tuple[str, str]], gone: Iterable[str]) -> None:
    """Puts runs into the index and takes others out of it; where that cannot be done, they are read again next time."""
    with contextlib.suppress(sqlite3.Error), opened(path) as connection:
        rows = [(name, *entry) for name, entry in fresh.items()]
        connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", rows)
        connection.executemany("DELETE FROM runs WHERE name = ?", [(name,) for name in gone])
