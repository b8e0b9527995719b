"""Any machine may vanish: runs are killed, stopped and lied to, and only the same command is given again.

    python -m tools.chaos [METHOD ...] [out=results/chaos] [seed=0]     all of it, about an hour on one core
    python -m tools.chaos short                                         two methods, two minutes

Trials of the methods that are named replace those in the table. Linux: processes are found in /proc.
"""

import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ssl_framework.device import cpu_name
from ssl_framework.runs.provenance import versions
from tools.chaos.inputs import refusals
from tools.chaos.kills import campaign_of
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


def trials_of(method: str, place: Path, seed: int) -> Iterator[Trial]:
    """All trials of a method; each of the rarer kinds meets a part of the methods."""
    number = list(METHODS).index(method)
    yield from campaign_of(method, place, seed)
    with_page = Kind(method, "epochs", "epochs")
    yield from stops(with_page, place, reference(place, with_page), number)
    kind = with_page._replace(more=("report=none",))
    whole = reference(place, kind)
    yield from failures(kind, place, whole, random.Random(f"{seed} {method} failures"), number)
    yield from (lie(place, kind, whole, told) for told in LIES[number :: len(METHODS) // 2])
    if number % 3 == 0:
        yield from losses(place, *two_ranks(method, place))


def short(place: Path, seed: int) -> Iterator[Trial]:
    """A part of it that takes two minutes."""
    for method in SHORT:
        yield from campaign_of(method, place, seed, fresh=0, most=12)


def told(trials: Iterator[Trial]) -> Iterator[Trial]:
    """Says each trial as it ends."""
    for one in trials:
        word = "ok" if one.is_clean else f"WRONG {one}"
        print(
            f"{time.strftime('%H:%M:%S')} {one.method} {one.bound}/{one.saved} {one.kind} {one.where}: {word}",
            flush=True,
        )
        yield one


def heading(seed: int) -> str:
    """Versions and hardware."""
    names = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{names}, {platform.system()}, {cpu_name()}, 1 thread a process, seed {seed}"


def main(arguments: list[str]) -> None:
    options = dict(item.split("=", 1) for item in arguments if "=" in item)
    named = [item for item in arguments if "=" not in item]
    seed, began = int(options.get("seed", 0)), time.time()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        warm_up(place)
        if named == ["short"]:
            done = list(told(short(place, seed)))
            print(*summary(done), sep="\n")
            sys.exit(int(not all(one.is_clean for one in done)))
        out = Path(options.get("out", ROOT / "results" / "chaos"))
        out.mkdir(parents=True, exist_ok=True)
        for method in named or METHODS:
            kept = [one for one in read_table(out / "table.csv") if one.method != method]
            trials = []
            for one in told(trials_of(method, place, seed)):
                trials.append(one)
                write_table(out / "table.csv", [*kept, *trials])
        kept = [one for one in read_table(out / "table.csv") if one.kind != "input"]
        write_table(out / "table.csv", [*kept, *told(refusals(place))])
    minutes = f"{(time.time() - began) / 60:.0f} minutes"
    lines = [heading(seed), *summary(read_table(out / "table.csv")), minutes]
    (out / "output.txt").write_text("\n".join(lines) + "\n")
    (out / "command.txt").write_text("python -m tools.chaos\n")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
