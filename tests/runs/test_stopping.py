"""Signals, closed pipes and what ends a command from outside: one line, the right exit code, never a traceback."""

import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_framework.runs import stopping
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.stopping import ASKING, BOUNCE, Interrupted, begin_worker, commanded, end_with, stop

Part = Callable[[], None]


def become(part: Part, err: int, ready: int, out: int | None) -> None:
    """A command of its own: ``part`` inside ``commanded``."""
    os.dup2(err, 2)
    if out is not None:
        os.dup2(out, 1)
    with commanded(last=True):
        os.write(ready, b"+")
        part()


def fork(part: Part, out: int | None = None) -> tuple[int, int]:
    """A forked command that has begun to listen: its pid, and where its stderr can be read."""
    said, err = os.pipe()
    begun, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        code: object = 0
        try:
            become(part, err, ready, out)
        except SystemExit as ended:
            code = ended.code
        os._exit(code if isinstance(code, int) else 1)
    os.close(err)
    os.read(begun, 1)
    return pid, said


def end(pid: int, said: int) -> tuple[int, str]:
    """Exit code, and what it has said."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(said) as file:
        return code, file.read()


def sleep() -> None:
    time.sleep(20)


def sleep_noted() -> None:
    with stop.noted():
        for _ in range(400):
            time.sleep(0.05)


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_ends_a_command_in_a_line(number: int) -> None:
    pid, said = fork(sleep)
    os.kill(pid, number)
    assert end(pid, said) == (128 + number, f"stopped by {signal.Signals(number).name}: {stop.then}\n")


def test_a_second_signal_ends_at_once_what_the_first_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pid, said = fork(sleep_noted)
    time.sleep(0.1)
    for number in (signal.SIGTERM, signal.SIGTERM):  # as one: launchers pass on what all have got already
        os.kill(pid, number)
    time.sleep(BOUNCE + 0.3)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGINT)
    code, words = end(pid, said)
    assert code == 128 + signal.SIGINT
    assert words == f"stopped by SIGINT after an earlier signal, and ended at once: {stop.then}\n"


def test_what_comes_to_no_end_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE", 0.3)
    pid, said = fork(sleep_noted)
    time.sleep(0.1)
    started = time.monotonic()
    os.kill(pid, signal.SIGUSR1)
    code, words = end(pid, said)
    assert code == 128 + signal.SIGUSR1 and 0.2 < time.monotonic() - started < 5
    assert words.startswith("stopped by SIGUSR1 and ended at once, as it came to no place to save")


def test_nohup_is_respected_and_signals_are_given_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with commanded():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == stop.hear
            with commanded():  # inside another one nothing changes
                assert signal.getsignal(signal.SIGTERM) == stop.hear
            assert signal.getsignal(signal.SIGTERM) == stop.hear
        assert signal.getsignal(signal.SIGTERM) != stop.hear and not stop.previous
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_forked_process_gets_is_not_its_parents() -> None:
    def part() -> None:
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        assert stop.asked is None and stop.heard_at is None

    assert end(*fork(part)) == (0, "")


def test_what_comes_from_outside_is_to_be_done_again() -> None:
    def part() -> None:
        raise Interrupted("the disk is full")

    assert end(*fork(part)) == (75, "interrupted: the disk is full\n")


def test_a_closed_pipe_is_no_error() -> None:
    reads, writes = os.pipe()
    os.close(reads)

    def part() -> None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
        print("a line")

    assert end(*fork(part, writes)) == (128 + signal.SIGPIPE, "")

    def other() -> None:
        raise BrokenPipeError("of something else")

    with pytest.raises(BrokenPipeError, match="something else"), commanded():
        other()


def test_a_closed_terminal_ends_the_command_with_its_signal() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        code: object = 0
        try:
            sys.stdout = os.fdopen(1, "w", closefd=False)
            with commanded(last=True):
                print("ready", flush=True)
                with stop.noted():
                    while stop.asked is None:
                        time.sleep(0.02)
                print("to nobody", flush=True)
                stop.check()
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            code = 1
        os._exit(code if isinstance(code, int) else 1)
    assert os.read(terminal, 5) == b"ready"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP


def orphan(is_worker: bool, path: Path) -> None:
    """Starts a process that would live on, tells its pid, and is killed."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        begin_worker(parent) if is_worker else end_with(parent)
        time.sleep(60)
        os._exit(0)
    path.write_text(str(child))
    time.sleep(0.3)
    os.kill(parent, signal.SIGKILL)


def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    for kind in (False, True):
        path = tmp_path / str(kind)
        pid = os.fork()
        if pid == 0:
            orphan(kind, path)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        deadline = time.monotonic() + 5
        stat = Path(f"/proc/{path.read_text()}/stat")
        while stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert time.monotonic() < deadline


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with replacing(path) as partial:
        assert partial.suffix == ".png"
        partial.write_text("first")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
