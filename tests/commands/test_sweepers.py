"""Searches of hyper-parameters with Optuna and runs through submitit: what a plugin of Hydra adds to the command."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ssl_framework.build import build
from ssl_framework.commands import train as main_module
from ssl_framework.commands.sweep import best_trial
from ssl_framework.commands.train import job, objective_of, refuse_test_labels
from ssl_framework.data.base import Split
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.leave_one_out import LeaveOneOut, TrainLeaveOneOut
from ssl_framework.runs.config import config_hash
from ssl_framework.runs.groups import CONFIGS, HERE
from tests import forked
from tests.forked import Command
from tests.small_runs import SMALL, SMALL_MIXER, SMALL_QUEUE, config, multirun_in
from tests.study.test_study import TABLE, declare

LOO = "knn[k=loo,T=0.1]/train_top1"
FEW = SMALL[:-1]

optuna = pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="needs [sweeps]")
submitit = pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="needs [sweeps]")


def split(seed: int, count: int = 40) -> Frozen:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 4
    return Frozen(torch.nn.functional.one_hot(y, 6).float() + torch.randn(count, 6, generator=generator), y)


def test_the_measure_of_a_search_is_the_choice_of_leave_one_out_without_a_test_split() -> None:
    train = split(0)
    probe, measure = (kind([1, 5, 10], 0.1, 7) for kind in (LeaveOneOut, TrainLeaveOneOut))
    (top1,) = measure(train).values()
    assert list(measure(train)) == [LOO] and 25 < top1 < 100
    assert top1 == pytest.approx(100 * max(probe.right([1, 5, 10], train).values()) / 40)
    with pytest.warns(UserWarning, match="the train split has no labels"):
        assert measure(Frozen(train.x, None)) == {}  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="needs classes"):
        assert measure(Frozen(train.x, train.y.float())) == {}


def test_the_evaluation_of_a_search_never_sees_the_test_split() -> None:
    class Data:
        train = Split(torch.zeros(40, 1, 4, 4, dtype=torch.uint8), torch.arange(40) % 4)

        @property
        def test(self) -> Split:
            raise AssertionError("the test split was looked at")

    evaluation = build(config("evaluation=search").evaluation)
    with pytest.warns(UserWarning, match="skipped: a sample of the train split has only 39 others"):
        assert list(evaluation.score(lambda images: {"": split(0).x}, Data())) == [LOO]


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["evaluation=search"], False),
        (["evaluation=frozen"], True),
        (["evaluation=search", "+evaluation.probes.knn={}"], True),
    ],
)
def test_a_search_by_the_test_split_is_refused(overrides: list[str], refused: bool) -> None:
    for metric in ("knn[k=20,T=0.1]/top1", "rankme", LOO):
        cfg = config(*overrides, f"+hparams_search.metric='{metric}'")
        if refused and metric != LOO:
            with pytest.raises(ValueError, match=rf"metric is {re.escape(metric)}, but .*knn.* read the test split"):
                refuse_test_labels(cfg)
        else:
            refuse_test_labels(cfg)
    refuse_test_labels(config("evaluation=frozen"))


def test_the_value_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(main_module, "failures", [])
    searching = OmegaConf.create({"hparams_search": {"metric": LOO}})
    assert objective_of(searching, tmp_path) is None  # interrupted, or left to another process
    write = (tmp_path / "result.json").write_text
    write(json.dumps({"metrics": {LOO: 43.5}}))
    assert objective_of(searching, tmp_path) == 43.5 and objective_of(OmegaConf.create({}), tmp_path) is None
    for metrics in ({"nc1": 2.0}, {"nc1": 2.0, LOO: float("nan")}):  # the latter would end Optuna's search
        main_module.failures.clear()
        write(json.dumps({"metrics": metrics}))
        assert objective_of(searching, tmp_path) is None and main_module.failures == [str(tmp_path)]
        assert f"hparams_search.metric is {LOO}, of which this trial has no number" in capsys.readouterr().err


def test_the_best_trial_and_the_command_that_trains_with_it() -> None:
    def trial(t: str, value: float | None, state: str) -> Any:
        overrides = (f"objective.temperature={t}", "hparams_search=simclr", "data=cifar10")
        metrics = {} if value is None else {LOO: value}
        folder = SimpleNamespace(read_about=lambda: {"method": "simclr"})
        return SimpleNamespace(overrides=overrides, metrics=metrics, state=state, folder=folder)

    jobs = [trial("0.1", 40.0, "done"), trial("0.2", 45.0, "done"), trial("0.3", None, "failed")]
    said = best_trial(jobs, LOO, "maximize").splitlines()
    assert said[0] == f"best of 3 trials (1 failed) by {LOO}: 45"
    assert said[1] == "with it: python train.py method=simclr objective.temperature=0.2 data=cifar10"
    assert "objective.temperature=0.1" in best_trial(jobs, LOO, "minimize")
    assert best_trial(jobs[2:], LOO, "maximize") == f"no trial of 1 has {LOO} (1 failed)"


@optuna
@pytest.mark.parametrize("search", sorted(path.stem for path in (CONFIGS / "hparams_search").glob("*.yaml")))
def test_every_search_is_of_a_method_by_the_train_split(search: str) -> None:
    cfg = config(f"hparams_search={search}")
    refuse_test_labels(cfg)
    assert cfg.hparams_search.metric == LOO and cfg.evaluation.protocol == "search/1"
    same = config(f"method={search}", "evaluation=search")
    assert config_hash(cfg) == config_hash(same)
    node = OmegaConf.load(CONFIGS / "hparams_search" / f"{search}.yaml").hydra.sweeper
    assert node.max_failure_rate == 1.0 and node.sampler.seed == 0  # it goes on, and can be repeated
    for key in node.params:
        assert OmegaConf.select(same, key) is not None


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., Any]:
    """``python train.py -m ... hydra.sweep.dir=search`` inside this process."""
    return multirun_in(tmp_path, "search", monkeypatch, capfd)


@optuna
def test_a_search_goes_on_after_a_failed_trial_and_does_no_trial_twice(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("hparams_search=mochi", "hydra.sweeper.n_trials=2", *FEW, *SMALL_QUEUE, *SMALL_MIXER[1:],
                 "feature_mixer.num_hard=choice(4,8)")  # fmt: skip
    start, started = main_module.start, []

    def second_fails(cfg: Any, *rest: Any) -> Any:
        started.append((cfg.objective.temperature, cfg.optimizer.lr_per_256, cfg.feature_mixer.num_hard))
        if len(started) == 2:
            raise ValueError("the loss is not finite")
        return start(cfg, *rest)

    monkeypatch.setattr(main_module, "start", second_fails)
    done = command(*arguments)
    assert done.code == 1 and done.err.count("error: the loss is not finite") == 1
    assert len(set(started)) == 2 and all(
        0.05 <= t <= 0.5 and 0.01 <= lr <= 0.5 and n in (4, 8) for t, lr, n in started
    )
    (result,) = (json.loads(path.read_text()) for path in (tmp_path / "search").glob("*/result.json"))
    found = OmegaConf.load(tmp_path / "search" / "optimization_results.yaml")
    assert list(result["metrics"]) == [LOO] and found.best_value == result["metrics"][LOO]
    assert found.best_params["objective.temperature"] == started[0][0]
    assert f"best of 2 trials (1 failed) by {LOO}: {found.best_value:.4g}\nwith it: python train.py method=" in done.out

    again = command(*arguments)  # what failed is tried again, with the same values
    assert again.code == 0 and again.out.count("\njob ") == 1 and started[3:] == []
    assert started[2] == started[1] and f"best of 2 trials (0 failed) by {LOO}" in again.out


@optuna
def test_a_search_of_which_every_trial_fails_says_so(command: Callable[..., Any], monkeypatch: Any) -> None:
    def fails(*args: Any) -> None:
        raise ValueError("no space left")

    monkeypatch.setattr(main_module, "start", fails)
    done = command("hparams_search=simclr", "hydra.sweeper.n_trials=2", *FEW)
    assert done.code == "error: no trial of the search has ended with a value"
    assert done.err.count("error: no space left") == 2 and "Traceback" not in done.err


def test_a_multirun_that_searches_nothing_returns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hydra_config = SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(tmp_path)),
        mode=main_module.RunMode.MULTIRUN,
        job=SimpleNamespace(num=0),
        overrides=SimpleNamespace(task=[]),
    )
    monkeypatch.setattr(main_module.HydraConfig, "get", lambda: hydra_config)
    (tmp_path / "result.json").write_text(json.dumps({"metrics": {LOO: 43.5}}))
    monkeypatch.setattr(main_module, "job_of_multirun", lambda cfg, folder: None)
    monkeypatch.setattr(main_module, "failures", [])
    assert job(OmegaConf.create({"seed": 0})) is None
    assert job(OmegaConf.create({"seed": 0, "hparams_search": {"metric": LOO}})) == 43.5


@submitit
def test_runs_through_submitit(tmp_path: Path) -> None:
    """A study, whose runs are multiruns of one job, and a plain multirun hand a job to another process and wait for it:
    the one trains, the other is refused there."""
    environment = {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}  # of the processes that submitit starts
    launcher = "hydra/launcher=submitit_local"
    study = declare(tmp_path, rows={"SimCLR": ["method=simclr"]}, columns={"16": ["data.batch_size=16"]})
    small = [item for item in TABLE["scales"]["small"]["overrides"] if "max_epochs" not in item]  # type: ignore[index]
    jobs = ("-m", "hydra.sweep.dir=sweep", launcher, *small, "data.batch_size=16", "trainer.max_epochs=few")
    started = [
        Command(tmp_path, study, launcher, "trainer.max_epochs=1", become=forked.study, environment=environment),
        Command(tmp_path, *jobs, environment=environment),
    ]
    ended = [process.end(timeout=240) for process in started]
    outputs = [done.stdout + done.stderr for done in ended]
    assert [done.returncode for done in ended] == [0, 1], outputs
    assert "1 different runs, 0 done, 1 to run" in outputs[0] and "0 (1 failed)" in outputs[1]
    assert re.search(r"\| SimCLR \| \d+\.\d \(1\) \|", outputs[0])
    (of_study,) = (tmp_path / "outputs" / "studies" / "runs").glob("*-seed0/result.json")
    assert json.loads(of_study.read_text())["steps"] == 4
    (refused,) = (tmp_path / "sweep").glob("*/error.txt")
    assert "max_epochs is 'few'" in refused.read_text() and not list((tmp_path / "sweep").glob("*/result.json"))
    assert list((tmp_path / "sweep" / ".submitit").iterdir())
