"""When a run saves its state: at the ends of epochs, every few steps or minutes, at its end, and when a signal asks."""

import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig, OmegaConf

from ssl_framework.distributed import world_size
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.runs.stopping import Stopped, stop
from ssl_framework.training.best import Best, Kept
from ssl_framework.training.metrics_log import MetricsCSV
from ssl_framework.training.signals import StopSignals
from ssl_framework.training.writing import CheckpointWriter


class Intervals(NamedTuple):
    """How much of a run may be lost."""

    epochs: int
    steps: int | None = None
    minutes: float | None = None

    @classmethod
    def read(cls, cfg: DictConfig) -> "Intervals":
        """Of ``trainer``, where a run folder of an earlier version has the first alone.

        Raises:
            ValueError: a number that makes no sense.
        """
        names = [f"checkpoint_every_{name}" for name in ("n_epochs", "n_steps", "minutes")]
        epochs, steps, minutes = (OmegaConf.select(cfg, name) for name in names)
        for name, value, allowed in zip(names, (epochs, steps, minutes), (int, int, int | float), strict=True):
            if value is None and name != names[0]:
                continue
            if not isinstance(value, allowed) or isinstance(value, bool) or not 0 < value < float("inf"):
                what = "a whole number, at least 1" if allowed is int else "a number above 0"
                raise ValueError(f"trainer.{name} is {value}: it must be {what}{', or null' * (name != names[0])}")
        return cls(epochs, steps, minutes)


class Checkpoints(Checkpoint):
    """Keeps the last state: at intervals, at the end, and when the run is asked to stop. Stands last among the
    callbacks, so that what is saved at the end of an epoch has all that they found there.

    ``stopped_by`` names the signal that ended the run, if one did.

    Args:
        path: of the checkpoint.
        every: the intervals.
        signals: what the run was asked.
        evaluation: that comes after the last step, which is saved before it as well.
        best: says which states are the best so far; ``None``: nobody does.
    """

    def __init__(
        self,
        path: Path,
        every: Intervals,
        signals: StopSignals,
        evaluation: FrozenEvaluation,
        best: Best | None = None,
    ) -> None:
        self.path = path
        self.every = every
        self.signals = signals
        self.evaluation = evaluation
        self.best = best
        self.stopped_by: str | None = None
        self._due = False  # by steps or minutes
        self._saved_at = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best is None else self.best.state()

    def save(self, trainer: L.Trainer, kept: Kept | None = None) -> None:
        """Saves the state as it is now, also as one of the best; all checkpoints of a run come by here, on every
        rank."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.sync()  # what a run goes on from has its record on the disk
        with stop.noted():
            trainer.save_checkpoint(self.path, storage_options=kept)
        self._due, self._saved_at = False, now()
        self.signals.saved_at = trainer.global_step

    def settle(self, trainer: L.Trainer) -> None:
        """Waits until what was saved is on the disk.

        Raises:
            Interrupted: it cannot be written.
        """
        writer = trainer.strategy.checkpoint_io
        assert isinstance(writer, CheckpointWriter)
        writer.settle()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = now()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        log_now(trainer)
        if self.best is not None:
            self.best.see(trainer)
        if not between_steps(trainer):
            return
        if number := self.signals.agreed(trainer):
            self.stopped_by = signal.Signals(number).name
            self.save(trainer)
            self.settle(trainer)
            trainer.should_stop = True
        elif is_last(trainer):
            if self.evaluation.wanted:
                self.save(trainer)
        elif self._is_due(trainer) and not trainer.is_last_batch:  # what ends an epoch is saved with it
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.stopped_by is not None:
            return
        kept = None if self.best is None else self.best.look(trainer)
        whole = trainer.is_last_batch and (trainer.current_epoch + 1) % self.every.epochs == 0
        if is_last(trainer) or whole or self._due or kept is not None:
            self.save(trainer, kept)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.settle(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Stopped):
            self.settle(trainer)

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Whether a state is due by steps or minutes; it stays due until it is saved."""
        if self.every.steps is not None and trainer.global_step % self.every.steps == 0:
            self._due = True
        if self.every.minutes is not None:
            self._due |= first_says(trainer, now() - self._saved_at >= 60 * self.every.minutes)
        return self._due


def now() -> float:
    """Seconds, of a clock that is never set."""
    return time.monotonic()


def log_now(trainer: L.Trainer) -> None:
    """Writes the rows of the step that was just made, which Lightning does after the hooks at its end: a run that was
    killed behind a checkpoint of the step would go on and never have them. Its own call then does nothing."""
    connector = trainer._logger_connector
    type(connector).update_train_step_metrics(connector)
    connector.update_train_step_metrics = lambda: None  # type: ignore[method-assign]


def first_says(trainer: L.Trainer, word: bool) -> bool:
    """What rank 0 says, heard by all in the steps in which they agree on signals as well; False in all others."""
    if world_size() == 1:
        return word
    if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
        return False
    said = torch.tensor(float(word), device=trainer.strategy.root_device)
    dist.broadcast(said, 0)
    return bool(said)


def between_steps(trainer: L.Trainer) -> bool:
    """Whether the gradients of all batches so far are in the weights: what is accumulated goes into no checkpoint."""
    return not trainer.fit_loop._should_accumulate()


def is_last(trainer: L.Trainer) -> bool:
    """Whether the run has made its last step, at the end of its last epoch or inside one."""
    whole = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    return whole or trainer.global_step == trainer.max_steps
