"""A watchdog over the steps of a run: one that hangs is ended, and every rank's place is named.

A thread beside the training looks every few seconds whether steps were made. The ranks tell each other by the key-value
store in which they have met, over a connection of the thread's own: so the others name a rank that is stopped, or whose
machine is gone. What a step costs is one addition.
"""

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import lightning as L
import torch.distributed as dist

from ssl_framework.runs.messages import AGAIN
from ssl_framework.runs.stopping import stop

PACKAGE = Path(__file__).resolve().parents[1]

PERIOD = 10.0
"""Seconds between two looks, or a tenth of the limit where that is less."""

ANSWER = timedelta(seconds=20)
"""How long the store may take to answer the thread."""

LEAVE = 3.0
"""Seconds in which the thread hears an answer that is under way, once the run is over: an interpreter that exits while
a thread is inside the store's C++ is aborted."""

roll: dict[int, tuple[int, str]] = {}
"""Process id and machine of each rank of the run that goes on here, as far as they have told."""

attempts = itertools.count()


def say(sentence: str) -> None:
    """How the last words reach the user; a process whose parent speaks for it puts another way in place."""
    stop.say(f"interrupted: {sentence}")


ways: list[Callable[[str], None]] = [say]
"""The last is taken."""


class State(NamedTuple):
    """What a rank says of itself."""

    looks: int  # of its thread; a process that is stopped takes none
    idle: float  # seconds without progress
    step: int
    place: str  # of the main thread in this package
    pid: int
    host: str

    @property
    def who(self) -> str:
        return f"pid {self.pid}" if self.host == socket.gethostname() else f"pid {self.pid} on {self.host}"


class Watchdog(L.Callback):
    """Ends the process with exit code 75 when nothing has happened for too long.

    In training that is no step; between epochs, where an evaluation may take its time, that the main thread stands
    where it stood. While another rank gets on, nothing hangs: the others wait for it.

    Args:
        minutes: without progress; ``None``: no watch is kept.

    Raises:
        ValueError: not above 0.
    """

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(f"trainer.hang_after_minutes is {minutes}: it must be above 0, or null for no watch")
        self.limit = None if minutes is None else 60 * minutes
        self.beats = 0
        self.between_epochs = False
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        roll.clear()
        self.between_epochs = True  # the weights that the run begins with may be scored first
        if self.limit is not None:
            watch = Watch(self, trainer, self.limit)
            self.thread = threading.Thread(target=watch.go, name="watchdog", daemon=True)
            self.thread.start()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.beats += 1
        self.between_epochs = False

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.beats += 1

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.between_epochs = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.end()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.end()

    def end(self) -> None:
        """The run is over, and the thread ends."""
        self.over.set()
        if self.thread is not None:
            self.thread.join(LEAVE)


class Watch:
    """What the thread does.

    Args:
        watched: whose progress it looks at.
        trainer: of the run.
        limit: seconds without progress.
    """

    def __init__(self, watched: Watchdog, trainer: L.Trainer, limit: float) -> None:
        self.watched, self.trainer, self.limit = watched, trainer, limit
        self.main = threading.get_ident()
        self.period = min(PERIOD, limit / 10)
        self.looks, self.idle = 0, 0.0
        self.before: Any = None
        self.store = store_of(trainer.world_size)

    def go(self) -> None:
        """Looks until the run is over, or hangs."""
        self.tell()
        while not self.watched.over.wait(self.period):
            self.look()
            if self.idle >= self.limit and (sentence := self.verdict()):
                ways[-1](sentence)
                os._exit(AGAIN)

    def look(self) -> None:
        """Notes whether something has happened. Time counts by looks: a process that was stopped has not waited."""
        now = self.progress()
        self.idle = 0.0 if now != self.before else self.idle + self.period
        self.before = now
        self.looks += 1
        self.tell()

    def progress(self) -> Any:
        """What changes as the run gets on."""
        frames = [(f.f_code, f.f_lasti) for f in stack(self.main)] if self.watched.between_epochs else []
        return self.watched.beats, frames

    def tell(self) -> None:
        """Says to the others how it stands here, and hears who they are."""
        if self.store is None:
            return
        with contextlib.suppress(RuntimeError):  # the store's process is stopped or gone
            self.store.set(str(self.trainer.global_rank), json.dumps(self.state()))
            if len(roll) < self.trainer.world_size:
                roll.update({rank: (state.pid, state.host) for rank, state in self.others().items()})

    def state(self) -> State:
        place = place_of(self.main)
        return State(self.looks, self.idle, self.trainer.global_step, place, os.getpid(), socket.gethostname())

    def others(self) -> dict[int, State]:
        """What each rank has said last; without those that have said nothing, or all where the store is gone."""
        if self.store is None:
            return {self.trainer.global_rank: self.state()}
        found = {}
        with contextlib.suppress(RuntimeError):
            for rank in range(self.trainer.world_size):
                if self.store.check([str(rank)]):
                    found[rank] = State(*json.loads(self.store.get(str(rank))))
        return found

    def verdict(self) -> str:
        """Which rank stands where; "" where one of them gets on, or the run is over meanwhile."""
        before = self.others()
        for _ in range(3):
            if self.watched.over.wait(self.period):
                return ""
            self.look()
        if self.idle < self.limit:
            return ""
        now = self.others()
        answer = {rank for rank, state in now.items() if rank in before and state.looks > before[rank].looks}
        answer.add(self.trainer.global_rank)
        if any(now[rank].idle < self.limit / 2 for rank in answer if rank in now):
            self.idle = 0.0
            return ""
        now[self.trainer.global_rank] = self.state()
        lines = [said_of(rank, now.get(rank), rank in answer) for rank in range(self.trainer.world_size)]
        minutes = f"{self.limit / 60:g} minute{'s' if self.limit != 60 else ''}"
        return f"nothing has happened for {minutes} (trainer.hang_after_minutes): {'; '.join(lines)}; {AFTERWARDS}"


AFTERWARDS = "the same command goes on from the last checkpoint"


def said_of(rank: int, state: State | None, answers: bool) -> str:
    """Where a rank stands, in a few words."""
    if state is None:
        pid, host = roll.get(rank, (0, ""))
        return f"rank {rank}{f' (pid {pid} on {host})' if pid else ''} does not answer: it has ended, or is stopped"
    if answers:
        return f"rank {rank} ({state.who}) stands at {state.place}, in step {state.step}"
    how = {"T": "it is stopped (SIGSTOP)", "": "it has ended"}.get(process_state(state.pid, state.host), "")
    return f"rank {rank} ({state.who}) does not answer: {how or 'it is stopped, or its machine is gone'}"


def process_state(pid: int, host: str) -> str:
    """The letter that Linux has for how a process is: T stopped, Z ended; "" where there is none, "?" elsewhere."""
    if host != socket.gethostname() or not Path("/proc/self/stat").is_file():
        return "?"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return ""


def gone() -> list[str]:
    """The ranks on this machine that have ended, by number and process id."""
    ended = [(rank, pid) for rank, (pid, host) in sorted(roll.items()) if process_state(pid, host) in ("", "Z", "X")]
    return [f"rank {rank} (pid {pid})" for rank, pid in ended]


def store_of(world_size: int, environment: Mapping[str, str] = os.environ) -> Any:
    """The ranks' store over a connection of its own; ``None`` without others, or where they have met elsewhere."""
    attempt = f"{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(attempts)}"
    if world_size == 1 or "MASTER_PORT" not in environment:
        return None
    where = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    with contextlib.suppress(RuntimeError):
        store = dist.TCPStore(*where, is_master=False, wait_for_workers=False, timeout=ANSWER)
        return dist.PrefixStore(f"ssl_framework/watchdog/{attempt}", store)
    return None


def stack(thread: int) -> list[FrameType]:
    """The frames of a thread, the innermost first."""
    frame, found = sys._current_frames().get(thread), []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def place_of(thread: int) -> str:
    """Where a thread stands in this package: ``data/loader.py:118 (fetch)``, the innermost place."""
    for frame in stack(thread):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            return f"{file.relative_to(PACKAGE)}:{frame.f_lineno} ({frame.f_code.co_name})"
    return "none of our code"
