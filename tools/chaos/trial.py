"""One run that is disturbed: what is counted of it, and how it is brought to its end by the same command alone."""

import re
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

from ssl_framework.runs.folder import RunFolder
from tools.chaos.compare import differences, left_over
from tools.chaos.runs import RUN, Kind
from tools.chaos.starts import Start, start, start_fresh

KILLED = -signal.SIGKILL


class Trial(NamedTuple):
    """A run that was disturbed, and what became of it; a line of the table."""

    method: str
    bound: str
    saved: str
    kind: str  # "kill", "signal", "fault"
    where: str  # it was struck, in order
    struck: int  # times
    starts: int  # of the same command, all
    differs: str  # from an undisturbed run, "" if nothing
    dead_ends: int  # 1 if nothing led on
    manual_steps: int  # times that the same command did not lead on
    lost: int  # steps done twice, the most after one blow
    may_lose: int  # as many may be: see Kind.may_lose
    partial_files: int
    locks: int
    orphans: int
    badly: str  # how a start ended that should have ended otherwise: a traceback, another code, too late
    said: str  # by a command that did not lead on
    commit: str = ""  # of the code

    @property
    def is_clean(self) -> bool:
        bad = self.differs or self.dead_ends or self.manual_steps or self.badly
        left = self.partial_files or self.locks or self.orphans
        return not (bad or left) and self.lost <= self.may_lose


class Reference(NamedTuple):
    """A run that nothing has disturbed, and the moments that it passed."""

    folder: Path
    start: Start

    def named(self, place: str) -> list[str]:
        """What passed at a place, in order; for "torn", how many files got their names."""
        return [rest for _, word, rest in self.start.log if word == place]


def reference(place: Path, kind: Kind) -> Reference:
    """Makes an undisturbed run.

    Raises:
        ValueError: it did not come to its end.
    """
    folder = emptied(place / re.sub(r"[^\w-]", "_", "-".join([*kind[:3], *kind.more])))
    done = start(folder, kind.arguments)
    if done.code:
        raise ValueError(f"{kind} ends with {done.code} undisturbed: {done.last_line}")
    return Reference(folder, done)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


class Loss:
    """Follows how many steps are done again after each blow."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.had = 0
        self.allowed = 0
        self.worst = (0, 0)  # lost, of allowed

    def see(self, one: Start) -> None:
        """Looks at a start: how far back it began, and how far it came."""
        begun = one.updates("step")
        if not begun:
            return
        lost = self.had - begun[0][1]
        self.worst = max(self.worst, (lost, self.allowed), key=lambda found: (max(0, found[0] - found[1]), found[0]))
        if one.struck:
            self.had = max([begun[0][1], *(done for _, done in one.updates("update"))])
            self.allowed = self.kind.may_lose(one.log, one.struck_at)


def goes_on(code: int) -> bool:
    """Whether a start that ended so promised that the same command goes on."""
    return code == 75 or code > 128 or code < 0


def concluded(
    folder: Path,
    kind: Kind,
    whole: Reference,
    what: str,
    starts: list[Start],
    loss: Loss,
    badly: str = "",
    fresh: bool = False,
    forgiven: int = 0,
) -> Trial:
    """Gives the same command until the run ends, then the one with resume= if it does not, and compares.

    Args:
        folder: the working folder.
        kind: of run.
        whole: the same, undisturbed.
        what: for the column "kind".
        starts: so far.
        loss: of these.
        badly: how one of them ended.
        fresh: whether the following ones are new interpreters.
        forgiven: how many of the starts so far may have been refused.
    """
    refused = [one for one in starts[forgiven:] if one.code and not goes_on(one.code)]
    ended = bool(starts) and starts[-1].code == 0
    while not ended and len(refused) < 1 and len(starts) < 12:
        starts.append(start_fresh(folder, kind.arguments) if fresh else start(folder, kind.arguments))
        loss.see(starts[-1])
        ended = starts[-1].code == 0
        if not ended and not goes_on(starts[-1].code):
            refused.append(starts[-1])
    if not ended:
        starts.append(start(folder, (f"resume={RUN}",)))
        loss.see(starts[-1])
        ended = starts[-1].code == 0
    lost, may_lose = loss.worst
    return Trial(
        *kind[:3],
        kind=what,
        where="; ".join(one.struck for one in starts if one.struck),
        struck=sum(bool(one.struck) for one in starts),
        starts=len(starts),
        differs=", ".join(differences(whole.folder / RUN, folder / RUN)[:6]),
        dead_ends=int(not ended),
        manual_steps=len(refused),
        lost=lost,
        may_lose=may_lose,
        partial_files=len(left_over(whole.folder, folder)),
        locks=int(RunFolder(folder / RUN).is_held),
        orphans=sum(one.orphans for one in starts),
        badly=badly,
        said=" | ".join(dict.fromkeys(one.last_line for one in refused)),
    )
