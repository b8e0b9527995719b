"""Loggers whose runs have a name elsewhere: kept over a resume, one a job, ended with it, and nothing sent or left."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ssl_framework.build import build
from ssl_framework.runs.config import common_folder
from ssl_framework.runs.folder import RunFolder, read_metrics
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.paths import confined
from ssl_framework.training.resumed import composed as composed_again
from tests import forked
from tests.forked import Command
from tests.small_runs import SMALL, composed, run_in, small

ROOT = Path(__file__).parents[2]


def logged_by(name: str, folder: Path, *overrides: str) -> Any:
    """The config of a run of one epoch with a logger."""
    node = name.partition("_")[0]
    return small("simclr", f"logger={name}", f"logger.{node}.save_dir={folder}", "trainer.max_epochs=1", *overrides)


def with_own_temporary_folder(arguments: Sequence[str]) -> None:
    """Becomes ``python train.py``; its temporary files lie in its working directory."""
    tempfile.tempdir = str(Path.cwd() / "tmp")
    forked.train(arguments)


def test_each_job_has_its_own_run_at_wandb_and_nothing_stays_in_the_temporary_folder(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    arguments = [*SMALL, "trainer.max_steps=1", "logger=wandb_offline", "seed=0,1", "hydra.sweep.dir=sweep"]
    done = Command(tmp_path, "-m", "method=simclr", *arguments, become=with_own_temporary_folder).end()
    assert done.returncode == 0, done.stderr
    ids = []
    for job in sorted((tmp_path / "sweep").glob("*seed-*")):
        (folder,) = job.glob("wandb/offline-run-*")
        ids.append(folder.name.rpartition("-")[2])
        assert RunFolder(job).read_names_elsewhere() == {"wandb": ids[-1]}
    assert len(set(ids)) == 2
    assert not list((tmp_path / "tmp").glob("*wandb*"))


def test_a_resumed_run_goes_on_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    begun: list[dict[str, Any]] = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **named: begun.append(named) or init(**named))
    run_in(tmp_path, logged_by("wandb_offline", tmp_path, "logger.wandb.tags=[a,b]", "logger.wandb.group=g"))
    run_in(tmp_path, logged_by("wandb_offline", tmp_path, "trainer.max_epochs=2"), resume=True)
    first, second = begun
    assert (first["id"], first["tags"], first["group"], first["mode"]) == (None, ["a", "b"], "g", "offline")
    known = RunFolder(tmp_path).read_names_elsewhere()["wandb"]
    assert second["id"] == known and second["resume"] == "allow" and second["tags"] is None
    # wandb adds a number to the folder's name, not to the file's, where two runs begin within one second
    assert {path.stem.removeprefix("run-") for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")} == {known}
    assert wandb.run is None


class Fake(ModuleType):
    """What is used of trackio."""

    def __init__(self, folder: Path) -> None:
        super().__init__("trackio")
        self.begun: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.ended = 0
        self.utils = ModuleType("trackio.utils")
        self.utils.TRACKIO_DIR = folder  # type: ignore[attr-defined]

    def init(self, **named: Any) -> SimpleNamespace:
        self.begun.append(named)
        return SimpleNamespace(name=named["name"] or "made-up", log=lambda row, step: self.rows.append((step, row)))

    def finish(self) -> None:
        self.ended += 1

    def Image(self, path: str, caption: str) -> str:
        return caption


def test_a_resumed_run_goes_on_at_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tmp_path / "trackio")
    for name in ("trackio", "trackio.utils"):
        monkeypatch.setitem(sys.modules, name, fake if name == "trackio" else fake.utils)
    monkeypatch.setenv("TRACKIO_DIR", "as of the test")  # so that what the logger sets does not stay
    run_in(tmp_path, logged_by("trackio", tmp_path))
    run_in(tmp_path, logged_by("trackio", tmp_path, "trainer.max_epochs=2"), resume=True)
    assert [(each["name"], each["resume"], each["space_id"]) for each in fake.begun] == [
        (None, "never", None), ("made-up", "allow", None)
    ]  # fmt: skip
    assert fake.begun[0]["config"]["optimizer"]["lr_per_256"] == 0.12 and fake.ended == 2
    losses = [(step, row["train/loss"]) for step, row in fake.rows if "train/loss" in row]
    assert losses == read_metrics(tmp_path / "metrics.csv")["train/loss"] and len(losses) == 12
    with pytest.raises(ValueError, match=r"TrackioRun cannot start: trackio writes into .*trackio \(TRACKIO_DIR\)"):
        run_in(tmp_path / "other", logged_by("trackio", tmp_path / "other"))


def test_a_package_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match=r"TrackioRun cannot start: trackio is not installed: pip install trackio"):
        run_in(tmp_path, logged_by("trackio", tmp_path))


def test_trackio_itself(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    from tests.training.trackio_itself import become

    done = Command(tmp_path, str(tmp_path), become=become).end()
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["runs"]) == 1 and [row["step"] for row in found["losses"]] == list(range(12))
    assert [row["train/loss"] for row in found["losses"]] == [
        value for _, value in read_metrics(tmp_path / "metrics.csv")["train/loss"]
    ]


def test_mlflow_itself(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    cfg = logged_by("mlflow", tmp_path, "logger.mlflow.tags={a: b}", "logger.mlflow.name=first")
    run_in(tmp_path, cfg)
    known = RunFolder(tmp_path).read_names_elsewhere()["mlflow"]
    run_in(tmp_path, logged_by("mlflow", tmp_path, "trainer.max_epochs=2"), resume=True)
    assert RunFolder(tmp_path).read_names_elsewhere() == {"mlflow": known}
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(known)
    assert run.info.status == "FINISHED" and run.data.tags["a"] == "b" and run.info.run_name == "first"
    assert run.data.params["optimizer/lr_per_256"] == "0.12"
    losses = [(row.step, row.value) for row in client.get_metric_history(known, "train/loss")]
    assert sorted(losses) == read_metrics(tmp_path / "metrics.csv")["train/loss"]
    logger = build(cfg.logger.mlflow)
    assert logger.begin({}) != known  # another run
    logger.log_metrics({"knn[k=20,T=0.1]/top1": 50.0}, step=3)
    logger.end(whole=False)
    other = client.get_run(logger.run_id)
    assert other.data.metrics == {"knn_k_20_T_0.1_/top1": 50.0} and other.info.status == "FAILED"
    gone = build(OmegaConf.create({**cfg.logger.mlflow, "id": "0" * 32}))  # of a server that is another one now
    assert len(gone.begin({})) == 32 and gone.run_id != "0" * 32


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("TrackioRun", {"save_dir": "/etc", "space_id": "a/b"}, {"save_dir": "/run", "space_id": None}),
        ("MLflowRun", {"save_dir": "/etc", "tracking_uri": "http://x"}, {"save_dir": "/run", "tracking_uri": None}),
        ("WandbRun", {"save_dir": "/etc", "offline": True}, {"save_dir": "/run", "offline": True}),
    ],
)
def test_a_stored_config_writes_into_its_folder_and_sends_nothing(
    name: str, given: dict[str, Any], kept: dict[str, Any]
) -> None:
    target = {"_target_": f"ssl_framework.training.loggers.{name}"}
    assert confined({"x": {**target, **given}}, "config.yaml", Path("/run")) == {"x": {**target, **kept}}


def test_jobs_of_a_multirun_share_a_folder() -> None:
    assert common_folder("a/b", "RunMode.RUN") == "a/b" and common_folder("a/b", "RunMode.MULTIRUN") == "a"


def test_a_key_that_was_added_to_a_run_may_be_listed_now(tmp_path: Path) -> None:
    place = f"++logger.wandb.save_dir={tmp_path}"
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        found = composed_again(["logger=wandb_offline", "+logger.wandb.group=g", "+logger.wandb.tags=[a]", place])
    assert found["logger"]["wandb"]["group"] == "g" and found["logger"]["wandb"]["tags"] == ["a"]


def test_the_sweep_that_the_docs_show_is_one_that_the_command_takes() -> None:
    text = (ROOT / "docs" / "logging.md").read_text()
    sweep = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    fixed = [item for item in sweep["command"] if not item.startswith("${") and item not in ("python", "train.py")]
    chosen = [f"{key}={values['values'][0]}" for key, values in sweep["parameters"].items()]
    assert sweep["command"][-1] == "${args_no_hyphens}" and OverridesParser.create().parse_overrides(fixed + chosen)
    cfg = composed(*fixed, *chosen)
    assert cfg.logger.wandb.offline is False and sweep["metric"]["name"] == "eval/knn[k=loo,T=0.1]/train_top1"
    assert "knn_loo" in cfg.evaluation.measures and not cfg.evaluation.probes  # nothing is chosen by test labels
