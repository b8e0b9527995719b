"""Starts of the command: processes forked from one that has imported everything and run nothing, or new interpreters.

Each start is the leader of a session of its own, so that whatever it leaves running is found by the session's number.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.chaos.moments import Log, Moment, read_log, watch

ROOT = Path(__file__).resolve().parents[2]
SECOND = 0.05
"""Seconds between the first signal and the second."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tools.chaos.ready"])


class Start(NamedTuple):
    """One start of the command and how it ended."""

    code: int  # as Popen's: -9 for SIGKILL
    out: str
    err: str
    log: list[tuple[float, str, str]]
    seconds: float
    to_end: float  # seconds from the moment that struck to the end
    orphans: int  # processes of its session that outlived it

    @property
    def struck(self) -> str:
        """Where it was struck, "" if the moment never came."""
        return next((rest for _, word, rest in self.log if word == "struck"), "")

    def updates(self, word: str) -> list[tuple[float, int]]:
        """When each training step began ("step") or was done ("update"), and the updates that there were then."""
        return [(at, int(rest)) for at, found, rest in self.log if found == word]

    @property
    def struck_at(self) -> float:
        """When it was struck."""
        return next(at for at, word, _ in self.log if word == "struck")

    @property
    def last_line(self) -> str:
        """What it said last, for a person to read."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else ""


Arrange = Callable[[], None]
"""What is done in the process before it becomes the command: a limit, a fault of the disk. A function of a module."""


def become(folder: Path, arguments: Sequence[str], moment: Moment | None, arrange: Arrange | None) -> None:
    """Becomes ``python train.py ARGUMENTS`` in ``folder``; its ranks are forked, too."""
    os.setsid()
    os.chdir(folder)
    out, err, log = files_of(folder)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    from ssl_framework.commands import train as command
    from ssl_framework.training import launch

    sys.argv = ["train.py", *arguments]
    launch.START_METHOD = "fork"
    if arrange is not None:
        arrange()
    watch(log, moment)
    command.main()


def files_of(folder: Path) -> tuple[Path, Path, Path]:
    """Where a start prints, and its log: beside the working folder, in which only what the command writes may lie."""
    first, second, third = (folder.with_name(f"{folder.name}.{name}") for name in ("out", "err", "log"))
    return first, second, third


def start(
    folder: Path,
    arguments: Sequence[str],
    moment: Moment | None = None,
    kill_after: float | None = None,
    arrange: Arrange | None = None,
    timeout: float = 180,
) -> Start:
    """A start that was forked, waited for.

    Args:
        folder: the working folder.
        arguments: of the command.
        moment: at which it strikes itself.
        kill_after: seconds after which it is killed from outside; ``None``: it is not.
        arrange: see ``Arrange``.
        timeout: seconds after which it counts as hanging, and is killed; its code is then 0 - 1000.
    """
    out, err, log = files_of(folder)
    log.unlink(missing_ok=True)
    process = CONTEXT.Process(target=become, args=(folder, tuple(arguments), moment, arrange))
    began = time.monotonic()
    process.start()
    assert process.pid is not None
    hung = wait(process, log, moment, kill_after, timeout)
    ended = time.monotonic()
    code = -1000 if hung else process.exitcode
    assert code is not None
    found = read_log(log)
    struck = next((at for at, word, _ in found if word == "struck"), ended)
    return Start(code, text_of(out), text_of(err), found, ended - began, ended - struck, end_session(process.pid))


def wait(process: Any, log: Path, moment: Moment | None, kill_after: float | None, timeout: float) -> bool:
    """Waits for a process and strikes from outside where that is due; whether it hung, and was killed for it."""
    if kill_after is not None:
        process.join(kill_after)
        if process.exitcode is None:
            Log(log).note("struck", f"time {kill_after:.2f} s")
            os.kill(process.pid, signal.SIGKILL)
    elif moment is not None and len(moment.signals) > 1:
        while process.exitcode is None and not any(word == "struck" for _, word, _ in read_log(log)):
            process.join(0.01)
        process.join(SECOND)
        if process.exitcode is None:
            os.kill(process.pid, moment.signals[1])
    process.join(timeout)
    if process.exitcode is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return True


def text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def start_fresh(folder: Path, arguments: Sequence[str], seen: Path | None = None) -> Start:
    """A new interpreter with the command as it is typed, killed as soon as a file is there."""
    out, err, _ = files_of(folder)
    words = [sys.executable, str(ROOT / "train.py"), *arguments]
    began, log = time.monotonic(), list[tuple[float, str, str]]()
    with out.open("w") as first, err.open("w") as second:
        process = subprocess.Popen(words, cwd=folder, stdout=first, stderr=second, start_new_session=True)
        while seen is not None and process.poll() is None and not log:
            if seen.exists():
                process.kill()
                log = [(time.monotonic(), "struck", f"{seen.name} there, in a new interpreter")]
            time.sleep(0.001)
        code = process.wait()
    return Start(code, text_of(out), text_of(err), log, time.monotonic() - began, 0.0, end_session(process.pid))


def end_session(leader: int, patience: float = 10.0) -> int:
    """How many processes of a session outlive its leader; they are given a while, then killed."""
    deadline = time.monotonic() + patience
    while (left := session(leader)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(left)


def session(leader: int) -> list[int]:
    """Living processes of a session (Linux)."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == leader:
            continue
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry))
    return found


def limit_file_size(size: int) -> None:
    """No file of this process may grow beyond ``size`` bytes, as on a full disk: writing fails with EFBIG."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def limit_open_files(count: int) -> None:
    """This process may have so many files open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
