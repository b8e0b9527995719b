"""The rooms of the package, read from its imports: which may know which, which do, and how large they are."""

import ast
import functools
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

ROOMS = (  # from the ground up; rooms of one line do not know each other
    ("arguments", "types", "functional", "distributed", "device", "optim", "memory"),
    ("runs",),
    ("views", "models", "gradient_cache"),
    ("data",),
    ("mixers", "feature_mixers", "masks"),
    ("objectives",),
    ("wiring",),
    ("module",),
    ("build",),
    ("loading",),
    ("exporting",),
    ("evaluation",),
    ("report",),
    ("training",),
    ("study", "api"),
    ("commands",),
)
RANKS = {room: rank for rank, line in enumerate(ROOMS) for room in line}
GROUND = set(ROOMS[0])
"""Files of the ground may import each other; the rooms above it are folders or files that may import within."""


class Room(NamedTuple):
    """A room as it stands."""

    name: str
    files: int
    lines: int
    knows: tuple[str, ...]  # rooms that it imports from


def modules(root: Path = ROOT) -> dict[str, Path]:
    """``data.images.shapes`` and so on, with their files."""
    package = root / "ssl_framework"
    found = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.endswith("__init__") and "configs" not in name}


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports, also inside functions."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def within(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this package that a file imports."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "ssl_framework":
            continue
        for length in range(len(parts), 1, -1):
            if (module := ".".join(parts[1:length])) in known:
                found.add(module)
                break
    return found


def offences(known: dict[str, Path]) -> list[str]:
    """A sentence for every import that goes up or sideways."""
    found = []
    for name, path in sorted(known.items()):
        room = name.split(".")[0]
        if room not in RANKS:
            found.append(f"ssl_framework.{name} is in no room of the table: give {room} a line")
            continue
        for other in sorted(within(path, known)):
            there = other.split(".")[0]
            if there == room or {room, there} <= GROUND:
                continue
            if RANKS.get(there, len(ROOMS)) >= RANKS[room]:
                found.append(
                    f"ssl_framework.{name} imports ssl_framework.{other}, but {room} may only know what comes "
                    f"before it, and {there} does not"
                )
    return found


def rooms(root: Path = ROOT) -> list[Room]:
    """Every room with its size, in the order of the table."""
    known = modules(root)
    found = []
    for name in RANKS:
        own = {module: path for module, path in known.items() if module.split(".")[0] == name}
        others = {other.split(".")[0] for path in own.values() for other in within(path, known)} - {name}
        lines = sum(len(path.read_text().splitlines()) for path in own.values())
        found.append(Room(name, len(own), lines, tuple(sorted(others, key=lambda other: RANKS.get(other, 0)))))
    return found
