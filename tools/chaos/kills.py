"""Kills: what a run comes to that is killed again and again while nothing but the same command is given."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tools.chaos.moments import Moment
from tools.chaos.runs import BOUNDS, METHODS, RUN, SAVED, Kind
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


SEEN = ("run.json", "config.yaml", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/before.ckpt")
"""Files of a run in the order in which they come, at which a new interpreter is killed."""


def survive_fresh(place: Path, kind: Kind, whole: Reference, seen: str) -> Trial:
    """The same in new interpreters, the first killed as soon as a file is seen from outside; what is lost is not."""
    folder = emptied(place / "run")
    starts = [start_fresh(folder, kind.arguments, folder / RUN / seen)]
    return concluded(folder, kind, whole, "kill", starts, Loss(kind), fresh=True)


# Which moments.

KILLS = 100
"""Of a method, at least."""

PLANNED = 200
"""Trials of a method, at most."""

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


def every_file(rng: random.Random, wholes: Sequence[tuple[Kind, Reference]]) -> Iterator[tuple[Kind, Moment]]:
    """Each kind of file operation that some run makes, at one of its times in one of the kinds of run."""
    found: dict[str, list[tuple[Kind, Moment]]] = {}
    for kind, whole in wholes:
        for number, name in enumerate(whole.named("file"), start=1):
            found.setdefault(name, []).append((kind, Moment("file", number)))
    pictures = [name for name in found if name.endswith((".png", ".png w+"))]
    for name, where in found.items():
        if name not in pictures[4:]:  # one is written as the other
            yield rng.choice(where)


OTHERS = {"torn": 3, "row": 2, "step": 2, "update": 1, "score": 3, "result": 1}
"""How many trials of a method begin at what is no file operation."""


def first_blows(rng: random.Random, wholes: Sequence[tuple[Kind, Reference]]) -> Iterator[tuple[Kind, Moment | float]]:
    """The first blow of each trial of a method: every file operation; then what is none, the first epoch (rows, but no
    checkpoint yet), and any instant, of which there is no end."""
    yield from every_file(rng, wholes)
    for place, times in OTHERS.items():
        for kind, whole in (rng.choice(wholes) for _ in range(times)):
            yield kind, Moment(place, rng.randint(1, max(1, count_of(whole, place))))
    yield from ((rng.choice(wholes)[0], Moment("step", number)) for number in (2, 3))
    yield from ((kind, rng.uniform(0, whole.start.seconds)) for kind, whole in itertools.cycle(wholes))


def kinds_of(method: str) -> list[Kind]:
    """All kinds of run of a method, without a page; the first method has one with a page, too."""
    bare = [Kind(method, bound, saved, ("report=none",)) for bound in BOUNDS for saved in SAVED]
    return [*bare, Kind(method, "epochs", "epochs")] if method == next(iter(METHODS)) else bare


def campaign_of(
    method: str, place: Path, seed: int, kinds: Sequence[Kind], first: int | None = None
) -> Iterator[Trial]:
    """The trials of a method: at least ``KILLS``, several one after another in each run.

    Args:
        method: of runs.METHODS.
        place: a folder to work in.
        seed: of everything that is drawn.
        kinds: of runs.
        first: so many trials, all drawn; ``None``: as many as it takes, and one in new interpreters.
    """
    rng = random.Random(f"{seed} {method}")
    of = {kind: reference(place, kind) for kind in kinds}
    blows = list(itertools.islice(first_blows(rng, list(of.items())), PLANNED))
    if first is not None:
        blows = rng.sample(blows, first)
    struck = 0
    for kind, blow in blows:
        done = survive(place, kind, of[kind], [blow, *(drawn(rng, of[kind]) for _ in range(rng.choice([1, 2, 2, 3])))])
        yield done
        struck += done.struck
        if struck >= KILLS and isinstance(blow, float):
            break
    if first is None:
        kind = rng.choice(list(of))
        yield survive_fresh(place, kind, of[kind], SEEN[list(METHODS).index(method) % len(SEEN)])
