"""Where a run may meet its end: every operation on a file, every step, every line of the record.

``watch`` is called in a process that is about to become the command. It counts what passes and notes it in a log, and
strikes at the moment that it was told of, with a signal to the process itself.
File operations are those that Python's audit events tell of, whoever makes them, so that none is forgotten when the
code changes; only those in the working folder count.
"""

import contextlib
import errno
import functools
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

RENAMES = {"os.rename", "os.link"}
FILES = {"open", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock", *RENAMES}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


NEEDS_ROOM = {"open", "os.mkdir", "os.link", "os.symlink", "os.fsync"}
FAILS = {
    errno.ENOSPC: NEEDS_ROOM,
    errno.EDQUOT: NEEDS_ROOM,
    errno.EROFS: {*FILES, "os.fsync"} - {"fcntl.flock"},
    errno.EMFILE: {"open"},
}
"""What fails when a disk or a quota is full, a disk has become read-only, or too many files are open."""


class Moment(NamedTuple):
    """When to strike, and with what.

    place       "file": before an operation on a file; "torn": instead of giving a file its name, with half of it
                written; "row": in the middle of a line of metrics.csv; "step", "update": before a training step, after
                an optimizer's; "score": in an evaluation; "result": when the run has ended, before its result is
                written; "page": in the report
    number      the how manyth of these, from 1
    signals     sent at that moment; the second one comes from outside, shortly after
    error       in their place: from that moment on, operations on files fail with this errno
    """

    place: str
    number: int
    signals: tuple[int, ...] = (signal.SIGKILL,)
    error: int = 0


class Log:
    """Lines that outlive the process: ``seconds word rest``. Written past Python's files, so that no hook sees them."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, word: str, rest: object = "") -> None:
        with contextlib.suppress(OSError):  # where no file may grow, the log may not either
            os.write(self.handle, f"{time.monotonic():.4f} {word} {rest}\n".encode())


def read_log(path: Path) -> list[tuple[float, str, str]]:
    """(seconds, word, rest) of every line; a process that never came so far has none."""
    *lines, _ = path.read_text().split("\n") if path.is_file() else [""]
    return [(float(at), word, rest) for at, word, rest in (line.split(" ", 2) for line in lines)]


class Watch:
    """Counts moments by place, and strikes at one.

    Args:
        log: where they are noted.
        moment: to strike at; ``None``: none, a census.
    """

    def __init__(self, log: Log, moment: Moment | None) -> None:
        self.log = log
        self.moment = moment
        self.counts: dict[str, int] = {}
        self.here = os.getcwd()
        self.own = os.getpid()
        self.failing = 0

    def strikes(self, place: str) -> bool:
        """Counts a moment at ``place``; whether it is the one."""
        self.counts[place] = self.counts.get(place, 0) + 1
        return self.moment is not None and (place, self.counts[place]) == self.moment[:2] and os.getpid() == self.own

    def strike(self, what: str) -> None:
        """Notes where the process was struck, and strikes."""
        assert self.moment is not None
        self.log.note("struck", f"{self.moment.place} {self.moment.number} {what}")
        if self.moment.error:
            self.failing = self.moment.error
        else:
            os.kill(os.getpid(), self.moment.signals[0])

    def fail(self, operation: str, path: Any) -> None:
        """Lets an operation on a file fail where the disk is meant to."""
        if self.failing and operation in FAILS[self.failing]:
            raise OSError(self.failing, os.strerror(self.failing), path)

    def passes(self, place: str, what: str) -> None:
        """A moment that needs nothing but to be struck at."""
        self.log.note(place, what)
        if self.strikes(place):
            self.strike(what)

    def inside(self, path: Any) -> bool:
        """Whether a path lies in the working folder."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        text = os.fsdecode(path)
        return not text.startswith("/") or text.startswith(self.here + "/")

    def file_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event."""
        if event not in FILES:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        if event != "fcntl.flock" and not self.inside(arguments[0]):
            return
        what = f"{event} {' '.join(name_of(argument) for argument in arguments[:2] if not isinstance(argument, int))}"
        if event in RENAMES and is_partial(arguments[0]) and self.strikes("torn"):
            os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)  # as if the rest had not been written yet
            self.strike(what)
        self.passes("file", what)
        self.fail(event, arguments[0])


def name_of(path: Any) -> str:
    """A file in a log: without its folders and the numbers of processes."""
    text = Path(os.fsdecode(path)).name if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    return re.sub(r"[\d\s]", "", text)


def is_partial(path: Any) -> bool:
    """Whether it is a file that has not got its name yet: not a second name of one that has."""
    hidden = os.path.basename(os.fsdecode(path)).startswith(".")
    return hidden and not os.path.islink(path) and os.stat(path).st_nlink == 1


def watch(log: Path, moment: Moment | None) -> None:
    """Watches this process, which is about to become the command, and strikes at ``moment``."""
    watching = Watch(Log(log), moment)
    patch_fsync(watching)
    patch_record(watching)
    patch_steps(watching)
    patch_evaluation(watching)
    patch_end(watching)
    sys.addaudithook(watching.file_event)


def before(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Calls ``act`` before a function of ``owner``, with its arguments."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def acted(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, acted)


def after(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Calls ``act`` after a function of ``owner``, with its arguments."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def acted(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        act(*args, **kwargs)
        return found

    setattr(owner, name, acted)


def patch_fsync(watching: Watch) -> None:
    """No audit event tells of a flush to the disk."""

    def flushed(handle: int) -> None:
        watching.passes("file", "os.fsync")
        watching.fail("os.fsync", None)

    before(os, "fsync", flushed)


def patch_record(watching: Watch) -> None:
    """Lines of metrics.csv; the one that is struck at is written by half."""
    from ssl_framework.training.metrics_log import MetricsCSV

    def row(self: MetricsCSV, metrics: dict[str, float], step: int | None = None) -> None:
        if watching.strikes("row"):
            with self.path.open("a") as file:
                file.write(f"{step},{next(iter(metrics))[:5]}")
            watching.strike(f"row of step {step}")

    before(MetricsCSV, "log_metrics", row)


def patch_steps(watching: Watch) -> None:
    """Training steps, each noted with the updates before it, and updates."""
    from ssl_framework.module import SSLModule

    def updated(self: SSLModule, *args: Any, **kwargs: Any) -> None:
        watching.passes("update", str(self.global_step + 1))  # the trainer counts it a moment later

    before(SSLModule, "training_step", lambda self, *args: watching.passes("step", str(self.global_step)))
    after(SSLModule, "optimizer_step", updated)


def patch_evaluation(watching: Watch) -> None:
    """Evaluations."""
    from ssl_framework.evaluation.frozen import FrozenEvaluation

    before(FrozenEvaluation, "score", lambda self, *args, **kwargs: watching.passes("score", "evaluation"))


def patch_end(watching: Watch) -> None:
    """The end of a run, and its page."""
    from ssl_framework.report.page import Page
    from ssl_framework.runs.folder import RunFolder

    before(RunFolder, "write_result", lambda *args: watching.passes("result", "result"))
    before(Page, "write", lambda *args, **kwargs: watching.passes("page", "report"))
