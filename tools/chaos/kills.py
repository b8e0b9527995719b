"""Kills: what a run comes to that is killed again and again while nothing but the same command is given."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tools.chaos.moments import Moment
from tools.chaos.runs import BOUNDS, METHODS, SAVED, Kind
from tools.chaos.starts import Start, start, start_fresh
from tools.chaos.trial import KILLED, Loss, Reference, Trial, concluded, emptied, reference


def survive(place: Path, kind: Kind, whole: Reference, blows: Iterable[Moment | float]) -> Trial:
    """One run, struck at these moments (or after so many seconds), each in another start; then started until it ends.

    Args:
        place: in which it lies.
        kind: of run.
        whole: the same, undisturbed.
        blows: one after another; what follows one that never came is left out.
    """
    folder = emptied(place / "run")
    loss, starts = Loss(kind), list[Start]()
    for blow in blows:
        moment, seconds = (blow, None) if isinstance(blow, Moment) else (None, blow)
        starts.append(start(folder, kind.arguments, moment, seconds))
        loss.see(starts[-1])
        if starts[-1].code != KILLED:
            break
    return concluded(folder, kind, whole, "kill", starts, loss)


def survive_fresh(place: Path, kind: Kind, whole: Reference, blows: Sequence[float]) -> Trial:
    """The same in new interpreters, killed after so many seconds; what is lost is not seen from outside."""
    folder = emptied(place / "run")
    starts = [start_fresh(folder, kind.arguments, seconds) for seconds in blows]
    return concluded(folder, kind, whole, "kill", starts, Loss(kind), fresh=True)


# Which moments.

LADDER = (
    *(Moment("file", 2), Moment("torn", 1), Moment("file", 9), Moment("file", 14), Moment("step", 2), Moment("row", 3)),
    *(Moment("torn", 3), Moment("step", 6), Moment("file", 30), Moment("update", 3), Moment("score", 1)),
    *(Moment("file", 20), Moment("result", 1)),
)
"""Blows to one run after another, from its first file to its result."""


def drawn(rng: random.Random, whole: Reference) -> Moment | float:
    """Any moment of a run: mostly a file operation or an instant."""
    place = rng.choice(["file", "file", "torn", "row", "step", "update", "score", "time", "time", "time"])
    if place == "time":
        return rng.uniform(0, whole.start.seconds)
    return Moment(place, rng.randint(1, max(1, count_of(whole, place))))


def count_of(whole: Reference, place: str) -> int:
    """How many moments of a place a run passes."""
    if place == "torn":
        return sum(name.startswith(("os.rename .", "os.link .")) for name in whole.named("file"))
    return (
        sum(name.endswith("metrics.csv a") for name in whole.named("file")) // 2
        if place == "row"
        else len(whole.named(place))
    )


def every_file(rng: random.Random, whole: Reference) -> list[Moment]:
    """Each kind of file operation that a run makes, twice: the first time and any other."""
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(whole.named("file"), start=1):
        numbers.setdefault(name, []).append(number)
    found = []
    for where in numbers.values():
        found += [where[0]] + ([rng.choice(where[1:])] if len(where) > 1 else [])
    return [Moment("file", number) for number in sorted(found)]


def first_blows(rng: random.Random, wholes: Sequence[tuple[Kind, Reference]]) -> Iterator[tuple[Kind, Moment | float]]:
    """The first blow of each trial of a method: every file operation, each in one kind of run or another; then what is
    no file operation, the first epoch (rows, but no checkpoint yet), and any instant."""
    met: set[str] = set()
    for kind, whole in wholes:
        for moment in every_file(rng, whole):
            name = whole.named("file")[moment.number - 1]
            if name not in met:
                yield kind, moment
            met.add(name)
    others = [("torn", 4), ("row", 2), ("step", 2), ("update", 2), ("score", 3), ("result", 1)]
    for place, times in others:
        for _ in range(times):
            kind, whole = rng.choice(wholes)
            yield kind, Moment(place, rng.randint(1, max(1, count_of(whole, place))))
    yield from ((rng.choice(wholes)[0], Moment("step", number)) for number in (1, 2, 3))
    for kind, whole in wholes:
        yield kind, rng.uniform(0, whole.start.seconds)


def kinds_of(method: str) -> list[Kind]:
    """All kinds of run of a method, without a page; the first method has one with a page, too."""
    bare = [Kind(method, bound, saved, ("report=none",)) for bound in BOUNDS for saved in SAVED]
    return [*bare, Kind(method, "epochs", "epochs")] if method == next(iter(METHODS)) else bare


def campaign_of(
    method: str,
    place: Path,
    seed: int,
    fresh: int = 2,
    most: int | None = None,
    kinds: Sequence[Kind] = (),
) -> Iterator[Trial]:
    """The trials of a method: at least 100 kills, one after another in most of the runs.

    Args:
        method: of runs.METHODS.
        place: a folder to work in.
        seed: of everything that is drawn.
        fresh: trials in new interpreters.
        most: trials at all; ``None``: as many as there are.
        kinds: of runs; none: all.
    """
    rng = random.Random(f"{seed} {method}")
    of = {kind: reference(place, kind) for kind in (kinds or kinds_of(method))}
    wholes = list(of.items())
    blows = list(first_blows(rng, wholes))
    for kind, first in blows if most is None else rng.sample(blows, most):
        chain = [drawn(rng, of[kind]) for _ in range(rng.choice([1, 2, 2, 3]))]
        yield survive(place, kind, of[kind], [first, *chain])
    for _ in range(fresh):
        kind, whole = rng.choice(wholes)
        yield survive_fresh(place, kind, whole, [rng.uniform(5, 14), rng.uniform(5, 14)])
