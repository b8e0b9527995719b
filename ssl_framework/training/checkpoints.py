"""Checkpoints written whole or not at all, when they are due and when a signal asks for one."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ssl_framework.distributed import world_size
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.folder import RunFolder
from ssl_framework.training.signals import StopSignals


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, keeps the one before, and loads tensors and plain values only.

    Args:
        run: the folder of the run.
    """

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes beside the target and waits for the disk; then the last one becomes the one before, and this one the
        last."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        older = self.run.previous_checkpoint_file if target == self.run.checkpoint_file else None
        with replacing(target, older) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Never unpickles objects, whatever ``weights_only`` says.

        Raises:
            ValueError: the file is damaged or holds foreign objects.
        """
        return load_checkpoint(path)


class Checkpoints(Checkpoint):
    """Keeps the last state: every n epochs, at the end, and when the run is asked to stop.

    ``stopped_by`` names the signal that ended the run, if one did.

    Args:
        path: of the checkpoint.
        every_n_epochs: at least 1.
        signals: what the run was asked.
    """

    def __init__(self, path: Path, every_n_epochs: int, signals: StopSignals) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"trainer.checkpoint_every_n_epochs is {every_n_epochs}: it must be at least 1")
        self.path = path
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

    def save(self, trainer: L.Trainer) -> None:
        """Saves the state as it is now; all checkpoints of a run come by here, on every rank."""
        trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self._someone_asked(trainer):
            self.stopped_by = self.signals.asked or "SIGTERM"  # or another rank was asked
            self.save(trainer)
            trainer.should_stop = True
        elif trainer.global_step == trainer.max_steps and not trainer.is_last_batch:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.current_epoch + 1
        whole = trainer.is_last_batch and self.stopped_by is None
        if whole and (done == trainer.max_epochs or done % self.every_n_epochs == 0):
            self.save(trainer)
