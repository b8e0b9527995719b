"""Families of timm through a whole run: a few here, all of them in the record."""

from pathlib import Path

import pytest

from tools.families import RECORD, Row, read, trial
from tools.pages.families import families_page

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("model", "size", "told"),
    [
        ("test_vit_relpos", 32, "img_size=32"),
        ("test_convnext", 32, ""),
        ("test_coatnet", 32, "img_size=32"),
        ("test_efficientnet", 32, ""),
        ("starnet_s050", 32, ""),
    ],
)
def test_a_model_trains_is_scored_exported_and_read_back(model: str, size: int, told: str, tmp_path: Path) -> None:
    row = trial(model, size, tmp_path / "run")
    assert (row.model, row.image_size, row.told, row.outcome) == (model, size, told, "whole")
    assert row.dim > 0 and "x" in row.map


def test_the_page_is_that_of_the_record_which_holds_what_people_ask_for() -> None:
    """To mend it: python -m tools.pages.readme"""
    assert (ROOT / "docs" / "families.md").read_text() == families_page(ROOT)
    rows: list[Row] = read(ROOT / RECORD / "table.csv")
    families = {row.family for row in rows if row.outcome == "whole"}
    assert families >= {"efficientnet", "mobilenetv3", "regnet", "deit", "vision_transformer", "eva", "convnext"}
