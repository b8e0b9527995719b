"""Which room may import from which: a room knows those before it and no other, and no two files form a circle."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROOMS = (  # from the ground up; rooms of one line do not know each other
    ("types", "functional", "distributed", "device", "optim", "memory"),
    ("runs",),
    ("views", "models", "gradient_cache"),
    ("data",),
    ("mixers", "feature_mixers"),
    ("objectives",),
    ("wiring",),
    ("module",),
    ("build",),
    ("loading",),
    ("evaluation",),
    ("report",),
    ("training",),
    ("study",),
    ("commands",),
)
RANKS = {room: rank for rank, line in enumerate(ROOMS) for room in line}
GROUND = set(ROOMS[0])
"""Files of the ground may import each other; the rooms above it are folders or files that may import within."""

HEAVY = {"torch", "torchvision", "lightning", "timm", "sklearn", "matplotlib"}


def modules() -> dict[str, Path]:
    """``data.images.shapes`` and so on, with their files."""
    package = ROOT / "ssl_framework"
    found = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.endswith("__init__") and "configs" not in name}


def imports(path: Path, inner: bool = True) -> Iterator[str]:
    """Dotted names that a file imports, also inside functions if ``inner``."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if inner else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(path: Path, known: dict[str, Path], inner: bool = True) -> set[str]:
    """The modules of this package that a file imports."""
    found = set()
    for name in imports(path, inner):
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
            found.append(f"{name} is in no room of the table: give it a line")
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


def test_a_room_imports_only_from_rooms_before_it() -> None:
    assert not offences(modules()), "\n".join(offences(modules()))


def test_an_import_that_goes_up_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "crops.py"
    wrong.write_text("def late():\n    from ssl_framework.training.run import run\n")
    assert offences({**modules(), "views.crops": wrong}) == [
        "ssl_framework.views.crops imports ssl_framework.training.run, but views may only know what comes before it, "
        "and training does not"
    ]


def test_no_files_form_a_circle() -> None:
    known = modules()
    try:
        graphlib.TopologicalSorter({name: within(path, known) for name, path in known.items()}).prepare()
    except graphlib.CycleError as error:
        pytest.fail("a circle: " + " imports ".join(reversed(error.args[1])))


def test_nobody_imports_a_command_and_a_run_folder_is_read_without_torch() -> None:
    known = modules()
    for name, path in known.items():
        used = within(path, known)
        assert not {other for other in used if other.startswith("commands.")}, name
        if name.startswith("runs."):
            heavy = {module.split(".")[0] for module in imports(path)} & HEAVY
            assert not heavy, f"ssl_framework.{name} imports {heavy}"


def test_what_is_of_the_repository_is_not_in_the_package() -> None:
    for name, path in modules().items():
        assert not {module for module in imports(path) if module.split(".")[0] in ("tools", "tests")}, name
