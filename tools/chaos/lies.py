"""Files of a run that are not what the run wrote: cut, changed by bits, emptied, lost, of another kind.

What the same command knows it writes again; from a damaged checkpoint it falls back to the one before; what is lost for
good is refused by the file's name. Never does a run go on from what is wrong, and none ends with other numbers.
"""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ssl_framework.runs.folder import RunFolder
from tools.chaos.moments import Moment
from tools.chaos.runs import RUN, Kind
from tools.chaos.starts import start
from tools.chaos.stops import ended_badly
from tools.chaos.trial import Loss, Reference, Trial, concluded, emptied

Damage = Callable[[RunFolder], object]


class Lie(NamedTuple):
    """A damage, to a run that was killed on its way or to one that is done."""

    name: str
    damage: Damage
    file: str  # which is named where it is refused
    may_refuse: bool = False  # whether nothing else can be done
    done: bool = False


def cut(path: Path, share: float = 0.5) -> None:
    """Leaves the beginning of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path: Path, count: int = 20) -> None:
    """Changes bytes in the middle third of a file."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    for number in range(count):
        content[third + number * (third // count)] ^= 0xFF
    path.write_bytes(bytes(content))


def filled(path: Callable[[RunFolder], Path], content: bytes) -> Damage:
    """The file has this content instead of its own."""
    return lambda run: path(run).write_bytes(content)


def of_both(damage: Callable[[Path], None]) -> Damage:
    """The damage to both checkpoints."""

    def damaged(run: RunFolder) -> None:
        for path in run.checkpoints.glob("*.ckpt"):
            damage(path)

    return damaged


def texts(name: str, path: Callable[[RunFolder], Path], done: bool) -> Iterator[Lie]:
    """A text file that is empty, cut, of another kind, no text or lost."""
    contents = {"empty": b"", "null": b"null\n", "a list": b"[1]\n", "no text": b"\xff\xfe\x00\x01"}
    for what, content in contents.items():
        yield Lie(f"{name} {what}", filled(path, content), name, done=done)
    yield Lie(f"{name} cut", lambda run: cut(path(run)), name, done=done)
    yield Lie(f"{name} lost", lambda run: path(run).unlink(), name, done=done)


LIES = [
    Lie("last.ckpt cut", lambda run: cut(run.checkpoint_file), "last.ckpt"),
    Lie("last.ckpt cut by a byte", lambda run: cut(run.checkpoint_file, 0.999), "last.ckpt"),
    Lie("last.ckpt empty", lambda run: run.checkpoint_file.write_bytes(b""), "last.ckpt"),
    Lie("last.ckpt flipped", lambda run: flip(run.checkpoint_file), "last.ckpt"),
    Lie("last.ckpt lost", lambda run: run.checkpoint_file.unlink(), "last.ckpt"),
    Lie("both checkpoints cut", of_both(cut), "last.ckpt", may_refuse=True),
    Lie("both checkpoints flipped", of_both(flip), "last.ckpt", may_refuse=True),
    Lie("both checkpoints lost", of_both(Path.unlink), "last.ckpt"),
    *texts("config.yaml", lambda run: run.config_file, False),
    *texts("run.json", lambda run: run.about_file, False),
    Lie("metrics.csv cut in a line", lambda run: cut(run.metrics_file, 0.97), "metrics.csv", may_refuse=True),
    Lie("metrics.csv empty", lambda run: run.metrics_file.write_bytes(b""), "metrics.csv", may_refuse=True),
    Lie("metrics.csv no text", lambda run: run.metrics_file.write_bytes(b"\xff\xfe"), "metrics.csv", may_refuse=True),
    Lie("metrics.csv lost", lambda run: run.metrics_file.unlink(), "metrics.csv", may_refuse=True),
    *texts("result.json", lambda run: run.result_file, True),
    Lie(
        "result.json without metrics",
        lambda run: run.result_file.write_text(json.dumps({**run.read_result(), "metrics": None})),
        "result.json",
        done=True,
    ),
]


def lie(place: Path, kind: Kind, whole: Reference, told: Lie) -> Trial:
    """A run with a damaged file, and the same command."""
    folder, loss = emptied(place / "run"), Loss(kind)
    first = start(folder, kind.arguments, None if told.done else Moment("step", 11, (signal.SIGKILL,)))
    run = RunFolder(folder / RUN)
    told.damage(run)
    second = start(folder, kind.arguments)
    if told.may_refuse and second.code == 1:
        named = told.file in second.last_line and second.last_line.startswith("error: ")
        badly = "" if named else f"refused without the name of the file: {second.last_line}"
        found = Trial(*kind[:3], "fault", told.name, 1, 2, "", 0, 0, 0, 0, 0, 0, 0, badly, second.last_line)
        return found
    badly = ended_badly(second, [0])
    said = next((line for line in second.out.splitlines() + second.err.splitlines() if told.file in line), "")
    trial = concluded(folder, kind, whole, "fault", [first, second], loss, badly, forgiven=1)
    if said and trial.differs == told.file == "metrics.csv":  # what is lost of it is lost, and was said
        trial = trial._replace(differs="")
    return trial._replace(where=told.name, struck=1, said=trial.said or said.strip())
