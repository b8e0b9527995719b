"""The signals that ask a run to save and end, while it trains (see ``runs.stopping``)."""

import signal

import lightning as L
import torch
import torch.distributed as dist
from rich.console import Console

from ssl_framework.distributed import world_size
from ssl_framework.runs.stopping import ABRUPT, SAVING, Stopped, stop, to_nowhere


class StopSignals(L.Callback):
    """Has signals noted while a run trains: it saves at the end of a step, in the same step on every rank.

    Stands first in the list of callbacks. Between the last step of an epoch and the first of the next one, where the
    evaluation is, a signal ends the run where it stands if ``saved_at`` says that the step is in a checkpoint already.
    """

    def __init__(self) -> None:
        self.saved_at = -1  # step of the newest checkpoint
        self._listens = False  # nobody listened before: the run was not started by a command

    @property
    def asked(self) -> int | None:
        """Number of the first signal that this process got."""
        return stop.asked

    def agreed(self, trainer: L.Trainer) -> int:
        """The largest number of a signal that any rank got, 0 without any: the same on every rank.

        The ranks agree every ``log_every_n_steps``, for it takes a message that the host waits for. Whatever is not 0
        is the end of the run, for which there is time from here on.
        """
        number = stop.asked or 0
        if world_size() > 1:
            if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
                return 0
            asked = torch.tensor(number, device=trainer.strategy.root_device)
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
            number = int(asked)
        if number:
            stop.asked = number  # the first that any rank got is that of all
            stop.extend(SAVING)
        return number

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listens = stop.listen(hard=False)
        stop.noting, stop.abrupt = True, ABRUPT

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        stop.noting = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stop.noting = self.saved_at != trainer.global_step

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._leave()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._leave()

    def _leave(self) -> None:
        stop.noting = False
        if self._listens:
            stop.release()
        self._listens = False


class Terminal(Console):
    """Where a run prints. If nobody reads it any more, that is a signal like any other: the run saves and ends."""

    def on_broken_pipe(self) -> None:
        """Called by rich in place of an error."""
        to_nowhere(1)
        if not stop.noting:
            raise Stopped(signal.SIGPIPE)
        if stop.asked is None:
            stop.ask(signal.SIGPIPE)
