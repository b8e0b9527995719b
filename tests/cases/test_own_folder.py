"""Data, a network and a loss of one's own in a folder beside the command, of which nobody has made a package."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssl_framework.build import located
from ssl_framework.commands import embed, evaluate, export, report
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.plugins import FOLDERS, TRUST
from tests.examples.test_plugin import without
from tests.small_runs import command_in

MINE = """
import torch
from torch import nn

from ssl_framework.data.base import Split
from ssl_framework.objectives.base import Objective


class Plates:
    def __init__(self, channels: int, image_size: int) -> None:
        self.shape = (16, channels, image_size, image_size)

    def load(self, split: str) -> Split:
        generator = torch.Generator().manual_seed(int(split == "test"))
        label = torch.arange(16) % 2
        rows = torch.randint(0, 128, self.shape, generator=generator) + 100 * label[:, None, None, None]
        return Split(rows.byte(), label, ("empty", "full"))


class Net(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.name, self.weights, self.dim = "plate_net", None, width
        self.net = nn.Sequential(nn.Conv2d(channels, width, 3, 2), nn.ReLU())

    def forward(self, x):
        features = self.net(x)
        return {"map": features, "pooled": features.mean(dim=(2, 3))}

    def about(self):
        return {"network": "mine.Net"}

    def load_line(self, path):
        return f"mine.Net(...).net.load_state_dict(load_file({str(path)!r}))"


class Nearer(Objective):
    def __init__(self, power: float, head: str = "projector") -> None:
        super().__init__()
        self.power, self.reads = power, (head,)

    def forward(self, student, teacher, batch, clock):
        first, second = (each[self.reads[0]] for each in student)
        return {"loss": (first - second).abs().pow(self.power).mean()}
"""

PLATES = """
name: plates
root: null
download: false
image_size: 12
channels: 13
num_classes: 2
mean: [0.5]
std: [0.25]
blur: false
min_crop: 0.5
hue: null
batch_size: 8
micro_batch_size: null
resident_share: 0.5
source: {_target_: mine.Plates, channels: "${data.channels}", image_size: "${data.image_size}"}
"""

NET = """
_target_: mine.Net
channels: ${data.channels}
width: 6
"""

NEARER = """
# @package objective
_target_: mine.Nearer
power: 2.0
"""

TOLD = ("--config-dir", "configs", "trust=[mine]")


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Any:
    """Calls a command, None for training, in the folder, as ``PYTHONPATH=. python ...`` does; nothing is remembered."""
    for name, text in {"data/plates": PLATES, "backbone/plate_net": NET, "objective/nearer": NEARER}.items():
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    train = command_in(tmp_path, monkeypatch, capfd)

    def call(command: Any, *words: str) -> SimpleNamespace:
        for variable in (FOLDERS, TRUST):
            monkeypatch.setenv(variable, "")
        if command is None:
            return train(*words)
        code: Any = 0
        try:
            command.main(list(words))
        except SystemExit as ended:
            code = ended.code
        return SimpleNamespace(code=code, **capfd.readouterr()._asdict())

    yield call
    without("mine")


def test_data_a_network_and_a_loss_beside_the_command_go_through_every_command(
    typed: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    scored = ("evaluation=frozen", "evaluation.probes.knn.k=3", "evaluation.probes.linear=null")
    words = (
        "data=plates",
        "backbone=plate_net",
        "objective=nearer",
        "views=multiband",
        "trainer=cpu",
        "report=none",
        *scored,
    )
    swept = typed(None, "-m", *TOLD, *words, "data.channels=4,13", "trainer.max_epochs=1", "hydra.sweep.dir=sweep")
    assert swept.code == 0, swept.err
    thirteen, four = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir() and path.name[0] != ".")
    shapes = [
        load_checkpoint(RunFolder(path).checkpoint_file)["state_dict"]["student.backbone.net.0.weight"].shape
        for path in (four, thirteen)
    ]
    assert [list(shape) for shape in shapes] == [[6, 4, 3, 3], [6, 13, 3, 3]]
    run = str(thirteen.relative_to(tmp_path))
    assert typed(None, *TOLD, f"resume={run}", "trainer.max_epochs=2", "report=page").code == 0
    assert RunFolder(thirteen).read_result()["steps"] == 4 and (thirteen / "report.html").is_file()
    assert typed(evaluate, *TOLD, f"run={run}", "evaluation=knn_loo").code == 0
    assert (thirteen / "evaluation.json").is_file()
    exported = typed(export, *TOLD, f"run={run}", "out=net.safetensors")
    assert exported.code == 0 and "mine.Net(...)" in exported.out
    assert typed(embed, *TOLD, f"run={run}", "data=plates", "out=v.npz").code == 0
    with np.load(tmp_path / "v.npz") as file:
        assert file["vector"].shape == (32, 6) and set(file["label"]) == {"empty", "full"}
    assert typed(report, *TOLD, "sweep").code == 0
    refused = typed(evaluate, f"run={run}")
    assert "write trust=[mine] into the command" in str(refused.code)
    assert json.loads((thirteen / "run.json").read_text())["command"].startswith(
        'python train.py --config-dir configs "trust=[mine]" data=plates backbone=plate_net objective=nearer'
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("plates_of.Net", "Python finds no module plates_of: correct the name, or put the folder .* on PYTHONPATH"),
        (
            "broken_plates.Net",
            r"broken_plates cannot be imported \(NameError: name 'nn' is not defined\): mend it first",
        ),
        (
            "lonely_plates.Net",
            "no_such_package is not installed, and backbone._target_=lonely_plates.Net needs it: pip",
        ),
        ("lonely.Net", "Python finds no module lonely: "),
        ("mine.Nett", r"there is no class of that name \(did you mean Net\?\)"),
        ("Net", "there is no class of that name$"),
    ],
)
def test_a_class_that_cannot_be_had_is_told_apart_from_one_that_is_not_there(
    target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("Net = dict\n")
    (tmp_path / "broken_plates.py").write_text("class Net(nn.Module): ...\n")
    (tmp_path / "lonely_plates.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=f"^backbone._target_ is '{target}'.*{said}|^{said}") as refused:
        located(target, "backbone")
    assert "\n" not in str(refused.value)
    without(target.partition(".")[0])
