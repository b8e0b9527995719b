"""What accompanies training without changing it: progress, checkpoints, and stopping in good order."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ssl_framework.distributed import rank, world_size
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.report.tables import shown


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and loads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes beside the target, flushes to the disk, then renames over it."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Never unpickles objects, whatever ``weights_only`` says.

        Raises:
            ValueError: the file is damaged or holds foreign objects.
        """
        return load_checkpoint(path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds foreign objects.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ... for the two reasons
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the checkpoint {path} cannot be loaded safely: {reason}") from error


class StopSignals(L.Callback):
    """Notes Ctrl-C, SIGTERM and SLURM's SIGUSR1 in ``asked`` instead of dying of them; a second Ctrl-C stops at once.

    Stands first in the list of callbacks, so that it listens before any other does work.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                handler = signal.signal(number, self._ask)
                self._previous.setdefault(number, handler)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()  # Lightning has put its own handler for SIGTERM in place in between; it exits without saving

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt``: every n epochs, at the end, and when the run is asked to stop.

    ``stopped_by`` names the signal that ended the run, if one did.

    Args:
        folder: where checkpoints lie.
        every_n_epochs: at least 1.
        signals: what the run was asked.
    """

    def __init__(self, folder: Path, every_n_epochs: int, signals: StopSignals) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"trainer.checkpoint_every_n_epochs is {every_n_epochs}: it must be at least 1")
        self.path = folder / "last.ckpt"
        self.every_n_epochs = every_n_epochs
        self.signals = signals
        self.stopped_by: str | None = None

    def _someone_asked(self, trainer: L.Trainer) -> bool:
        """Whether any rank got a signal; the ranks must save in the same step, so they agree every few steps."""
        if world_size() == 1:
            return self.signals.asked is not None
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return False
        asked = torch.tensor(float(self.signals.asked is not None), device=trainer.strategy.root_device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return bool(asked)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self._someone_asked(trainer):
            self.stopped_by = self.signals.asked or "SIGTERM"  # or another rank was asked
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True
        elif trainer.global_step == trainer.max_steps and not trainer.is_last_batch:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.current_epoch + 1
        whole = trainer.is_last_batch and self.stopped_by is None
        if whole and (done == trainer.max_epochs or done % self.every_n_epochs == 0):
            trainer.save_checkpoint(self.path)


class Progress(L.Callback):
    """Loss, images per second and time left: a bar on a terminal, one line an epoch elsewhere.

    ``images`` and ``seconds`` hold what this process saw of training, evaluation excluded; ``images`` counts all ranks.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
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

    def _write(self, draw: Callable[[], None]) -> None:
        if rank() == 0:
            draw()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()  # a run resumed in the middle of an epoch sees no epoch start
        if rank() == 0 and self.console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} images/s"),
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
        if self._bar is None and rank() == 0:
            done, of = trainer.current_epoch + 1, trainer.max_epochs
            left = (of - done) * elapsed if of is not None and of > 0 else 0.0
            self.console.print(
                f"epoch {done}/{of}  loss {self._loss:.3f}  {self._counted / elapsed:,.0f} images/s  {left:.0f} s left",
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

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if rank() == 0 and self.evaluation.evaluated_at > self._seen:
            self._seen = self.evaluation.evaluated_at
            values = "  ".join(f"{name} {shown(name, value)}" for name, value in self.evaluation.metrics.items())
            self.console.print(f"  evaluation: {values}", highlight=False, markup=False, soft_wrap=True)
