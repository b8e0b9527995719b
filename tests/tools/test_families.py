"""Families of timm through a whole run: five small models; with ``pytest tests/tools/test_families.py --families``
one of every family, which takes sixteen minutes of a core."""

from pathlib import Path

import pytest

from tests.small_runs import skip_without
from tools import families
from tools.families import RECORD, Row, read, trial
from tools.pages.families import families_page

ROOT = Path(__file__).resolve().parents[2]


SMALL = (
    ("test_vit_relpos", 32, "img_size=32"),
    ("test_convnext", 32, ""),
    ("test_coatnet", 32, "img_size=32"),
    ("test_efficientnet", 32, ""),
    ("starnet_s050", 32, ""),
)
"""Model, image size, what timm has to be told for it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "model" in metafunc.fixturenames:
        every = metafunc.config.getoption("--families")
        rows = [(row.model, row.image_size, row.told) for row in read(ROOT / RECORD / "table.csv")] if every else SMALL
        metafunc.parametrize(("model", "size", "told"), rows)


def test_a_model_trains_is_scored_exported_and_read_back(model: str, size: int, told: str, tmp_path: Path) -> None:
    skip_without(model)
    row = trial(model, size, tmp_path / "run")
    assert (row.model, row.image_size, row.told, row.outcome) == (model, size, told, "whole")
    assert row.dim > 0 and "x" in row.map


def test_the_command_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tried: list[str] = []

    def ended(model: str) -> Row:
        tried.append(model)
        if tried == ["a", "b"]:
            raise KeyboardInterrupt
        return Row("f", model, 1.5, 32, "", 8, "1 x 1", "whole", 2.0)

    monkeypatch.setattr(families, "ROOT", tmp_path)
    monkeypatch.setattr(families, "smallest", lambda: ["a", "b", "c"])
    monkeypatch.setattr(families, "ended", ended)
    monkeypatch.setattr("sys.argv", ["families"])
    with pytest.raises(KeyboardInterrupt):
        families.main()
    monkeypatch.setattr("sys.argv", ["families", "--minutes", "0"])
    families.main()
    assert tried == ["a", "b"] and not (tmp_path / RECORD).exists()
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["families"])
    families.main()
    assert tried == ["a", "b", "b", "c"] and [row.model for row in read(tmp_path / RECORD / "table.csv")] == [*"abc"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[-1].startswith("3 of 3 went whole; timm ")
    assert not list((tmp_path / families.BEGUN).iterdir())


def test_the_page_is_that_of_the_record_which_holds_what_people_ask_for() -> None:
    """To mend it: python -m tools.pages.readme"""
    assert (ROOT / "docs" / "families.md").read_text() == families_page(ROOT)
    rows: list[Row] = read(ROOT / RECORD / "table.csv")
    families = {row.family for row in rows if row.outcome == "whole"}
    assert families >= {"efficientnet", "mobilenetv3", "regnet", "deit", "vision_transformer", "eva", "convnext"}
