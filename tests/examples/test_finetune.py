"""The example that fine-tunes exported weights in plain timm and torch, as it is, in this process."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_framework.exporting import export
from tests.small_runs import run_in, small

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "finetune.py"


def test_an_export_learns_two_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_in(tmp_path / "run", small("simclr", "trainer.max_steps=1"))
    export(tmp_path / "run", tmp_path / "encoder.safetensors")
    for number in range(8):
        for name, colour in (("red", (200 + number, 0, 0)), ("blue", (0, 0, 200 + number))):
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), colour).save(tmp_path / "images" / name / f"{number}.png")
    arguments = [str(tmp_path / "encoder.safetensors"), str(tmp_path / "images"), "--epochs", "4", "--batch", "8"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *arguments])
    torch.manual_seed(0)
    capsys.readouterr()
    runpy.run_path(str(SCRIPT), run_name="__main__")
    losses = [float(loss) for loss in re.findall(r"epoch \d/4  loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 4 and losses[-1] < 0.5 * losses[0]
