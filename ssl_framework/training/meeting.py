"""What the processes of a launched run tell each other before, between and beside their steps: words, not tensors.

They meet in the key-value store that their process group will use as well: torchrun's, or one that the first process
holds. A process that nothing has launched meets nobody, and every function here answers at once.
"""

import functools
import hashlib
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ssl_framework.runs import stopping
from ssl_framework.runs.messages import Interrupted, RunFailed
from ssl_framework.training.place import Place, join, place

PATIENCE = timedelta(minutes=30)
"""How long the others wait for what the first process decides."""

MEETING_MINUTES = "MEETING_MINUTES"
"""Variable that says how long the processes wait for each other to come at all."""

NOTE_AFTER = 15.0
"""Seconds until a process that waits says so."""

TOGETHER = 10.0
"""Seconds within which all processes come to the end of what they do together, or to refuse what none of them can."""

REFUSED = "refused"


class Meeting:
    """The words of one attempt of a run's processes.

    Args:
        here: where this process stands.
    """

    def __init__(self, here: Place) -> None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # pages in C++ about what is said here in a sentence
        import torch.distributed as dist

        join(here)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            stopping.end_with(os.getppid(), signal.SIGTERM)  # torchrun was killed: save and end
        stopping.stop.abrupt = stopping.FINDING  # until the run trains
        self.here = here
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = come_together(here, patience_of_meeting())
        store.set_timeout(PATIENCE)
        self.store = dist.PrefixStore(f"ssl_framework/{attempt}", store)
        self.decisions = 0

    def agree(self, decide: Callable[[], str]) -> str:
        """What the first process decides; it alone does.

        Raises:
            RunFailed: it refused, and has said so.
            Interrupted: it has ended without a word.
        """
        self.decisions += 1
        key = f"decision/{self.decisions}"
        if self.here.rank:
            found = self.decided(key)
            if found == REFUSED:
                raise RunFailed
            return found.removeprefix("=")
        try:
            decided = decide()
        except BaseException:
            self.store.set(key, REFUSED)
            raise
        self.store.set(key, f"={decided}")
        return decided

    def decided(self, key: str) -> str:
        """The first process's word, or Interrupted."""
        try:
            return self.store.get(key).decode()
        except RuntimeError as error:
            raise Interrupted(
                f"the first process of the run, at {address()}, has ended or does not answer; the same command goes on"
            ) from error

    def first_to_say(self, sentence: str) -> bool:
        """Whether no other process has said this about the decision that was taken last; or nobody can say."""
        digest = hashlib.sha256(sentence.encode()).hexdigest()
        try:
            return self.store.add(f"said/{self.decisions}/{digest}", 1) == 1
        except RuntimeError:
            return True

    def all_refuse(self) -> bool:
        """Whether every process comes to refuse what was decided last; if not, some of them wait for this one."""
        return self.all_come("refusals")

    def all_come(self, to: str) -> bool:
        """Whether every process comes to the same point behind what was decided last, for which this one waits."""
        key, deadline = f"{to}/{self.decisions}", time.monotonic() + TOGETHER
        try:
            self.store.add(key, 1)
            while (there := self.store.add(key, 0)) < self.here.world_size and time.monotonic() < deadline:
                time.sleep(0.05)
        except RuntimeError:  # the process that holds the store has ended
            return False
        return there == self.here.world_size


def come_together(here: Place, patience: timedelta) -> Any:
    """The key-value store of the run's processes, once all are there.

    Raises:
        Interrupted: they did not come, in one sentence that names where they were to meet.
    """
    import torch.distributed as dist

    until = time.monotonic() + patience.total_seconds()

    waits = f"waiting for the other processes of this run at {address()}"
    note = threading.Timer(NOTE_AFTER, print, (waits,), {"file": sys.stderr, "flush": True})
    note.daemon = True
    note.start()
    try:
        if here.rank:
            wait_for_first(until)
        left = max(1.0, until - time.monotonic())
        return next(dist.rendezvous("env://", timeout=timedelta(seconds=left)))[0]
    except (RuntimeError, OSError) as error:
        who = "the others" if here.rank == 0 else "the first one"
        raise Interrupted(
            f"process {here.rank} of {here.world_size} did not find {who} at {address()} (MASTER_ADDR, MASTER_PORT) "
            f"within {patience.total_seconds() / 60:g} minutes ({MEETING_MINUTES}): {reason(error)}"
        ) from error
    finally:
        note.cancel()


def wait_for_first(until: float) -> None:
    """Returns once something listens where the first process is to be; in Python, where signals are heard meanwhile.

    Raises:
        OSError: nothing did, until then.
    """
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    while True:
        try:
            socket.create_connection(where, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def address() -> str:
    """Where the first process is to be found."""
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def reason(error: Exception) -> str:
    """The first line of what torch says, without its own place in C++."""
    return re.sub(r"^\[[^\]]*\]:?\s*", "", str(error).strip().partition("\n")[0])[:200]


def patience_of_meeting() -> timedelta:
    """How long processes wait for each other to come at all: five minutes, or what ``MEETING_MINUTES`` says.

    Raises:
        ValueError: it says no number above 0.
    """
    said = os.environ.get(MEETING_MINUTES, "5")
    try:
        minutes = float(said)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 100_000:
        raise ValueError(f"{MEETING_MINUTES} is {said}: it must be a number of minutes above 0")
    return timedelta(minutes=minutes)


@functools.cache
def meeting() -> Meeting | None:
    """Where the processes of this run meet; ``None`` if this one is alone."""
    here = place()
    return None if here is None or here.world_size == 1 else Meeting(here)


def agree(decide: Callable[[], str]) -> str:
    """See ``Meeting.agree``; a process alone decides."""
    found = meeting()
    return decide() if found is None else found.agree(decide)


def first_to_say(sentence: str) -> bool:
    """See ``Meeting.first_to_say``; a process alone says everything."""
    found = meeting()
    return found is None or found.first_to_say(sentence)


def end_together() -> None:
    """Waits until all processes have read the last word: the first one takes with it where they meet."""
    if (found := meeting()) is not None:
        found.all_come("end")
