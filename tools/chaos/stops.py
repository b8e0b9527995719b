"""Signals that ask a run to end, once and twice, wherever it is; and disks that fill up or become read-only on the way.

The run ends soon, in a sentence, with a code that says whether the same command goes on; and that it then does.
"""

import errno
import functools
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.chaos.moments import FAILS, Moment
from tools.chaos.runs import Kind
from tools.chaos.starts import Arrange, Start, limit_file_size, limit_open_files, start
from tools.chaos.trial import Loss, Reference, Trial, concluded, emptied, reference

SOON = 15.0
"""Seconds within which a run ends that was asked to."""

ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

AGAIN = 75


def places(whole: Reference) -> list[Moment]:
    """Fifteen places of a run with a page, from its first file to its last."""
    files = whole.named("file")
    of = {name: files.index(name) + 1 for name in reversed(files)}  # the first of each

    def first(text: str) -> Moment:
        return Moment("file", next(number for name, number in sorted(of.items()) if text in name))

    return [
        *(Moment("file", 1), first("config.yaml"), first("latest"), first("last.ckpt"), first("os.fsync")),
        *(Moment("step", 1), Moment("update", 2), Moment("step", 4), Moment("update", 4), Moment("step", 7)),
        *(Moment("score", 1), Moment("score", len(whole.named("score"))), Moment("update", len(whole.named("update")))),
        *(Moment("result", 1), Moment("page", 1)),
    ]


def ended_badly(one: Start, codes: Sequence[int]) -> str:
    """What is wrong with the end of a start that was struck; "" if nothing."""
    if not one.struck:
        return ""
    found = []
    if one.code not in codes:
        found.append(f"ended with {one.code}")
    if "Traceback (most recent call last)" in one.err + one.out:
        found.append("traceback")
    if one.to_end > SOON:
        found.append(f"{one.to_end:.0f} s to the end")
    if one.code and not one.last_line:
        found.append("no word")
    return f"{', '.join(found)}: {one.last_line}" if found else ""


def stop(place: Path, kind: Kind, whole: Reference, moment: Moment) -> Trial:
    """A run that is asked to end at a moment, and then goes on."""
    folder, loss = emptied(place / "run"), Loss(kind)
    struck = start(folder, kind.arguments, moment)
    loss.see(struck)
    names = ", ".join(signal.Signals(number).name for number in moment.signals)
    codes = [0, *(128 + number for number in moment.signals)]
    trial = concluded(folder, kind, whole, "signal", [struck], loss, ended_badly(struck, codes))
    return trial._replace(where=f"{names} at {trial.where}")


def stops(with_page: Kind, place: Path, whole: Reference, number: int) -> Iterator[Trial]:
    """Every signal at every place, once and twice; of these every sixth, beginning with ``number``."""
    cases = [moment._replace(signals=(ask,) * times) for moment in places(whole) for ask in ASKS for times in (1, 2)]
    without = with_page._replace(more=("report=none",))
    bare = reference(place, without)
    for moment in cases[number::6]:
        late = moment.place in ("result", "page")
        yield stop(place, with_page if late else without, whole if late else bare, moment)


# Disks.


def fail(place: Path, kind: Kind, whole: Reference, moment: Moment | None, arrange: Arrange | None, what: str) -> Trial:
    """A run whose disk fails, and which then has another."""
    folder, loss = emptied(place / "run"), Loss(kind)
    failed = start(folder, kind.arguments, moment, arrange=arrange)
    loss.see(failed)
    began = bool(failed.updates("step"))
    badly = ended_badly(failed, [0, AGAIN] if began else [0, 1, AGAIN])
    if arrange is not None and failed.code not in (0, 1, AGAIN):
        badly = badly or f"ended with {failed.code}: {failed.last_line}"
    trial = concluded(folder, kind, whole, "fault", [failed], loss, badly, forgiven=1)
    return trial._replace(where=f"{what} {trial.where}".strip(), said=trial.said or failed.last_line, struck=1)


def failures(kind: Kind, place: Path, whole: Reference, rng: random.Random, number: int) -> Iterator[Trial]:
    """A disk that is full, a full quota, a disk that becomes read-only, too many open files, at different moments; of
    these every third, beginning with ``number``."""
    files = range(1, len(whole.named("file")) + 1)
    errors = [
        (Moment("file", at, (), error), None, errno.errorcode[error]) for error in FAILS for at in rng.sample(files, 4)
    ]
    sizes = [(None, functools.partial(limit_file_size, n), f"files of at most {n} bytes") for n in (200, 10**5, 10**6)]
    counts = [(None, functools.partial(limit_open_files, n), f"{n} open files") for n in (16, 32)]
    for moment, arrange, what in [*errors, *sizes, *counts][number::3]:
        yield fail(place, kind, whole, moment, arrange, what)
