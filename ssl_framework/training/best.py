"""Which state of a run is its best, by a number that no test label has a part in."""

from typing import Any

import lightning as L
import torch

from ssl_framework.evaluation.frozen import FrozenEvaluation

LOSS, MEASURE = "train/", "eval/"


class Best:
    """Looks at the end of each epoch whether a metric is better than at all ends before.

    Args:
        name: ``train/<loss>``, of which the mean over the epoch counts, or ``eval/<measure>`` such as ``eval/rankme``.
        mode: "min" or "max".
        evaluation: that measures.

    Raises:
        ValueError: a metric by which nothing may be chosen, or another mode.
    """

    def __init__(self, name: str, mode: str, evaluation: FrozenEvaluation) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"trainer.keep_best_mode is {mode}: choose min or max")
        if not str(name).startswith((LOSS, MEASURE)) or (name.startswith(MEASURE) and not evaluation.measures):
            raise ValueError(
                f"trainer.keep_best is {name}: choose train/<loss>, such as train/loss, or eval/<measure>, such as "
                "eval/rankme with evaluation.measures; what probes score comes from test labels, by which nothing may "
                "be chosen"
            )
        self.name, self.sign, self.evaluation = name, 1.0 if mode == "min" else -1.0, evaluation
        self.best = float("inf")  # times the sign
        self.sum = torch.zeros((), dtype=torch.float64)  # of the epoch so far
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and what was seen of this epoch."""
        return {"best": self.best, "sum": float(self.sum), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after ``state_dict``; a run that was begun without a best has {}."""
        self.best, self.count = state.get("best", self.best), state.get("count", 0)
        self.sum = torch.tensor(state.get("sum", 0.0), dtype=torch.float64)

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
        self.count += 1

    def improves(self, trainer: L.Trainer) -> bool:
        """Whether the epoch that ends is the best so far, as rank 0 finds; an equal one is not.

        Raises:
            ValueError: there is no such measure.
        """
        value = self.value(trainer)
        found = value is not None and bool(trainer.strategy.broadcast(self.sign * value < self.best))
        if found and value is not None:
            self.best = self.sign * value
        self.sum, self.count = torch.zeros((), dtype=torch.float64), 0
        return found

    def value(self, trainer: L.Trainer) -> float | None:
        """Of this epoch; ``None`` where it was not measured."""
        if self.name.startswith(LOSS):
            return float(self.sum) / self.count if self.count else None
        if self.evaluation.evaluated_at != trainer.global_step:
            return None
        wanted = self.name.removeprefix(MEASURE)
        measured = {name: x for name, x in self.evaluation.metrics.items() if name.startswith("measures[")}
        for name, value in measured.items():
            if wanted in (name, name.partition("]/")[2]):
                return value
        raise ValueError(f"trainer.keep_best is {self.name}, but the measures are {', '.join(measured) or 'none'}")
