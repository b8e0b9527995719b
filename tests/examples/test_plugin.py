"""The template package, installed as a user installs it, through every command, in this process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ssl_framework
from ssl_framework.commands import evaluate, export, show, study, train
from ssl_framework.runs.plugins import FOLDERS, TRUST
from ssl_framework.runs.trust import SAID

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "examples" / "plugin"
SMALL = (
    *("method=align_uniform", "data=stripes", "data.source.num_train=48", "data.source.num_test=32"),
    *("data.batch_size=16", "evaluation=nearest_mean", "report=none", "trainer=cpu", "trainer.max_epochs=2"),
)

FOREIGN = f"which is not {SAID}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds the template: what pip makes of it, without a network."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(TEMPLATE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), "./source"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "site"


def without(module: str) -> None:
    """Has the next import of a package look for it again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        del sys.modules[name]


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Iterator[Callable]:
    """Calls a command in a folder of its own: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for variable in (FOLDERS, TRUST):
        monkeypatch.setenv(variable, "")

    def call(command: Any, *arguments: str) -> SimpleNamespace:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(train, "failures", [])
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        code: Any = 0
        try:
            command.main() if command is train else command.main(list(arguments))
        except SystemExit as ended:
            code = ended.code
        return SimpleNamespace(code=code, **capfd.readouterr()._asdict())

    yield call
    without("mylab")


@pytest.fixture(scope="module")
def trained(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the template's method on its data, two epochs of three steps; not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        ssl_framework.compose(*SMALL).fit(folder)
    without("mylab")
    return folder


def test_help_and_errors_list_what_an_installed_package_brings(site: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    found = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "--help"], env=env, capture_output=True, text=True
    )
    assert found.returncode == 0
    listed = {
        line.partition(": ")[0]: line.partition(": ")[2].split(", ") for line in reversed(found.stdout.splitlines())
    }
    assert "align_uniform" in listed["method"] and "stripes" in listed["data"] and "rows" in listed["mixer"]
    assert "column_net" in listed["backbone"] and "rolled" in listed["views"]
    assert "nearest_mean" in listed["evaluation"] and listed["study/mylab"] == ["weight"]
    imported = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines() if "|" in line}
    assert "hydra" in imported and not {"torch", "mylab"} & imported


def test_an_installed_package_trains_resumes_evaluates_exports_and_is_shown(
    site: Path, called: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(site))
    ran = called(train, *SMALL, "hydra.run.dir=run", "mixer=none", "backbone=column_net", "views=rolled")
    assert ran.code == 0, ran.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["method"], result["data"], result["steps"]) == ("align_uniform", "stripes", 6)
    assert set(result["metrics"]) == {"nearest_mean/top1"}
    assert called(train, "resume=run", "trainer.max_epochs=3").code == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 9
    assert called(evaluate, "run=run", "evaluation=nearest_mean,knn_loo", "data=stripes").code == 0
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    found = {result["protocol"]["name"].partition("/")[0]: result["metrics"] for result in record["results"]}
    assert found["nearest_mean"] == json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    exported = called(export, "run=run", "out=net.safetensors")
    assert exported.code == 0 and "from mylab.backbones import ColumnNet" in exported.out
    weights = ssl_framework.load("run").encoder.backbone.net.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in load_file("net.safetensors").items())
    assert called(show, "mixer=rows", "data=stripes", "data.source.num_train=48", "--out", "seen").code == 0


def test_a_mixer_of_a_package_goes_into_a_method_of_this_one(
    site: Path, called: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(site))
    assert called(train, *SMALL, "method=simclr", "mixer=rows", "trainer.max_epochs=1", "hydra.run.dir=run").code == 0
    crossed = ("method=simclr", "objective=align_uniform", "head=linear_norm", "trainer.max_epochs=1")
    assert called(train, *SMALL, *crossed, "hydra.run.dir=crossed").code == 0
    refused = called(train, *SMALL, "mixer=rows", "hydra.run.dir=other")
    assert refused.code == 1 and "AlignUniform" in refused.err
    unknown = called(train, "method=align_unifrom")
    assert "there is no method=align_unifrom (did you mean align_uniform?); method can be: " in unknown.code


def test_an_installed_package_sweeps_and_fills_a_table(
    site: Path, called: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(site))
    small = [item for item in SMALL if not item.startswith("trainer.max_epochs")]
    swept = called(train, "-m", *small, "trainer.max_epochs=1", "objective.weight=0.5,1", "hydra.sweep.dir=sweep")
    assert swept.code == 0, swept.err
    weights = {json.loads(path.read_text())["overrides"][-1] for path in (tmp_path / "sweep").glob("*/result.json")}
    assert weights == {"objective.weight=0.5", "objective.weight=1"}
    dry = called(study, "study=mylab/weight", "scale=small", "--dry-run")
    assert dry.code == 0 and "weight 0.1 | stripes | seed 0: missing" in dry.out, dry.err


def test_without_the_package_its_run_is_refused_and_the_sentence_says_how_to_trust_it(
    trained: Path, called: Callable, tmp_path: Path
) -> None:
    for command, arguments in (
        (evaluate, (f"run={trained}",)),
        (export, (f"run={trained}", "out=net.safetensors")),
        (train, (f"resume={trained}", "trainer.max_epochs=3")),
    ):
        ended = called(command, *arguments)
        said = ended.err + str(ended.code)
        assert FOREIGN in said and "write trust=[mylab] into the command" in said and ended.code not in (0, None)
    assert "mylab" not in sys.modules and not (tmp_path / "net.safetensors").exists()
    assert json.loads((trained / "result.json").read_text())["steps"] == 6


def test_a_folder_and_trust_on_the_command_line_do_what_an_entry_point_does(
    called: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TEMPLATE / "mylab", tmp_path / "mylab", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(tmp_path))
    told = ("--config-dir", "mylab/configs", "trust=[mylab]")
    assert "there is no method=align_uniform; method can be: " in called(train, *SMALL).code
    assert called(train, *told, *SMALL, "hydra.run.dir=run").code == 0
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["command"].startswith(
        'python train.py --config-dir mylab/configs "trust=[mylab]" method=align_uniform'
    )
    said = (tmp_path / "run" / "config.yaml").read_text().splitlines()
    assert not any("trust" in line for line in said if not line.startswith("#"))  # its first line repeats the command
    for variable in (FOLDERS, TRUST):
        monkeypatch.setenv(variable, "")
    assert FOREIGN in called(evaluate, "run=run").code
    assert called(evaluate, *told, "run=run", "evaluation=nearest_mean").code == 0
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert record["command"].startswith("python scripts/evaluate.py --config-dir mylab/configs 'trust=[mylab]' run=run")


def test_the_templates_views_are_pushed_to_the_side_and_its_backbone_reads_columns() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TEMPLATE))
        from mylab.backbones import ColumnNet  # type: ignore[import-not-found]
        from mylab.views import rolled  # type: ignore[import-not-found]

        view = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
        by = torch.randint(5, (2, 1), generator=torch.Generator().manual_seed(0)).flatten().tolist()
        found = rolled(view, torch.Generator().manual_seed(0))
        for row, pushed, picture in zip(by, found, view, strict=True):
            assert torch.equal(pushed, torch.roll(picture, -row, dims=2))
        net = ColumnNet(3, 8).eval()
        outputs = net(view)
        assert outputs["map"].shape == (2, 8, 1, 2)
        torch.testing.assert_close(outputs["pooled"], net(view.flip(2))["pooled"])  # upside down
    without("mylab")


def test_the_templates_loss_is_that_of_its_formula() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TEMPLATE))
        from mylab.objectives import AlignUniform  # type: ignore[import-not-found]

        torch.manual_seed(0)
        z0, z1 = torch.randn(5, 4).double(), torch.randn(5, 4).double()
        u, v = ([z / z.norm() for z in side] for side in (z0, z1))
        align = sum((a - b).square().sum() for a, b in zip(u, v, strict=True)) / 5
        pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
        closeness = [[(-2 * (x[i] - x[j]).square().sum()).exp() for i, j in pairs] for x in (u, v)]
        uniform = sum(torch.stack(each).mean().log() for each in closeness)
        found = AlignUniform(weight=0.5, t=2.0).loss_of(z0, z1)
        torch.testing.assert_close(found, align + 0.5 * uniform / 2)
    without("mylab")
