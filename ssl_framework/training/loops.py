"""Going on from a checkpoint exactly, whatever bounds the run and wherever in an epoch the checkpoint was made.

Lightning's loop restores a checkpoint by guesses about where it was made, which differ for a run that is bounded by
steps: there it repeats an epoch that was finished. Here three counts decide: epochs that are through, batches of the
next one, and whether what belongs to the end of an epoch has happened.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _Progress


class Position(NamedTuple):
    """Where in a run a checkpoint was made."""

    epochs: int  # whose end is through
    batches: int  # of the epoch after those
    whole: bool  # whether these batches are all of that epoch
    ended: bool  # whether what belongs to the end of an epoch, such as an evaluation, has happened after the last step


def position_of(loops: Mapping[str, Any]) -> Position:
    """Reads what Lightning counts (``loops.fit_loop`` of a checkpoint), which depends on the hook that saved.

    Raises:
        KeyError, TypeError: a count is missing.
    """
    epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    done, whole = batches["current"]["processed"], bool(batches["is_last_batch"])
    if epochs["processed"] < epochs["started"]:  # saved after a step
        return Position(epochs["processed"], done, whole, ended=False)
    if whole:  # saved at the end of an epoch
        return Position(epochs["processed"], 0, False, ended=True)
    return Position(epochs["processed"] - 1, done, False, ended=True)  # the last step of a run was inside an epoch


class FitLoop(_FitLoop):
    """Lightning's loop over epochs. A run that has no step left is not skipped: what its end lacks is made.

    ``owes_end``: the checkpoint was made after the last step of an epoch or of the run, and before what follows it.
    """

    owes_end = False

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """As Lightning's, and then by the counts of ``position_of``."""
        super().load_state_dict(state_dict, prefix)
        self.go_on_from(position_of(state_dict))

    def go_on_from(self, at: Position) -> None:
        """Sets every count as it is between two batches, or between two epochs."""
        inside = at.batches > 0
        through = {"processed": at.epochs, "completed": at.epochs}
        begun = {"ready": at.epochs + inside, "started": at.epochs + inside}
        set_counts(self.epoch_progress, **begun, **through)
        batches, steps = self.epoch_loop.batch_progress, self.epoch_loop.global_step
        for tracker, count in ((batches.total, vars(batches.total)["processed"]), (batches.current, at.batches)):
            vars(tracker).update(ready=count, started=count, processed=count, completed=count)
        batches.is_last_batch = at.whole
        self.epoch_loop._batches_that_stepped = steps  # the step under which loggers write
        self.epoch_loop.val_loop._has_run = True  # there is none to wait for
        _Loop.restarting.fset(self, inside)  # type: ignore[attr-defined]
        self.owes_end = not at.ended and (at.whole or steps == self.max_steps)

    @property
    def done(self) -> bool:
        """Whether nothing is left, neither of steps nor of what follows the last one."""
        return not self.owes_end and super().done

    @property
    def skip(self) -> bool:
        """Never: a run without steps left still comes to its end."""
        return False

    def advance(self) -> None:
        """One epoch, or what is left of it, which may be its end alone."""
        super().advance()
        self.owes_end = False
        self.epoch_loop.on_iteration_done()  # for the case that it made no step


def set_counts(progress: _Progress, **counts: int) -> None:
    """Sets what was counted in this run and in all."""
    for tracker in (progress.total, progress.current):
        vars(tracker).update(counts)
