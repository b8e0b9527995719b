"""What ends a run from outside: the errors by which it is noticed, in a sentence. The same command then goes on."""

import contextlib
import re
import signal
from collections.abc import Iterator

import torch.distributed as dist

from ssl_framework.runs.stopping import Interrupted
from ssl_framework.runs.system import errors_behind
from ssl_framework.training.watchdog import AFTERWARDS, gone

LOST = re.compile(
    r"closed by peer|reset by peer|connection refused|broken pipe|connection was (closed|aborted)|remote process exited"
    r"|remote error|socket (error|timeout)|timed out (after|waiting)|failed to (recv|send|connect)|no route to host"
    r"|network error|wait timeout|heartbeat",
    re.IGNORECASE,
)
"""How gloo, NCCL and the key-value store say that another process does not answer."""

CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""What a process sends itself: to go on the same way would end the same way."""


class Lost(Interrupted):
    """Another process of the run does not answer: the effect of something that happened there."""


def killed(who: str, number: int) -> str:
    """That a process was killed, and by whom most likely; without an end."""
    why = {
        signal.SIGKILL: ", by hand, by the batch system, or by the kernel because memory ran out (dmesg says so)",
        signal.SIGBUS: ", most likely because shared memory ran out (df -h /dev/shm says so)",
    }
    return f"{who} was killed by {signal.Signals(number).name}{why.get(signal.Signals(number), '')}"


def outside(error: BaseException) -> Interrupted | None:
    """What happened outside that an error is the sign of, or ``None``."""
    for cause in errors_behind(error):
        text = " ".join(str(cause).split())
        if isinstance(cause, RuntimeError) and "DataLoader worker (pid" in text:
            return Interrupted(dead_worker(text))
        network = isinstance(cause, dist.DistNetworkError | dist.DistStoreError)
        if network or (isinstance(cause, RuntimeError) and is_of_group(cause, text) and LOST.search(text)):
            return Lost(lost(text))
    return None


def is_of_group(error: RuntimeError, text: str) -> bool:
    """Whether an error comes from the process group."""
    return isinstance(error, dist.DistError) or bool(re.search("gloo|nccl|ProcessGroup|store", text, re.IGNORECASE))


def dead_worker(text: str) -> str:
    """Of torch's note that a worker of a DataLoader has died."""
    found = re.search(r"pid\(?s?\)? ([\d, ]+)", text)
    who = f"a process that reads data (pid {found[1].strip()})" if found else "a process that reads data"
    how = re.search(r"by signal: ([^.]+)", text)
    number = next((n for n in signal.Signals if how and signal.strsignal(n) == how[1].strip()), signal.SIGKILL)
    return f"{killed(who, number)}: if it was for memory, lower data.num_workers; {AFTERWARDS}"


def lost(text: str) -> str:
    """Of the process group's note that another process does not answer."""
    ended = gone()
    if not ended:
        return f"another process of this run does not answer ({text[:200]}); {AFTERWARDS}"
    were = "have" if len(ended) > 1 else "has"
    return f"{' and '.join(ended)} {were} ended before the run was through, and this one with it; {AFTERWARDS}"


@contextlib.contextmanager
def from_outside() -> Iterator[None]:
    """Raises Interrupted in place of an error that is the sign of something outside the run."""
    try:
        yield
    except Exception as error:
        if (found := outside(error)) is not None:
            raise found from error
        raise
