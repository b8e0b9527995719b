"""A page of the run while it trains, written anew at each evaluation."""

import time
from typing import Any

import lightning as L
from rich.console import Console

from ssl_framework.device import device_name
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.report.live import Known, write_live
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.stopping import Interrupted, Stopped

SHARE = 0.01
"""Of the time of a run that its page may take."""

SELDOM = 60.0
"""Seconds between two pages where nothing is evaluated."""


class LivePage(L.Callback):
    """Writes ``report.html`` when training begins, at each evaluation, every minute at the end of an epoch, and when it
    is interrupted; at the end of a run ``report.page`` takes its place. Stands behind the evaluation.

    It takes a hundredth of the time at most: a page that would take more is left out. One that cannot be written is one
    line, and the last.

    Args:
        run: the folder.
        cfg, about: of the run.
        evaluation: whose scores it shows.
        console: for that line.
    """

    def __init__(self, run: RunFolder, cfg: Any, about: dict[str, Any], evaluation: FrozenEvaluation, console: Console):
        self.run, self.cfg, self.about, self.evaluation, self.console = run, cfg, about, evaluation, console
        self.began = 0.0  # of the clock
        self.since = ""  # the time of day
        self.written = 0.0
        self.spent = 0.0
        self.last = 0.0  # seconds that the last page took
        self.seen = -1
        self.broken = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began, self.since, self.seen = time.monotonic(), now(), self.evaluation.evaluated_at
        self.write(trainer, self.running(trainer), going=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        passed = time.monotonic()
        due = self.evaluation.evaluated_at > self.seen or passed - self.written >= SELDOM
        if due and self.spent + self.last <= SHARE * (passed - self.began):
            self.seen = self.evaluation.evaluated_at
            self.write(trainer, self.running(trainer), going=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.should_stop:
            self.write(trainer, f"Stopped {self.place(trainer)}; the same command goes on.", going=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if not self.since:  # what never began has no page, and asking for its length would hide why
            return
        outside = isinstance(exception, Interrupted | Stopped)
        why = f"{type(exception).__name__}: {' '.join(str(exception).split())}".removesuffix(": ")
        end = "the same command goes on" if outside else why
        self.write(trainer, f"{'Interrupted' if outside else 'Failed'} {self.place(trainer)}; {end}.", going=False)

    def running(self, trainer: L.Trainer) -> str:
        """How far it is, and how to tell that it is no more."""
        return (
            f"Running since {self.since}, {self.place(trainer)}. A page that stands still is of a run that was killed: "
            "the same command goes on with it."
        )

    def place(self, trainer: L.Trainer) -> str:
        """The step, the epoch and the time of day."""
        of = int(trainer.estimated_stepping_batches)
        each = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        epoch = max(1, -(-trainer.global_step // each))
        return f"at step {trainer.global_step:,} of {of:,}, epoch {epoch} of {trainer.max_epochs} ({now()})"

    def write(self, trainer: L.Trainer, state: str, going: bool) -> None:
        """Writes it, on rank 0."""
        if not trainer.is_global_zero or self.broken:
            return
        started = time.monotonic()
        evaluation = self.evaluation
        scores = {name: getattr(evaluation, name) for name in ("metrics", "intervals", "baselines")}
        known = Known(self.cfg, self.about, scores, device_name(trainer.strategy.root_device))
        try:
            write_live(self.run.path, known, state, going)
        except Exception as error:
            self.broken = True
            self.console.print(f"no page while it trains: {error}", highlight=False, markup=False, soft_wrap=True)
        self.written = time.monotonic()
        self.last = self.written - started
        self.spent += self.last


def now() -> str:
    """The time of day."""
    return time.strftime("%Y-%m-%d %H:%M")
