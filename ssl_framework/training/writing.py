"""How checkpoints come to the disk: whole or not at all, in the background if it pays, and from there to a mirror."""

import contextlib
import copy
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.durable import keep_as, replacing
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.stopping import Interrupted
from ssl_framework.training.best import Kept
from ssl_framework.training.mirror import Mirror


class CheckpointWriter(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, keeps the one before, and loads tensors and plain values only.

    In the background, training waits for a copy in the host's memory, which a GPU's state needs anyway; a thread writes
    that, and waits for the disk. There is one at a time: whoever saves the next one, or ``settle``, waits for it and
    hears what went wrong. On the CPU such a copy takes as long as writing.

    Args:
        run: the folder of the run.
        background: whether training goes on meanwhile.
        mirror: gets a copy of what was written; ``None``: there is none.
    """

    def __init__(self, run: RunFolder, background: bool, mirror: Mirror | None = None) -> None:
        super().__init__()
        self.run = run
        self.background = background
        self.mirror = mirror
        self.pool = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None
        self.target = run.checkpoint_file

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes the checkpoint to ``path``, or takes a copy that is written there.

        ``storage_options`` is a ``Kept`` where it is one of the best, too.

        Raises:
            Interrupted: it, or the one before, could not be written.
        """
        self.settle()
        self.target = Path(path)
        own = on_host(checkpoint, {}) if self.background else checkpoint
        self.pending = self.pool.submit(self.write, own, self.target, storage_options)
        if not self.background:
            self.settle()

    def settle(self) -> None:
        """Waits until the last checkpoint is on the disk.

        Raises:
            Interrupted: it could not be written; those before are as they were.
        """
        pending, self.pending = self.pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            raise Interrupted(
                f"the checkpoint {self.target} cannot be written ({error.strerror or error}): make room there, or make "
                "it writable, and give the same command again, which goes on from the checkpoint before"
            ) from error

    def write(self, checkpoint: dict[str, Any], target: Path, kept: Kept | None) -> None:
        """Writes beside the target and waits for the disk; then the last one becomes the one before, and this one the
        last."""
        target.parent.mkdir(parents=True, exist_ok=True)
        older = self.run.previous_checkpoint_file if target == self.run.checkpoint_file else None
        with replacing(target, older) as partial, partial.open("wb") as file, own_errors(file) as noted:
            torch.save(checkpoint, noted)  # type: ignore[arg-type]
        if kept is not None:
            self.keep(target, kept)
        if self.mirror is not None:
            self.mirror.send()

    def keep(self, target: Path, kept: Kept) -> None:
        """Has the names of the best ones name what ``target`` names, as far as it is one, and removes those that are
        no more."""
        if kept.is_best:
            keep_as(target, self.run.best_checkpoint_file)
        if kept.wanted > 1:
            keep_as(target, self.run.best_checkpoint_at(kept.step))
        names = {self.run.best_checkpoint_at(step) for step in kept.steps} if kept.wanted > 1 else set()
        for file in set(self.run.best_checkpoint_files) - names:
            file.unlink()

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Never unpickles objects, whatever ``weights_only`` says.

        Raises:
            ValueError: the file is damaged or holds foreign objects.
        """
        return load_checkpoint(path)

    def teardown(self) -> None:
        """Waits for what is being written; whoever wanted to know how it went has asked."""
        with contextlib.suppress(Interrupted):
            self.settle()
        if self.mirror is not None:
            self.mirror.close()


class Noted:
    """A file that remembers why it could not be written: ``torch.save`` says but that it is too short."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


@contextlib.contextmanager
def own_errors(file: BinaryIO) -> Iterator[Noted]:
    """Gives the file to write; what the operating system has refused is raised as it said it."""
    noted = Noted(file)
    try:
        yield noted
    except Exception as error:
        if noted.error is not None:
            raise noted.error from error
        raise


def on_host(x: Any, known: dict[Any, torch.Tensor]) -> Any:
    """A copy of nested content whose tensors lie on the CPU; ``known`` are those that were copied, by their memory, so
    that weights that are tied stay so."""
    if isinstance(x, torch.Tensor):
        key = (x.data_ptr(), x.device, x.dtype, x.shape, x.stride()) if x.numel() else id(x)
        if key not in known:
            known[key] = x.detach().to("cpu", copy=True)
        return known[key]
    if isinstance(x, dict):
        found = copy.copy(x)  # a state_dict has attributes
        for key, value in x.items():
            found[key] = on_host(value, known)
        return found
    if isinstance(x, (list, tuple)):
        return type(x)([on_host(value, known) for value in x])
    return copy.deepcopy(x)
