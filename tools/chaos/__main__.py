"""Any machine may vanish: runs are killed, stopped and lied to, and only the same command is given again.

    python -m tools.chaos [METHOD ...] [only=kill,signal,fault,ranks,input] [out=results/chaos] [seed=0]
    python -m tools.chaos short

The first is all of it, which takes about an hour on one core; trials of the methods and kinds that are named replace
those in the table. The second is a part that takes two minutes. Linux: processes are found in /proc.
"""

import itertools
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl_framework.device import cpu_name
from ssl_framework.runs.provenance import commit, versions
from tools.chaos.inputs import refusals
from tools.chaos.kills import campaign_of, kinds_of
from tools.chaos.lies import LIES, lie
from tools.chaos.ranks import losses, two_ranks
from tools.chaos.record import read_table, summary, write_table
from tools.chaos.runs import METHODS, Kind
from tools.chaos.starts import ROOT, start
from tools.chaos.stops import failures, stops
from tools.chaos.trial import Trial, reference

SHORT = ("mochi", "byol")


def warm_up(place: Path) -> None:
    """The first start waits for the imports of all, which is not its own time."""
    start(place, ("--help",))


def kills(method: str, place: Path, seed: int) -> Iterator[Trial]:
    return campaign_of(method, place, seed, kinds_of(method))


def signals(method: str, place: Path, seed: int) -> Iterator[Trial]:
    with_page = Kind(method, "epochs", "epochs")
    return stops(with_page, place, reference(place, with_page), list(METHODS).index(method))


def faults(method: str, place: Path, seed: int) -> Iterator[Trial]:
    kind, number = Kind(method, "epochs", "epochs", ("report=none",)), list(METHODS).index(method)
    whole = reference(place, kind)
    yield from failures(kind, place, whole, random.Random(f"{seed} {method} failures"), number)
    yield from (lie(place, kind, whole, told) for told in LIES[number :: len(METHODS) // 2])


def ranks(method: str, place: Path, seed: int) -> Iterator[Trial]:
    return losses(place, *two_ranks(method, place)) if list(METHODS).index(method) % 3 == 0 else iter(())


PARTS = {"kill": kills, "signal": signals, "fault": faults, "ranks": ranks}
"""Kind of trial -> its trials of a method; of the rarer ones each method meets a part."""


def short(place: Path, seed: int) -> Iterator[Trial]:
    """A part of it that takes two minutes."""
    for method in SHORT:
        yield from campaign_of(method, place, seed, kinds_of(method)[::4], first=12)


def below(place: Path, trial: Trial) -> Trial:
    """A trial whose words name files as seen from the place where all runs lie: a record names no machine's folders."""
    words = {name: value.replace(f"{place}/", "") for name, value in trial._asdict().items() if isinstance(value, str)}
    return trial._replace(**words)


def told(trials: Iterator[Trial], place: Path) -> Iterator[Trial]:
    """Says each trial as it ends, and notes the code it was of."""
    code = commit() or ""
    for one in (below(place, trial._replace(commit=code)) for trial in trials):
        word = "ok" if one.is_clean else f"WRONG {one}"
        print(
            f"{time.strftime('%H:%M:%S')} {one.method} {one.bound}/{one.saved} {one.kind} {one.where}: {word}",
            flush=True,
        )
        yield one


def heading(seed: int, trials: Sequence[Trial]) -> str:
    """Versions, commits and hardware."""
    names = ", ".join(f"{name} {version}" for name, version in versions().items())
    of = " and ".join(dict.fromkeys(one.commit for one in trials))
    return f"{names}, commit {of}, {platform.system()}, {cpu_name()}, 1 thread a process, seed {seed}"


def main(arguments: list[str]) -> None:
    options = dict(item.split("=", 1) for item in arguments if "=" in item)
    named = [item for item in arguments if "=" not in item]
    seed, began = int(options.get("seed", 0)), time.time()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        warm_up(place)
        if named == ["short"]:
            done = list(told(short(place, seed), place))
            print(*summary(done), sep="\n")
            sys.exit(int(not all(one.is_clean for one in done)))
        out = Path(options.get("out", ROOT / "results" / "chaos"))
        out.mkdir(parents=True, exist_ok=True)
        table = out / "table.csv"
        only = options.get("only", ",".join([*PARTS, "input"])).split(",")
        for kind, method in itertools.product([part for part in PARTS if part in only], named or METHODS):
            kept = [one for one in read_table(table) if (one.kind, one.method) != (kind, method)]
            trials = []
            for one in told(PARTS[kind](method, place, seed), place):
                trials.append(one)
                write_table(table, [*kept, *trials])
        if "input" in only:
            kept = [one for one in read_table(table) if one.kind != "input"]
            write_table(table, [*kept, *told(refusals(place), place)])
    minutes = f"{(time.time() - began) / 60:.0f} minutes"
    lines = [heading(seed, read_table(table)), *summary(read_table(table))]
    (out / "output.txt").write_text("\n".join(lines) + "\n")
    (out / "command.txt").write_text("python -m tools.chaos\n")
    print(*lines, minutes, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
