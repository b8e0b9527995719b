"""A search of hyper-parameters: where it looks, that it goes on after any end, and that several processes share it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from ssl_framework.runs.groups import CONFIGS
from tests.small_runs import SMALL
from tests.training.test_launch import Launched, mpirun, own_lines

pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ssl_framework.commands.search import Search, parted

SWEEPER = OmegaConf.load(CONFIGS / "hydra" / "sweeper" / "search.yaml")
SPACE = ("a=tag(log, interval(0.01, 1))", "n=range(2,11,2)", "kind=choice(x,'y z')", "data=digits")


def settings(seed: int | None = 0, **changes: Any) -> tuple[Any, ...]:
    node: Any = OmegaConf.merge(SWEEPER, {"direction": "maximize", "sampler": {"seed": seed}}, changes)
    return tuple(node[key] for key in ("sampler", "direction", "n_trials", "n_jobs", "max_failure_rate"))


@contextlib.contextmanager
def search(folder: Path, *overrides: str, **changes: Any) -> Iterator[Search]:
    with Search.claimed(folder, *parted(overrides or SPACE, None), settings(**changes)) as found:  # type: ignore[arg-type]
        yield found


def returned(value: float | None) -> JobReturn:
    done = JobReturn()
    done.status, done.return_value = JobStatus.COMPLETED, value
    return done


def worth(overrides: list[str]) -> float:
    """A function with its largest value at a=0.1 and n=6."""
    found = dict(item.split("=", 1) for item in overrides)
    return -abs(float(found["a"]) - 0.1) - abs(int(found["n"]) - 6) / 10


def run(folder: Path, until: int | None = None, **changes: Any) -> list[list[str]]:
    """The trials that are made before the process is killed, which it is in the midst of the one with number
    ``until``."""
    made: list[list[str]] = []
    with search(folder, **changes) as found:
        while batch := found.next():
            made += batch
            if until is not None and len(made) > until:
                return made
            found.take([returned(worth(overrides)) for overrides in batch])
    return made


def test_a_search_killed_in_every_trial_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Thirteen trials: from the eleventh on, the sampler goes by what came of the others."""
    whole = run(tmp_path / "whole", n_trials=13)
    assert len(whole) == 13 == len({tuple(trial) for trial in whole})
    for number in range(13):
        made = run(tmp_path / "parts", until=0 if number == 0 else 1, n_trials=13)
        assert made == whole[max(0, number - 1) : number + 1]
    assert run(tmp_path / "parts", n_trials=13) == whole[12:] and run(tmp_path / "parts", n_trials=13) == []
    records = [(tmp_path / name / "search.json").read_text() for name in ("whole", "parts")]
    assert records[0] == records[1]
    best = OmegaConf.load(tmp_path / "parts" / "optimization_results.yaml")
    assert best.best_value == max(map(worth, whole))
    assert [f"{key}={value}" for key, value in best.best_params.items()][:2] == max(whole, key=worth)[:2]


def test_a_seed_repeats_a_search_and_none_does_not(tmp_path: Path) -> None:
    first, same = (run(tmp_path / name, n_trials=3) for name in "ab")
    assert first == same and run(tmp_path / "c", n_trials=3, seed=1) != first
    assert run(tmp_path / "d", n_trials=3, seed=None) != run(tmp_path / "e", n_trials=3, seed=None)
    assert run(tmp_path / "a", n_trials=5) == run(tmp_path / "f", n_trials=5)[3:]  # more of them


def test_what_failed_is_tried_again_by_the_next_start_and_not_by_this_one(tmp_path: Path) -> None:
    with search(tmp_path, n_trials=3) as found:
        made = []
        while batch := found.next():
            made += batch
            found.take([returned(None if len(made) == 2 else worth(batch[0]))])
    assert len(made) == 3
    with search(tmp_path, n_trials=3) as found:
        assert found.next() == [made[1]]
        found.take([returned(0.5)])
        assert found.next() == []
    assert json.loads((tmp_path / "search.json").read_text())["trials"][1]["value"] == 0.5


def test_equal_trials_of_a_batch_are_run_once(tmp_path: Path) -> None:
    with search(tmp_path, "n=choice(4)", n_trials=3, n_jobs=2) as found:
        assert found.next() == [["n=4"]]
        found.take([returned(1.5)])
        assert found.next() == [["n=4"]]
        found.take([returned(1.5)])
        assert found.next() == [] and [trial["value"] for trial in found.trials] == [1.5, 1.5, 1.5]


def test_a_job_that_raises_elsewhere_has_failed_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    done = JobReturn()
    done.status, done.return_value = JobStatus.FAILED, ValueError("the node went away")
    with search(tmp_path, n_trials=2, max_failure_rate=0.5) as found:
        found.next()
        found.take([done])
        assert "error: the node went away" in capsys.readouterr().err and found.trials[0]["value"] is None
        with pytest.raises(ValueError, match=r"1 of 1 trials failed, more than hydra\.sweeper\.max_failure_rate=0\.5"):
            found.next()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=1,2", CategoricalDistribution((1, 2))),
        ("x=choice(0.1,true,'a,b')", CategoricalDistribution((0.1, True, r"a\,b"))),
        ("x=choice([1,2],[3])", CategoricalDistribution(("[1,2]", "[3]"))),
        ("x=interval(0.1,0.5)", FloatDistribution(0.1, 0.5)),
        ("x=int(interval(1,5))", IntDistribution(1, 5)),
        ("x=interval(1,5)", FloatDistribution(1.0, 5.0)),
        ("x=tag(log,interval(0.1,0.5))", FloatDistribution(0.1, 0.5, log=True)),
        ("x=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("x=range(1,8,3)", IntDistribution(1, 7, step=3)),  # as Hydra: without the end
        ("x=range(8,1,-3)", IntDistribution(2, 8, step=3)),
        ("x=range(0,0.5,0.1)", FloatDistribution(0.0, 0.4, step=0.1)),
    ],
)
def test_where_a_search_looks(text: str, expected: Any) -> None:
    space, fixed = parted([text, "seed=3", "y=1", "+y=2"], None)  # type: ignore[arg-type]
    assert space == {"x": expected} and fixed == ["seed=3", "+y=2"]


def test_a_range_of_floats_is_typed_without_errors_of_addition(tmp_path: Path) -> None:
    with search(tmp_path, "x=range(0,0.7,0.1)", n_trials=12, n_jobs=12) as found:
        made = {item for overrides in found.next() for item in overrides}
    assert len(made) > 3 and made <= {f"x={value}" for value in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}


@pytest.mark.parametrize(
    ("overrides", "changes", "said"),
    [
        (["x=tag(log,interval(0,1))"], {}, r"^x=tag\(log,interval\(0,1\)\) leaves nothing to search: .*low"),
        (["x=interval(1,0.5)"], {}, r"^x=interval\(1,0\.5\) leaves nothing to search: "),
        (["x=range(4,4)"], {}, r"^x=range\(4,4\) leaves nothing to search: "),
        (["x=1"], {}, "^the search has nothing to choose: leave a key open that hydra.sweeper.params has"),
        (["x=1,2", "x=1"], {}, "^the search has nothing to choose"),
        ([], {"n_trials": 0}, r"^hydra\.sweeper\.n_trials is 0: it must be a whole number above 0"),
        ([], {"n_jobs": True}, r"^hydra\.sweeper\.n_jobs is True: "),
        ([], {"direction": "up"}, r"^hydra\.sweeper\.direction is up: it must be maximize or minimize"),
        ([], {"max_failure_rate": 2}, r"^hydra\.sweeper\.max_failure_rate is 2: it must lie between 0 and 1"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    overrides: list[str], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said), search(tmp_path, *overrides, **changes):
        pass


def test_a_folder_is_that_of_one_search_and_one_process(tmp_path: Path) -> None:
    run(tmp_path, n_trials=1)
    for other in ([*SPACE[:-1], "data=shapes"], [*SPACE, "seed=0"], [*SPACE[1:], "a=interval(0.01,1)"]):
        with pytest.raises(ValueError, match=r"search\.json is of .*: choose another hydra\.sweep\.dir$"):
            search(tmp_path, *other).__enter__()
    with search(tmp_path), pytest.raises(ValueError, match=r"is being written by another process .*: wait for it"):
        search(tmp_path).__enter__()


def test_processes_that_were_launched_run_the_trials_that_the_first_one_chooses(tmp_path: Path) -> None:
    """Without a seed, so that processes which choose for themselves would differ."""
    arguments = (
        "-m", "hparams_search=simclr", "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=null",
        *SMALL[:-1], "trainer.max_epochs=1", "trainer=cpu", "trainer.num_threads=1", "hydra.sweep.dir=found",
    )  # fmt: skip
    first, second = Launched(tmp_path, mpirun, *arguments).end()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert own_lines(second.stdout) == ""
    assert first.stdout.count("joins the 2 processes that were launched on 1 machine") == 2
    results = [json.loads(path.read_text()) for path in (tmp_path / "found").glob("*/result.json")]
    assert [result["processes"] for result in results] == [2, 2]
    trials = json.loads((tmp_path / "found" / "search.json").read_text())["trials"]
    (metric,) = results[0]["metrics"]
    assert sorted(trial["value"] for trial in trials) == sorted(result["metrics"][metric] for result in results)
    assert len([path for path in (tmp_path / "found").iterdir() if path.is_dir()]) == 2
    refused = Launched(tmp_path, mpirun, *arguments, "data.batch_size=8", "hydra.sweeper.n_jobs=0").end()
    assert [rank.returncode for rank in refused] == [1, 1]
    said = refused[0].stderr + refused[1].stderr
    assert said.count("error: hydra.sweeper.n_jobs is 0: it must be a whole number above 0\n") == 1
    assert said.count("error: ") == 1 and "Traceback" not in said
