"""The short scripts of the gallery, as they are, in this process."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

GALLERY = Path(__file__).resolve().parents[2] / "examples" / "gallery"
SCRIPTS = sorted(path.stem for path in GALLERY.glob("*.py"))


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script in a folder of its own; its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["script.py"])
    for variable in ("SSL_FRAMEWORK_CONFIG_DIRS", "SSL_FRAMEWORK_TRUST"):
        monkeypatch.setenv(variable, "")
    return lambda name: runpy.run_path(str(GALLERY / f"{name}.py"))


def test_a_folder_of_ones_own(called: Any, capsys: pytest.CaptureFixture) -> None:
    names = called("own_folder")
    assert names["features"].shape == (48, names["run"].encoder.backbone.dim) and names["order"][0] == 0
    assert set(names["run"].metrics) == {"knn[k=5,T=0.1]/top1"}


def test_a_loop_of_ones_own_learns(called: Any) -> None:
    losses = called("own_loop")["losses"]
    assert len(losses) == 30 and losses[-1] < losses[0] - 0.3


def test_mixing_draws_what_the_network_sees(called: Any, tmp_path: Path) -> None:
    names = called("mixing")
    assert names["views"].shape == (16, 3, 32, 32) and (tmp_path / "outputs" / "gallery" / "views.png").is_file()
    assert set(names["scores"]) == {"none", "cutmix"} and names["run"].config.mixer.views == [0]


def test_a_sweep_ends_in_a_table(called: Any) -> None:
    lines = called("sweep")["table"].splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("| objective.temperature →"))
    assert lines[at] == "| objective.temperature → | 0.1 | 0.5 |"
    assert lines[at + 2].count("±") == 2 and lines[at + 2].count("(2)") == 2


def test_timm_gives_the_features_of_the_run(called: Any) -> None:
    names = called("features")
    assert names["largest"] < 1e-4 and names["test"].shape == (100, names["run"].encoder.backbone.dim)


def test_a_method_of_ones_own_trains(called: Any) -> None:
    names = called("own_method")
    assert (names["run"].result["steps"], names["run"].result["method"]) == (8, "spread")
    assert torch.isfinite(torch.tensor(names["run"].result["training_seconds"]))


def test_the_page_has_every_script() -> None:
    page = (GALLERY.parents[1] / "docs" / "gallery.md").read_text()
    assert len(SCRIPTS) == 6 and all(f"examples/gallery/{name}.py" in page for name in SCRIPTS)
