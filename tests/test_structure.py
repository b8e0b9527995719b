"""Which room may import from which: a room knows those before it and no other, and no two files form a circle."""

import graphlib
from pathlib import Path

import pytest

from tools.pages.structure import page
from tools.structure import ROOT, imports, modules, offences, within

HEAVY = {"torch", "torchvision", "lightning", "timm", "sklearn", "matplotlib"}


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
        assert name == "commands.entry" or not {other for other in used if other.startswith("commands.")}, name
        if name.startswith("runs."):
            heavy = {module.split(".")[0] for module in imports(path)} & HEAVY
            assert not heavy, f"ssl_framework.{name} imports {heavy}"


def test_what_is_of_the_repository_is_not_in_the_package() -> None:
    for name, path in modules().items():
        assert not {module for module in imports(path) if module.split(".")[0] in ("tools", "tests")}, name


def test_the_page_of_the_structure_is_up_to_date() -> None:
    """To mend it: python -m tools.pages.structure"""
    assert (ROOT / "docs" / "structure.md").read_text() == page(ROOT)
