"""``hydra/sweeper=search``: the trials of a search, one batch after another.

Hydra takes sweepers from a package of this name only, and imports what lies here at every start: nothing heavy.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """A search of hyper-parameters by Optuna. Of several launched processes the first one asks, and all run its trials.

    Args:
        sampler: what proposes values: ``_target_`` and arguments. With a ``seed`` a search can be repeated.
        direction: ``maximize`` or ``minimize``.
        n_trials: how many there are in all, those of earlier starts in the same folder among them.
        n_jobs: trials that are chosen together, from 1; a launcher may run them side by side.
        max_failure_rate: share of the trials that may fail, between 0 and 1.
        params: key -> where to look: ``choice(...)``, ``range(...)``, ``interval(...)`` or ``tag(log, interval(...))``.
    """

    def __init__(
        self,
        sampler: DictConfig,
        direction: str,
        n_trials: int,
        n_jobs: int,
        max_failure_rate: float,
        params: Mapping[str, Any],
    ) -> None:
        self.settings = (sampler, direction, n_trials, n_jobs, max_failure_rate)
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's."""
        self.config: Any = config
        self.loader = hydra_context.config_loader
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: Sequence[str]) -> None:
        """Runs what is left of the search.

        Args:
            arguments: the overrides of the command, except Hydra's own.

        Raises:
            ValueError: the search cannot be made, or not in this folder; too many trials failed, or all did.
            RunFailed: the first process has refused, and said so.
        """
        from ssl_framework.training.meeting import agree, end_together

        search: list[Any] = []  # of the first process
        with contextlib.ExitStack() as claims:

            def begin() -> str:
                search.append(self.begun(arguments, claims))
                return "begun"

            agree(begin)
            number = 0
            while batch := json.loads(agree(lambda: json.dumps(search[0].next()))):
                done = self.launcher.launch(batch, initial_job_idx=number)
                number += len(batch)
                for own in search:
                    own.take(done)
            end_together()

    def begun(self, arguments: Sequence[str], claims: contextlib.ExitStack) -> Any:
        """The search as its folder has it, which is held until ``claims`` ends.

        Raises:
            ValueError: see ``sweep``.
        """
        try:
            from ssl_framework.commands.search import Search, parted
        except ModuleNotFoundError as error:
            raise ValueError(f"this search needs {error.name}: pip install 'ssl-framework[sweeps]'") from error
        if OmegaConf.select(self.config, "hparams_search.metric") is None:
            raise ValueError("hydra/sweeper=search has no hparams_search.metric to go by: choose hparams_search=...")
        space, fixed = parted([*(f"{key}={value}" for key, value in self.params.items()), *arguments], self.loader)
        return claims.enter_context(Search.claimed(Path(self.config.hydra.sweep.dir), space, fixed, self.settings))
