"""Which states of a run are its best, by a number without test labels, and when there will be no better one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf

from ssl_framework.evaluation.frozen import FrozenEvaluation

LOSS, MEASURE = "train/", "eval/"


class Kept(NamedTuple):
    """What becomes of a state that is saved."""

    step: int
    is_best: bool
    wanted: int  # states that are kept at most
    steps: tuple[int, ...]  # of the best ones, its own among them, the best first


class Best(L.Callback):
    """Looks at the end of each epoch whether a metric is better than at the ends before. Stands before the callbacks
    that ask whether a step is the last; ``Checkpoints`` has its state, and looks once more when all has been measured.

    Args:
        name: ``train/<loss>``, of which the mean over the epoch counts, or ``eval/<measure>`` such as ``eval/rankme``.
        mode: "min" or "max".
        evaluation: that measures.
        count: states that are kept.
        patience: ends of epochs in a row at which the metric is known and no better than the best so far; then the run
            ends. ``None``: it goes on.

    Raises:
        ValueError: a metric by which nothing may be chosen, or another mode.
    """

    def __init__(
        self, name: str, mode: str, evaluation: FrozenEvaluation, count: int = 1, patience: int | None = None
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"trainer.keep_best_mode is {mode}: choose min or max")
        if not str(name).startswith((LOSS, MEASURE)) or (name.startswith(MEASURE) and not evaluation.measures):
            raise ValueError(
                f"trainer.keep_best is {name}: choose train/<loss>, such as train/loss, or eval/<measure>, such as "
                "eval/rankme with evaluation.measures; what probes score comes from test labels, by which nothing may "
                "be chosen"
            )
        self.name, self.sign, self.evaluation = name, 1.0 if mode == "min" else -1.0, evaluation
        self.count, self.patience = count, patience
        self.best = float("inf")  # times the sign
        self.kept: list[tuple[float, int]] = []  # value times the sign and step of the best states, the best first
        self.stale = 0  # looks since the best one
        self.looked_at = -1  # the step
        self.ended_at = -1  # the step after which there was no better for too long
        self.sum = torch.zeros((), dtype=torch.float64)  # of the epoch so far
        self.seen = 0

    @classmethod
    def of(cls, cfg: DictConfig, evaluation: FrozenEvaluation) -> "Best | None":
        """As ``trainer`` says, where a run folder of an earlier version lacks the later keys.

        Raises:
            ValueError: it names no metric by which to keep several states, or to end.
        """
        keys = ("keep_best", "keep_best_mode", "keep_best_k", "stop_early")
        name, mode, count, patience = (OmegaConf.select(cfg, key) for key in keys)
        if name is not None:
            return cls(name, mode, evaluation, count or 1, patience)
        for key, value, idle in (("keep_best_k", count, (None, 1)), ("stop_early", patience, (None,))):
            if value not in idle:
                raise ValueError(
                    f"trainer.{key} is {value}, but nothing says what is better: set trainer.keep_best=train/loss, or "
                    "to eval/<measure> with evaluation=measures"
                )
        return None

    def state(self) -> dict[str, Any]:
        """What was found so far, and what was seen of this epoch."""
        found = {"kept": self.kept, "stale": self.stale, "looked_at": self.looked_at, "ended_at": self.ended_at}
        return {"best": self.best, "sum": float(self.sum), "count": self.seen, **found}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Goes on after ``state``; a run that was begun without a best has {}, one of an earlier version kept one."""
        self.best, self.seen = state.get("best", self.best), state.get("count", 0)
        self.sum = torch.tensor(state.get("sum", 0.0), dtype=torch.float64)
        one = [(self.best, -1)] if self.best < float("inf") else []
        self.kept = [(float(value), int(step)) for value, step in state.get("kept", one)]
        for name in ("stale", "looked_at", "ended_at"):
            setattr(self, name, state.get(name, getattr(self, name)))

    def see(self, trainer: L.Trainer) -> None:
        """Takes in the loss of a batch, without waiting for the device.

        Raises:
            ValueError: there is no such loss.
        """
        if not self.name.startswith(LOSS):
            return
        metrics = trainer.callback_metrics
        if self.name not in metrics:
            raise ValueError(f"trainer.keep_best is {self.name}, but training logs {', '.join(sorted(metrics))}")
        value = metrics[self.name].detach()
        self.sum = self.sum.to(value.device) + value
        self.seen += 1

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run that has ended early stays at its end, unless it has more patience now."""
        self.go_on(checkpoint["callbacks"].get("Checkpoints", {}))
        if self.patience is not None and self.ended_at == checkpoint["global_step"] and self.stale >= self.patience:
            trainer.fit_loop.epoch_loop.max_steps = self.ended_at

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.should_stop:  # what a signal has stopped is not the end of an epoch
            self.look(trainer)

    def look(self, trainer: L.Trainer) -> Kept | None:
        """Takes in the epoch that ends, once and when its value is known, as rank 0 finds it.

        Returns:
            Where its state belongs among the best so far, of which an equal one is none; ``None``: not among them.

        Raises:
            ValueError: there is no such measure.
        """
        step = trainer.global_step
        if self.looked_at != step and (value := self.value(trainer)) is not None:
            self.looked_at = step
            self.take(self.sign * float(trainer.strategy.broadcast(value)), step)
            self.sum, self.seen = torch.zeros((), dtype=torch.float64), 0
            if self.patience is not None and self.stale >= self.patience:
                self.ended_at = trainer.fit_loop.epoch_loop.max_steps = step
        steps = tuple(at for _, at in self.kept)
        return Kept(step, self.stale == 0, self.count, steps) if step in steps else None

    def take(self, value: float, step: int) -> None:
        """Puts a value, times the sign, where it belongs; a later one that is equal stands behind."""
        self.stale = 0 if value < self.best else self.stale + 1
        self.best = min(self.best, value)
        found = [item for item in self.kept if item[1] != step]
        self.kept = sorted([*found, (value, step)], key=lambda item: item[0])[: self.count]

    @property
    def found(self) -> list[tuple[float, int]]:
        """Value and step of the best states, the best first."""
        return [(self.sign * value, step) for value, step in self.kept]

    @property
    def reason(self) -> str:
        """Why the run has ended early."""
        value, step = self.found[0]
        than = "below" if self.sign > 0 else "above"
        return f"trainer.stop_early={self.patience}: {self.name} was {value:.4g} at step {step} and never {than} since"

    def value(self, trainer: L.Trainer) -> float | None:
        """Of this epoch; ``None`` where it was not measured."""
        if self.name.startswith(LOSS):
            return float(self.sum) / self.seen if self.seen else None
        if self.evaluation.evaluated_at != trainer.global_step:
            return None
        wanted = self.name.removeprefix(MEASURE)
        measured = {name: x for name, x in self.evaluation.metrics.items() if name.startswith("measures[")}
        for name, value in measured.items():
            if wanted in (name, name.partition("]/")[2]):
                return value
        raise ValueError(f"trainer.keep_best is {self.name}, but the measures are {', '.join(measured) or 'none'}")
