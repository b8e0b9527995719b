"""Two ranks, of which one is killed, or stops, or loses its parent: the run ends soon and says who died."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.chaos.moments import Log, read_log
from tools.chaos.runs import Kind
from tools.chaos.starts import CONTEXT, Start, become, files_of, text_of
from tools.chaos.trial import Loss, Reference, Trial, concluded, emptied, reference

SOON = 60.0
"""Seconds within which a run of several ranks ends after one of them is gone."""


def children(parent: int) -> list[int]:
    """Living children of a process, the oldest first (Linux)."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and fields_of(int(entry))[1:2] == [str(parent)]:
            found.append(int(entry))
    return sorted(found)


def fields_of(process: int) -> list[str]:
    """State, parent and so on of a process; [] if there is none."""
    try:
        return Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def lives(process: int) -> bool:
    """Whether a process is there and no zombie."""
    return fields_of(process)[:1] not in ([], ["Z"])


def below(parent: int) -> list[int]:
    """All living descendants of a process."""
    own = children(parent)
    return [*own, *(other for child in own for other in below(child))]


def struck_at_step(
    folder: Path, arguments: tuple[str, ...], step: int, blow: Callable[[int, list[int]], str]
) -> tuple[Start, str]:
    """A start of two ranks, struck from outside when a rank begins a step.

    Args:
        folder: the working folder.
        arguments: of the command.
        step: updates done by then.
        blow: gets the parent and its descendants, and says what it did.

    Returns:
        The start, and what was done.
    """
    out, err, log = files_of(folder)
    log.unlink(missing_ok=True)
    process: Any = CONTEXT.Process(target=become, args=(folder, arguments, None, None))
    began = time.monotonic()
    process.start()
    while process.exitcode is None and not any(w == "step" and int(r) >= step for _, w, r in read_log(log)):
        time.sleep(0.01)
    family = below(process.pid)
    Log(log).note("struck", what := blow(process.pid, family))
    struck = time.monotonic()
    process.join(SOON)
    hung = process.exitcode is None
    if hung:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    while (left := [one for one in family if lives(one)]) and time.monotonic() < struck + SOON:
        time.sleep(0.05)
    to_end = time.monotonic() - struck
    for one in left:
        os.kill(one, signal.SIGKILL)
    code = -1000 if hung else process.exitcode
    log_read = read_log(log)
    return Start(code, text_of(out), text_of(err), log_read, time.monotonic() - began, to_end, len(left)), what


def rank_killed(parent: int, family: list[int]) -> str:
    os.kill(ranks_of(family)[1], signal.SIGKILL)
    return "rank 1 killed"


def rank_stopped(parent: int, family: list[int]) -> str:
    os.kill(ranks_of(family)[1], signal.SIGSTOP)
    return "rank 1 stopped"


def parent_killed(parent: int, family: list[int]) -> str:
    os.kill(parent, signal.SIGKILL)
    return "parent killed"


def parent_hung_up(parent: int, family: list[int]) -> str:
    os.kill(parent, signal.SIGHUP)
    return "terminal closed"


def ranks_of(family: list[int]) -> list[int]:
    """Of the descendants of a run, its ranks: those that lead a session of their own."""
    return [one for one in family if fields_of(one)[3:4] == [str(one)]]


def losses(place: Path, kind: Kind, whole: Reference) -> Iterator[Trial]:
    """One of the processes is lost; then the same command."""
    for blow, codes in (
        (rank_killed, (75,)),
        (parent_killed, (-signal.SIGKILL,)),
        (parent_hung_up, (128 + signal.SIGHUP, 0)),  # it may have come to its end meanwhile
        (rank_stopped, (75,)),
    ):
        folder, loss = emptied(place / "run"), Loss(kind)
        struck, what = struck_at_step(folder, kind.arguments, 6, blow)
        loss.see(struck)
        badly = [f"ended with {struck.code}"] * (struck.code not in codes)
        badly += ["traceback"] * ("Traceback (most recent call last)" in struck.err + struck.out)
        badly += [f"{struck.to_end:.0f} s to the end"] * (struck.to_end >= SOON)
        badly += ["does not name rank 1"] * ("rank" in what and "rank 1" not in struck.err + struck.out)
        said = f"{', '.join(badly)}: {struck.last_line}" if badly else ""
        trial = concluded(folder, kind, whole, "ranks", [struck], loss, said, forgiven=1)
        yield trial._replace(where=f"{what} at step 6", struck=1, said=trial.said or struck.last_line)


def two_ranks(method: str, place: Path) -> tuple[Kind, Reference]:
    """The same run of two ranks, undisturbed; it notices after 12 seconds that a rank stands still."""
    kind = Kind(method, "epochs", "epochs", ("trainer=ddp_cpu", "report=none", "trainer.hang_after_minutes=0.2"))
    return kind, reference(place, kind)
