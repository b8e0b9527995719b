"""The record of a campaign: one line a trial in table.csv, and what they come to in output.txt."""

import csv
import functools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_type_hints

from tools.chaos.runs import METHODS
from tools.chaos.trial import Trial

KINDS = {
    "kill": "kills",
    "signal": "signals",
    "fault": "faults of disks and files",
    "ranks": "losses of a process of two ranks",
    "input": "bad inputs",
}
"""Kind of trial -> what it is called in a sentence."""


def write_table(path: Path, trials: Iterable[Trial]) -> None:
    """One line a trial."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Trial._fields)
        writer.writerows(trials)


def read_table(path: Path) -> list[Trial]:
    """The trials of a table; none where there is none."""
    if not path.is_file():
        return []
    types = get_type_hints(Trial)
    with path.open(newline="") as file:
        return [Trial(**{name: types[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def summary(trials: Sequence[Trial]) -> Iterator[str]:
    """A line for every method's kills and every other kind of trial, and one for each that did not end as it should."""
    for method in dict.fromkeys(one.method for one in trials if one.kind == "kill"):
        yield f"{method}: {counted([one for one in trials if (one.kind, one.method) == ('kill', method)])}"
    for kind, name in KINDS.items():
        if kind != "kill" and (found := [one for one in trials if one.kind == kind]):
            yield f"{name}: {counted(found)}"
    yield f"all: {counted(trials)}"
    for one in trials:
        if not one.is_clean:
            yield f"  {one.method} {one.bound}/{one.saved} {one.kind} {one.where}: {wrongs(one)}"


def counted(trials: Sequence[Trial]) -> str:
    """What some trials come to."""

    worst = max(trials, key=lambda one: (max(0, one.lost - one.may_lose), one.lost))
    total = functools.partial(total_of, trials)
    return (
        f"{total('struck')} in {len(trials)} runs and {total('starts')} starts: {total('differs')} differ, "
        f"{total('dead_ends')} dead ends, {total('manual_steps')} manual steps, at most {worst.lost} steps lost where "
        f"{worst.may_lose} may be, {total('partial_files')} files left over, {total('locks')} locks, "
        f"{total('orphans')} orphans, {total('badly')} ended badly"
    )


def total_of(trials: Sequence[Trial], name: str) -> int:
    """The sum of a column; of one with words, how many have any."""
    values = [getattr(one, name) for one in trials]
    return sum(bool(value) if isinstance(value, str) else value for value in values)


def wrongs(one: Trial) -> str:
    """What is wrong with a trial."""
    found = [f"differs in {one.differs}"] * bool(one.differs) + [one.badly] * bool(one.badly)
    found += [f"{one.lost} steps lost of {one.may_lose}"] * (one.lost > one.may_lose)
    counts = {"dead ends": one.dead_ends, "manual steps": one.manual_steps, "files left over": one.partial_files}
    counts |= {"locks": one.locks, "orphans": one.orphans}
    found += [f"{count} {name}" for name, count in counts.items() if count]
    return "; ".join([*found, *([f'said "{one.said}"'] if one.said else [])])


def story(root: Path) -> str:
    """Two sentences about the campaign, for the README.

    Args:
        root: of the repository, which has its table.
    """
    trials = read_table(root / "results" / "chaos" / "table.csv")
    kills = [one for one in trials if one.kind == "kill"]
    others = [one for one in trials if one.kind not in ("kill", "input")]
    least = min(total_of([one for one in kills if one.method == name], "struck") for name in METHODS)
    total = functools.partial(total_of, runs := [*kills, *others])
    differ, stuck, helped = ((total(what) or "none") for what in ("differs", "dead_ends", "manual_steps"))
    beyond = sum(one.lost > one.may_lose for one in runs) or "none"
    text = (
        f"Runs of {len(METHODS)} methods were killed {total_of(kills, 'struck'):,} times, at least {least} times a "
        f"method, at every operation on a file and at any instant, and met {len(others)} signals, full disks, damaged "
        "files and lost ranks, with nothing but the same command between. "
        f"Of these {len(runs)} runs, some of which were killed more than once, {differ} ended other than an "
        f"undisturbed one in weights, optimizer, record or result, {stuck} came to a dead end, {helped} needed help by "
        f"hand, and {beyond} repeated more steps than lie between two checkpoints and are made while one is written "
        "(`python -m tools.chaos`, [results/chaos](results/chaos/output.txt))."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False) + "\n"
