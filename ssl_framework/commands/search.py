"""A search of hyper-parameters: which trials there were, what came of them, and which come next.

All of it lies in ``search.json`` in the folder of the search, written before and after each trial. Optuna is asked with
what stands there, and with a seed that follows from how many trials there were: a search that was killed goes on as if
nothing had been, and does no trial twice.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.core.utils import JobReturn
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from ssl_framework.runs.folder import RunFolder, read_json, write, write_json
from ssl_framework.runs.messages import failures, say_error
from ssl_framework.runs.overrides import key_of

RECORD, BEST = "search.json", "optimization_results.yaml"
"""Files in the folder of a search."""

DIRECTIONS = {"maximize": max, "minimize": min}


class Search:
    """The trials of a search.

    Args:
        folder: of the search, which this process holds.
        space: key -> where to look.
        fixed: overrides that all trials have.
        settings: sampler, direction, n_trials, n_jobs and max_failure_rate of ``OptunaSweeper``.

    Raises:
        ValueError: a setting that cannot be, or the folder holds another search.
    """

    def __init__(
        self, folder: Path, space: dict[str, BaseDistribution], fixed: Sequence[str], settings: tuple[Any, ...]
    ) -> None:
        self.sampler, self.direction, self.n_trials, self.n_jobs, self.max_failure_rate = settings
        refuse_settings(*settings[1:])
        self.folder, self.space, self.fixed = folder, space, list(fixed)
        self.trials = self.recorded()
        self.left = [trial for trial in self.trials if trial["value"] is None]  # by earlier starts
        self.running: list[dict[str, Any]] = []

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, folder: Path, *rest: Any) -> Iterator["Search"]:
        """The search in a folder, which no other process may hold meanwhile."""
        with RunFolder(folder).claimed() as mine:
            if not mine:
                raise ValueError(f"{RunFolder(folder).held_by}: wait for it to end, or choose another hydra.sweep.dir")
            yield cls(folder, *rest)

    def what(self) -> dict[str, Any]:
        """What makes it this search and no other: where it goes, where it looks, and what all trials have."""
        space = {key: distribution_to_json(where) for key, where in self.space.items()}
        return {"direction": self.direction, "space": space, "fixed": sorted(self.fixed)}

    def recorded(self) -> list[dict[str, Any]]:
        """The trials of earlier starts."""
        path = self.folder / RECORD
        if not path.is_file():
            return []
        found = read_json(path)
        for key, here in self.what().items():
            if (there := found.get(key)) != here:
                raise ValueError(
                    f"{path} is of a search with {key} {there}, but here it is {here}: choose another hydra.sweep.dir"
                )
        return found["trials"]

    def next(self) -> list[list[str]]:
        """The overrides of the next trials, none at the end: first what earlier starts began and did not end.

        Raises:
            ValueError: too many have failed, or all have.
        """
        self.refuse_failures()
        self.running, self.left = self.left[: self.n_jobs], self.left[self.n_jobs :]
        if not self.running:
            self.running = self.proposed(min(self.n_jobs, self.n_trials - len(self.trials)))
            self.trials += self.running
            self.write()
        return [self.overrides(params) for params in self.different()]

    def proposed(self, count: int) -> list[dict[str, Any]]:
        """Trials of Optuna's choice."""
        if count <= 0:
            return []
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=seeded(self.sampler, len(self.trials)), direction=self.direction)
        study.add_trials([self.known(trial) for trial in self.trials])
        return [{"params": self.chosen(study.ask(self.space)), "value": None} for _ in range(count)]

    def known(self, trial: dict[str, Any]) -> FrozenTrial:
        """A trial as Optuna is told of it."""
        value = trial["value"]
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        return create_trial(params=trial["params"], distributions=dict(self.space), value=value, state=state)

    def chosen(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial; those of a range of floats without the error of adding up its steps."""
        stepped = {key for key, where in self.space.items() if getattr(where, "step", None)}
        return {
            key: float(f"{x:.12g}") if key in stepped and isinstance(x, float) else x for key, x in trial.params.items()
        }

    def overrides(self, params: dict[str, Any]) -> list[str]:
        """Of a trial."""
        return [*(f"{key}={typed(value)}" for key, value in params.items()), *self.fixed]

    def different(self) -> list[dict[str, Any]]:
        """The values of the trials that run now; of equal ones once."""
        params = [trial["params"] for trial in self.running]
        return [one for position, one in enumerate(params) if one not in params[:position]]

    def take(self, returns: Sequence[JobReturn]) -> None:
        """What came of the trials of ``next``, in their order."""
        values, different = [value_of(job) for job in returns], self.different()
        for trial in self.running:
            trial["value"] = values[different.index(trial["params"])]
        self.write()

    def write(self) -> None:
        """Writes what is known, and the best of it."""
        write_json(self.folder / RECORD, {**self.what(), "trials": self.trials})
        if valued := [trial for trial in self.trials if trial["value"] is not None]:
            best = DIRECTIONS[self.direction](valued, key=lambda trial: trial["value"])
            found = {"name": "optuna", "best_params": best["params"], "best_value": best["value"]}
            write(self.folder / BEST, OmegaConf.to_yaml(OmegaConf.create(found)))

    def refuse_failures(self) -> None:
        """Raises ValueError if the search is not worth going on with, or has come to nothing."""
        failed = sum(trial["value"] is None for trial in self.trials) - len(self.left)
        if failed == len(self.trials) >= self.n_trials:
            raise ValueError("no trial of the search has ended with a value")
        if failed > self.max_failure_rate * len(self.trials):
            raise ValueError(
                f"{failed} of {len(self.trials)} trials failed, more than hydra.sweeper.max_failure_rate="
                f"{self.max_failure_rate:g} of them: started again, the search tries them again"
            )


def refuse_settings(direction: str, n_trials: int, n_jobs: int, max_failure_rate: float) -> None:
    """Raises ValueError for a setting of the sweeper that cannot be."""
    if direction not in DIRECTIONS:
        raise ValueError(f"hydra.sweeper.direction is {direction}: it must be maximize or minimize")
    for key, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
        if type(value) is not int or value < 1:
            raise ValueError(f"hydra.sweeper.{key} is {value}: it must be a whole number above 0")
    if type(max_failure_rate) not in (int, float) or not 0 <= max_failure_rate <= 1:
        raise ValueError(f"hydra.sweeper.max_failure_rate is {max_failure_rate}: it must lie between 0 and 1")


def seeded(sampler: DictConfig, trial: int) -> optuna.samplers.BaseSampler:
    """The sampler for the trials from this one on. Its own seed would have it propose the first ones again after a
    restart."""
    seed = sampler.get("seed")
    if seed is None:
        return instantiate(sampler)
    return instantiate(sampler, seed=int(np.random.SeedSequence([seed, trial]).generate_state(1)[0]))


def value_of(job: JobReturn) -> float | None:
    """What a job has returned; ``None`` where it failed, which is said of one that ran elsewhere."""
    try:
        value = job.return_value
    except Exception as error:
        say_error(error)
        failures.append(str(error))
        return None
    return value if value is not None and math.isfinite(value) else None


def parted(overrides: Sequence[str], loader: ConfigLoader) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Where a search looks, and what all its trials have. A later override takes an earlier one's place.

    Args:
        overrides: ``key=value`` and ``key=choice(...)`` and the like.
        loader: Hydra's, which knows the choices of groups.

    Raises:
        ValueError: a place that cannot be, or there is nothing to choose.
    """
    parser = OverridesParser.create(config_loader=loader)
    last = {key_of(item): parser.parse_override(item) for item in overrides}
    space = {item.get_key_element(): distribution(item) for item in last.values() if item.is_sweep_override()}
    if not space:
        raise ValueError(
            "the search has nothing to choose: leave a key open that hydra.sweeper.params has, or give one several "
            "values, as in 'optimizer.lr_per_256=tag(log, interval(0.01, 1))'"
        )
    return space, [str(item.input_line) for item in last.values() if not item.is_sweep_override()]


def distribution(item: Override) -> BaseDistribution:
    """Where an override with several values has Optuna look.

    Raises:
        ValueError: nowhere.
    """
    try:
        return between(item) if isinstance(item.value(), IntervalSweep) else among(item)
    except ValueError as error:
        raise ValueError(f"{item.input_line} leaves nothing to search: {error}") from error


def between(item: Override) -> BaseDistribution:
    """All numbers of an interval, of ``int(interval(...))`` the whole ones."""
    sweep: Any = item.value()
    whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
    return (IntDistribution if whole else FloatDistribution)(sweep.start, sweep.end, log="log" in sweep.tags)


def among(item: Override) -> BaseDistribution:
    """The values of a list; those of a range in their order."""
    values: list[Any] = list(item.sweep_iterator(transformer=element))
    if not item.is_range_sweep() or len(values) < 2:
        return CategoricalDistribution(values)
    low, high, step = min(values), max(values), abs(values[1] - values[0])
    return (FloatDistribution if isinstance(step, float) else IntDistribution)(low, high, step=step)


def element(value: Any) -> Any:
    """A value of a list: a number or truth value as it is, all else as an override has it."""
    return value if isinstance(value, (int, float)) else Transformer.str(value)


def typed(value: Any) -> str:
    """A value as an override has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
