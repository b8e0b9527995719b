"""What accompanies training without changing it: progress, checkpoints, and stopping in good order."""

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ssl_framework.distributed import rank
from ssl_framework.evaluation.frozen import BEFORE, FrozenEvaluation
from ssl_framework.runs.numbers import shown


class Progress(L.Callback):
    """Loss, samples per second and time left: a bar on a terminal, one line an epoch elsewhere.

    ``images`` and ``seconds`` hold what this process saw of training, evaluation excluded; ``images`` counts all ranks.
    """

    def __init__(self, console: Console, samples: str = "samples") -> None:
        self.console = console
        self.samples = samples
        self.images = 0
        self.seconds = 0.0
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._since = 0.0
        self._counted = 0
        self._loss = float("nan")

    @property
    def images_per_second(self) -> float:
        """Training throughput so far, samples (not views) of all ranks."""
        return self.images / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()  # a run resumed in the middle of an epoch sees no epoch start
        if rank() == 0 and self.console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"loss {{task.fields[loss]:.3f}}  {{task.fields[speed]:,.0f}} {self.samples}/s"),
                TimeRemainingColumn(),
                console=self.console,
            )
            total = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
            done = trainer.global_step * trainer.accumulate_grad_batches
            self._task = self._bar.add_task("", total=total, completed=done, loss=float("nan"), speed=0.0)
            self._bar.start()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, self._counted = time.perf_counter(), 0
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        assert trainer.train_dataloader is not None
        self._counted += trainer.train_dataloader.global_batch_size
        every = trainer.log_every_n_steps * trainer.train_dataloader.global_batch_size  # type: ignore[attr-defined]
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps or self._counted % every == 0:
            self._loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # waits for the device: now and then
            if self._bar is not None and self._task is not None:
                elapsed = time.perf_counter() - self._since
                self._bar.update(self._task, loss=self._loss, speed=self._counted / elapsed)
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        elapsed = time.perf_counter() - self._since
        self.images += self._counted
        self.seconds += elapsed
        stopped = trainer.should_stop and not trainer.is_last_batch  # in the middle of the epoch
        if self._bar is None and rank() == 0 and self._counted and not stopped:  # a resumed run may make but its end
            done, of = trainer.current_epoch + 1, trainer.max_epochs
            assert trainer.train_dataloader is not None
            batches = self._counted / trainer.train_dataloader.global_batch_size
            to_go = (trainer.estimated_stepping_batches - trainer.global_step) * trainer.accumulate_grad_batches
            left = to_go * elapsed / batches  # max_steps may end the run before its last epoch
            self.console.print(
                f"epoch {done}/{of}  loss {self._loss:.3f}  {self._counted / elapsed:,.0f} {self.samples}/s  "
                f"{left:.0f} s left",
                highlight=False,
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class EvaluationLines(L.Callback):
    """Prints each evaluation in one line as it happens. Stands after ``FrozenEvaluation`` in the list of callbacks."""

    def __init__(self, console: Console, evaluation: FrozenEvaluation) -> None:
        self.console = console
        self.evaluation = evaluation
        self._seen = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen = self.evaluation.evaluated_at
        if rank() == 0 and self.evaluation.from_weights and (scores := self.evaluation.baselines.get(BEFORE)):
            self.say(BEFORE, scores)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if rank() == 0 and self.evaluation.evaluated_at > self._seen:
            self._seen = self.evaluation.evaluated_at
            self.say("evaluation", self.evaluation.metrics)

    def say(self, what: str, scores: Mapping[str, float]) -> None:
        """One line of scores."""
        values = "  ".join(f"{name} {shown(name, value)}" for name, value in scores.items())
        if values:  # what was left out has been said
            self.console.print(f"  {what}: {values}", highlight=False, markup=False, soft_wrap=True)
