"""The signals that ask a run to save and end."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L


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
