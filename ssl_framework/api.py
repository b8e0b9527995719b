"""For notebooks and training loops of one's own: what the commands do, as objects. See docs/api.md.

Nothing here reads ``sys.argv`` or leaves anything of Hydra, a signal's handler or the format of warnings behind.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ssl_framework.build import build, build_data, build_module, check_labels, refuse_wrong
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.request import evaluate
from ssl_framework.loading import load_run, load_run_config
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.objectives.base import Objective
from ssl_framework.runs.composition import refuse_mixed_keys, refuse_mixed_parts
from ssl_framework.runs.config import hosted, may_change, names_of_run
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import admitted, composing
from ssl_framework.runs.messages import command_line, explain
from ssl_framework.runs.overrides import keys_of, latest_of, override_each, pair
from ssl_framework.runs.settings import refuse_settings
from ssl_framework.training.place import leave_to_launcher, place, settle
from ssl_framework.training.recipe import settle_recipe
from ssl_framework.training.stages import go_through
from ssl_framework.views.base import ViewMaker

CHUNK = 512
"""Samples embedded at once."""


class Composition:
    """A config, and what can be made of it.

    Attributes:
        config: resolved; read-only, because ``about`` says which command makes the same run.
        about: the names of method and data set, the overrides, and that command.
    """

    def __init__(self, config: DictConfig, about: dict[str, Any]) -> None:
        self.config = config
        self.about = about

    def views(self) -> ViewMaker:
        """What makes random views: ``views.of(inputs)``, of pictures [B, C, H, W] uint8 -> V x [B, C, h, w] float32, of
        samples of another modality likewise; what views of several need is said with ``views(samples)``."""
        return build(self.config.views)

    def objective(self) -> Objective:
        """The loss with its state: ``objective.loss_of(z0, z1)``."""
        return build(self.config.objective)

    def data(self, folder: str | Path | None = None) -> DataModule:
        """The data of the run, of which the splits are read now.

        Args:
            folder: where pseudo-labels are kept, for a trainer of one's own; ``fit`` keeps them in the run's.

        Raises:
            ValueError, FileNotFoundError: the data cannot be read.
        """
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        return build_data(self.config, None if folder is None else Path(folder))

    def module(self, data: DataModule) -> SSLModule:
        """The LightningModule on some data, with the weights that the seed begins with.

        Raises:
            ValueError: parts that do not fit together.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            module = build_module(self.config, data.pretrain.labelled, data.pretrain.shape[0])
        check_labels(module.objective, data.pretrain.label if isinstance(data.pretrain, Split) else None)
        return module

    def fit(self, folder: str | Path | None = None) -> "Run":
        """Trains and evaluates, as the command does; writes the run folder.

        Args:
            folder: of the run; ``None``: ``outputs/<method>/<data>/<time>``.

        Raises:
            ValueError, FileNotFoundError: the run is refused, or the folder holds one already.
            KeyboardInterrupt: a signal stopped the run; ``resume(folder)`` goes on with it.
        """
        if (here := place()) is not None and here.world_size > 1:
            raise ValueError(
                f"fit runs in one process, or starts its own, but this is one of {here.world_size} that were launched: "
                "launch python train.py instead"
            )
        where = Path("outputs", self.about["method"], self.about["data"], f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
        folder = where if folder is None else Path(folder)
        if RunFolder(folder).has_trained:
            raise ValueError(f"{folder} already holds a run: continue it with resume(folder), or name another folder")
        return trained(self.config, folder, {**self.about, "resume": False})


class Run:
    """A run that has been trained.

    Attributes:
        folder: where it lies.
        config: resolved, as it was trained.
        module: with the weights of the last checkpoint, in eval mode.
        result: what result.json holds; empty while the run is in training.
    """

    def __init__(self, folder: Path, config: DictConfig, module: SSLModule) -> None:
        self.folder = folder
        self.config = config
        self.module = module
        self.result: dict[str, Any] = RunFolder(folder).read_result()

    @property
    def encoder(self) -> Encoder:
        """The student: ``encoder.embed(x)``, of what ``module.views.clean`` makes of samples: of pictures [B, C, h, w]
        float32, normalised."""
        return self.module.student

    @property
    def metrics(self) -> dict[str, float]:
        """What the run's own evaluation has measured."""
        return self.result.get("metrics", {})

    @torch.no_grad()
    def embed(self, inputs: Tensor) -> Tensor:
        """Features of samples as evaluation sees them, where the samples lie.

        Args:
            inputs: [N, ...] of the main modality, as the data have them: pictures [N, C, H, W] uint8, series [N, C, T]
                float32, texts [N, L] int64.

        Returns:
            [N, D] float32
        """
        device = next(self.module.parameters()).device
        parts = [self.encoder.embed(self.module.views.clean(part.to(device))) for part in inputs.split(CHUNK)]  # [n, D]
        return torch.cat(parts).float().to(inputs.device)

    def evaluate(self, *overrides: str) -> dict[str, float]:
        """Scores the last checkpoint: ``run.evaluate("evaluation=retrieval", "data=digits")``; writes evaluation.json.

        Args:
            overrides: as the command takes them; none: the run's own evaluation again.

        Raises:
            ValueError, FileNotFoundError: what was asked for cannot be done.
        """
        with as_before():
            return evaluate(self.folder, overrides)


def use(config_dir: str | Path | None = None, trust: Sequence[str] = ()) -> None:
    """Makes a plugin known to this process and to those it starts, as ``--config-dir`` and ``trust`` do in a command.

    Args:
        config_dir: a further folder of config files.
        trust: packages whose classes a stored config may name.

    Raises:
        ValueError: no such folder, a name that is there already, or a package that cannot be trusted.
    """
    folder = [] if config_dir is None else ["--config-dir", str(config_dir)]
    admitted([*folder, *(f"trust={prefix}" for prefix in trust)])


def compose(*overrides: str) -> Composition:
    """The config of ``python train.py`` with these overrides.

    Args:
        overrides: ``"method=simclr"``, ``"data=shapes"``, ``"objective.temperature=0.1"`` ...

    Raises:
        FileNotFoundError: there are no such weights to begin with.
        ValueError: there is no such group, choice or key.
    """
    with composing():
        try:
            whole = hydra.compose("train", list(overrides), return_hydra_config=True)
            about = names_of_run(whole.hydra.runtime.choices, overrides)
            refuse_mixed_parts(whole.hydra.runtime.choices)
            config = hosted(OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"]), overrides)
            refuse_mixed_keys(whole.hydra.runtime.choices, config)
            said = settle_recipe(config, whole.hydra.runtime.choices.data, overrides, None)
            OmegaConf.resolve(config)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(explain(error)) from error
        refuse_settings(config)
        refuse_wrong(OmegaConf.to_container(config), "")
        if said:
            print(said)
    OmegaConf.set_readonly(config, True)
    return Composition(config, about)


def load(folder: str | Path, *overrides: str) -> Run:
    """A run that the command or ``Composition.fit`` has trained.

    Args:
        folder: of the run.
        overrides: of its config, such as another ``data.root``.

    Raises:
        FileNotFoundError, ValueError: no such run, an unknown key, or a config that is not trusted (see ``use``).
    """
    config, module = load_run(Path(folder), overrides)
    return Run(Path(folder), config, module.eval())


def resume(folder: str | Path, *overrides: str) -> Run:
    """Goes on with a run from its last checkpoint; one that came to none begins anew.

    Args:
        folder: of the run.
        overrides: of what may change, such as ``"trainer.max_epochs=20"``.

    Raises:
        FileNotFoundError, ValueError: no such run, nothing left to do, or a key that may not change.
    """
    folder = Path(folder)
    config = load_run_config(folder, keys_of(overrides))
    if fixed := [item for item in overrides if not may_change(pair(item)[0])]:
        raise ValueError(f"a run is resumed as it was configured: leave {fixed[0]} out, or start a new run")
    override_each([config], overrides, str(RunFolder(folder).config_file))
    refuse_settings(config)
    leave_to_launcher(config.trainer)
    names = RunFolder(folder).read_about()
    if overrides:
        made = latest_of([*names.get("overrides", []), *overrides])
        names |= {"overrides": made, "command": command_line(made)}
    return trained(config, folder, {**names, "resume": RunFolder(folder).has_checkpoint})


def trained(config: DictConfig, folder: Path, about: dict[str, Any]) -> Run:
    """Prepares the folder, runs, and loads what came of it.

    Raises:
        ValueError: another process writes there.
    """
    config = copy.deepcopy(config)  # a run settles what is left open
    OmegaConf.set_readonly(config, False)
    settle(config.trainer)
    run = RunFolder(folder)
    with run.claimed() as mine, as_before():
        if not mine:
            raise ValueError(f"{run.held_by}: wait for it to end, or name another folder")
        if not about["resume"]:
            run.forget_try()
        run.sweep_partials()
        run.prepare(config, about)
        stopped_by = go_through(config, folder, about, first=True)
    if stopped_by is not None:
        raise KeyboardInterrupt(f"stopped by {stopped_by}; resume({str(folder)!r}) goes on")
    return load(folder)


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Puts back what a run changes of its process: how warnings are shown, and the number of threads."""
    form, threads = warnings.formatwarning, torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        warnings.formatwarning = form
        torch.set_num_threads(threads)
