"""A run that is bounded by time (``trainer.max_minutes``), of which its parts together have no more."""

from typing import Any

import lightning as L

from ssl_framework.training import checkpoints
from ssl_framework.training.checkpoints import between_steps, first_says


class TimeLimit(L.Callback):
    """Makes the step in which the time is up the last one; what follows a run's last step follows it. Stands before
    the callbacks that ask whether a step is the last.

    Args:
        minutes: from the first step on, evaluations included, interruptions not.

    Raises:
        ValueError: it is no time.
    """

    def __init__(self, minutes: float) -> None:
        if not isinstance(minutes, (int, float)) or isinstance(minutes, bool) or not 0 < minutes < float("inf"):
            raise ValueError(f"trainer.max_minutes is {minutes}: it must be a number of minutes above 0, or null")
        self.seconds = 60 * minutes
        self.used = 0.0  # by the parts of the run before this one
        self.ended_at = -1  # the step
        self._since: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds that the run has had."""
        return self.used + (0.0 if self._since is None else checkpoints.now() - self._since)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.elapsed, "ended_at": self.ended_at}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Goes on after a part of the run; whose time was up stays at its end, unless it has more now."""
        state = checkpoint["callbacks"].get(self.state_key, {"seconds": 0.0, "ended_at": -1})
        self.used, self.ended_at = state["seconds"], state["ended_at"]
        if self.ended_at == checkpoint["global_step"] and self.used >= self.seconds:
            trainer.fit_loop.epoch_loop.max_steps = self.ended_at

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = checkpoints.now()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if between_steps(trainer) and first_says(trainer, self.elapsed >= self.seconds):
            self.ended_at = trainer.fit_loop.epoch_loop.max_steps = trainer.global_step
