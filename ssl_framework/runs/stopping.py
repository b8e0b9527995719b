"""What a command does about the signals that ask it to end: it saves where it can, says one line, and ends in time.

    nothing to save       the first signal ends the command where it stands
    while a run trains    the first is noted, and the run saves at the end of a step (``training.signals``)
    a second one          ends the process at once

All signals end with exit code 128 + their number, as a shell's. A thread hears them too, by Python's wakeup file: it
ends a process whose main thread stands in C, such as in a collective that another rank has left. Imports nothing heavy,
so that commands listen before they import torch.
"""

import atexit
import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPED = 128
"""Exit codes above it name, as a shell's do, the signal that stopped a run."""

AGAIN = 75
"""Exit code where something outside a run ended it: the same command goes on (EX_TEMPFAIL of sysexits.h)."""

ALWAYS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ASKING = (*ALWAYS, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2, signal.SIGXCPU)
"""What batch systems, terminals and people send; all but ``ALWAYS`` are left to whoever has taken or ignored them
(nohup ignores SIGHUP)."""

BOUNCE = 0.5
"""Seconds within which a signal that comes twice is one: launchers pass on what a terminal has sent to all."""

GRACE = 60.0
"""Seconds from a signal that is noted to where the run can save."""

ABRUPT = 30.0
"""Seconds from a signal to the end of a process that has nothing to save."""

FINDING = 5.0
"""The same, of a process that waits for the others of its run to come: in C, where it hears no signal."""

SAVING = 900.0
"""Seconds for what a run does once all of its processes know that it stops: it saves, and ends its loggers."""


class Interrupted(Exception):
    """A run stopped by something outside it, in one sentence; the same command goes on."""


class Stopped(SystemExit):
    """A signal ends the command where it stands."""

    def __init__(self, number: int) -> None:
        super().__init__(STOPPED + number)
        self.number = number


class Stop:
    """Listens for signals, in the main thread of a process.

    ``asked`` is the number of the first signal, None before. What the line of a signal says after its name is ``then``;
    a process that is not to speak has ``quiet``.
    """

    def __init__(self) -> None:
        self.then = "nothing was left half done"
        self.quiet = False
        self.terminals: list[int] = []
        self.previous: dict[int, Any] = {}
        self.forget()

    def forget(self) -> None:
        """As if no signal had come."""
        self.asked: int | None = None
        self.noting = False  # somebody looks at ``asked``, so nothing is raised
        self.hard = False  # the process is a command's own and may be ended
        self.tell: Callable[[int], None] | None = None  # passes on to other processes what this one is sent
        self.saving: Callable[[], None] | None = None  # is told that the process has come to where it saves
        self.heard_at: float | None = None
        self.ends_at: float | None = None
        self.abrupt = ABRUPT
        self.ear: tuple[int, int] | None = None

    def listen(self, hard: bool) -> bool:
        """Takes the signals; False where that is done already, or in a thread.

        Args:
            hard: a second signal ends the process at once, and so does the end of its time; otherwise the second raises
                KeyboardInterrupt.
        """
        if self.previous or threading.current_thread() is not threading.main_thread():
            return False
        self.forget()
        self.hard = hard
        self.terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        for number in ASKING:
            if number in ALWAYS or signal.getsignal(number) == signal.SIG_DFL:
                self.previous[number] = signal.signal(number, self.hear)
        if hard:
            self.begin_to_watch()
        return True

    def begin_to_watch(self) -> None:
        """Starts the thread that ends this process when its main thread does not."""
        self.ear = os.pipe()
        for end in self.ear:
            os.set_blocking(end, False)
        self.wakeup_before = signal.set_wakeup_fd(self.ear[1], warn_on_full_buffer=False)
        threading.Thread(target=self.watch, args=(self.ear[0],), name="signals", daemon=True).start()

    def release(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
        if self.ear is not None:
            signal.set_wakeup_fd(self.wakeup_before)
            os.close(self.ear[1])  # which ends the thread
        self.forget()

    def close_ears(self) -> None:
        """All is done: what remains of the process ends whatever comes, with its exit code."""
        for number in self.previous:
            signal.signal(number, signal.SIG_IGN)

    def leave_to_parent(self) -> None:
        """In a process that was forked: it has no part in what its parent does about signals."""
        if not self.previous:
            return
        if self.ear is not None:
            signal.set_wakeup_fd(-1)
            for end in self.ear:
                os.close(end)
        for number in self.previous:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self.previous = {}
        self.forget()

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """A signal has come (in the main thread, between two instructions)."""
        if self.asked is not None:
            if not self.hard:
                raise KeyboardInterrupt
            return  # ``watch`` decides
        self.ask(number)
        if not self.noting:
            raise Stopped(number)

    def ask(self, number: int) -> None:
        """Notes that the process is asked to end, and tells the others."""
        self.asked = number
        self.mute_lost_terminals()
        if self.tell is not None:
            self.tell(number)

    @contextlib.contextmanager
    def noted(self, tell: Callable[[int], None] | None = None) -> Iterator[None]:
        """Meanwhile a signal is noted in ``asked``, and ``tell`` passes it on to other processes."""
        before = self.noting, self.tell
        self.noting, self.tell = True, tell
        try:
            yield
        finally:
            self.noting, self.tell = before

    def check(self) -> None:
        """Ends the command if a signal was noted and nothing has come of it."""
        if self.asked is not None:
            raise Stopped(self.asked)

    def extend(self, seconds: float) -> None:
        """Gives the process time from now on, if a signal was heard, and says that it saves."""
        if self.saving is not None:
            self.saving()
        if self.ends_at is not None:
            self.ends_at = time.monotonic() + seconds

    def watch(self, ear: int) -> None:
        """The thread: hears what the main thread may be too busy to hear, and ends the process when its time is up."""
        with contextlib.suppress(OSError):  # the pipe is closed
            while True:
                if select.select([ear], [], [], 0.2)[0]:
                    if not (heard := os.read(ear, 64)):
                        break
                    for number in heard:
                        self.count(number)
                if self.ends_at is None:
                    continue
                self.mute_lost_terminals()
                if time.monotonic() > self.ends_at:
                    self.end_at_once(self.asked or self.first, "and ended at once, as it came to no place to save")
        with contextlib.suppress(OSError):
            os.close(ear)

    def count(self, number: int) -> None:
        """Begins the time that is left at the first signal; the second ends the process."""
        if number not in self.previous:
            return
        now = time.monotonic()
        if self.heard_at is None:
            self.heard_at, self.first = now, number
            self.ends_at = now + (GRACE if self.noting else self.abrupt)
        elif now > self.heard_at + BOUNCE:
            self.end_at_once(number, "after an earlier signal, and ended at once")

    def end_at_once(self, number: int, how: str) -> None:
        """Ends this process and those that it tells, without a look back."""
        if self.tell is not None:
            self.tell(signal.SIGKILL)
        self.say(f"{line_of(number)} {how}: {self.then}")
        os._exit(STOPPED + number)

    def say(self, line: str) -> None:
        """Prints a line for the user."""
        self.mute_lost_terminals()
        if not self.quiet:
            with contextlib.suppress(OSError):
                os.write(2, f"{line}\n".encode())

    def mute_lost_terminals(self) -> None:
        """Has nothing fail because it prints to a terminal that was closed."""
        for descriptor in self.terminals:
            if not os.isatty(descriptor):
                to_nowhere(descriptor)


stop = Stop()
"""Of this process."""

os.register_at_fork(after_in_child=stop.leave_to_parent)


def line_of(number: int) -> str:
    """How the line of a signal begins."""
    return f"stopped by {signal.Signals(number).name}"


@contextlib.contextmanager
def commanded(last: bool = False) -> Iterator[None]:
    """Around a command: signals, a closed pipe (``| head``) and ``Interrupted`` end it in a line, never in a traceback.

    Inside another one it does nothing.

    Args:
        last: the process ends after it, so it goes on listening.
    """
    if not stop.listen(hard=True):
        yield
        return
    if last:
        atexit.register(stop.close_ears)  # before any other, so it is called after all others
    try:
        yield
        sys.stdout.flush()
    except Stopped as stopped:
        stop.say(f"{line_of(stopped.number)}: {stop.then}")
        raise
    except KeyboardInterrupt:  # not ours: somebody has put the interpreter's own handler back
        stop.say(f"{line_of(signal.SIGINT)}: {stop.then}")
        sys.exit(STOPPED + signal.SIGINT)
    except Interrupted as interrupted:
        stop.say(f"interrupted: {interrupted}")
        sys.exit(AGAIN)
    except BrokenPipeError:
        if not nobody_reads(1):
            raise
        to_nowhere(1)
        sys.exit(STOPPED + signal.SIGPIPE)
    finally:
        if not last:
            stop.release()


def nobody_reads(descriptor: int) -> bool:
    """Whether it is a pipe that was closed at its other end."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def to_nowhere(descriptor: int) -> None:
    """What is written there from now on is lost, and nothing fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


# Processes that work for another one.

PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h: the signal that a process gets when its parent is gone."""


def end_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Has this process get a signal when its parent ends, however that happens: no orphans.

    Args:
        parent: its process id, for it may have ended already; of a process that a server has forked for it (the start
            method forkserver, Python 3.14's own choice), the one that has asked for it.
        number: of the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    is_child = os.getppid() == parent
    process = None if is_child else asking(parent)
    if not is_child and process is None:
        os.kill(os.getpid(), number)
    elif not is_child or sys.platform != "linux":
        threading.Thread(target=wait_for_end, args=(parent, number, process), daemon=True).start()


def asking(parent: int) -> Any:
    """What multiprocessing knows of the process that has asked for this one, if that is ``parent``; otherwise None."""
    from multiprocessing import parent_process

    found = parent_process()
    return found if found is not None and found.pid == parent else None


def wait_for_end(parent: int, number: int, process: Any) -> None:
    """Where the system does not tell: by multiprocessing's pipe to the process that has asked for this one, or by a
    look every second."""
    if process is not None:
        process.join()
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), number)


def begin_worker(parent: int, *_: Any) -> None:
    """What a worker process of a loader begins with: it ends with its parent, and not by what a terminal, ``timeout``
    or a batch system sends to all processes at once, for the parent has to come to the end of its step."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # before there is a thread that it could come to
        end_with(parent)
        threading.Thread(target=obey, args=(parent,), daemon=True).start()
    else:
        end_with(parent)
        signal.signal(
            signal.SIGTERM, lambda *_: signal.alarm(int(GRACE))
        )  # by then the parent, if that sent it, means it


def obey(parent: int) -> None:
    """In a worker: ends it as soon as a SIGTERM is its parent's, which ends workers that do not end by themselves."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(STOPPED + signal.SIGTERM)
