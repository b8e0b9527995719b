"""What every objective is: a module that turns the encoders' outputs into a loss and owns the state it needs."""

from typing import ClassVar

from torch import Tensor, nn

from ssl_framework.feature_mixers.base import FeatureMixer
from ssl_framework.types import Batch, Clock, Outputs


class Objective(nn.Module):
    """Base of all objectives.

    Class attributes:
        requires: what the run must provide, of "teacher", "mixer", "label", "geometry", "index".
        accepts: what is read when present, of "mixer", "feature_mixer".
        num_views: fewest and most views of a sample that each encoder it reads must encode; ``None`` is no limit.

    Attributes:
        num_classes: labels it has room for, 0 to ``num_classes - 1``; ``None`` if it does not count them.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    accepts: ClassVar[frozenset[str]] = frozenset()
    num_views: ClassVar[tuple[int, int | None]] = (2, 2)

    def __init__(self) -> None:
        super().__init__()
        # Set by SSLModule, only where "feature_mixer" is accepted. Not a class attribute: that would hide the module.
        self.feature_mixer: FeatureMixer | None = None
        self.num_classes: int | None = None

    def forward(
        self,
        student: list[Outputs | None],
        teacher: list[Outputs | None] | None,
        batch: Batch,
        clock: Clock,
    ) -> dict[str, Tensor]:
        """Loss of this rank's batch.

        Args:
            student: one entry per view; ``None`` where the student did not see the view.
            teacher: likewise, without gradient; ``None`` without a teacher.
            batch: indices, labels and what a mixer did.
            clock: step, epoch and length of the run.

        Returns:
            "loss", the mean over this rank's own anchors, and scalars to log.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def after_backward(self, clock: Clock) -> None:
        """Called between backward and the optimizer step; by default it does nothing."""


def outputs_of(outputs: list[Outputs | None] | None, head: str) -> list[Tensor]:
    """The named head's output for every view that was encoded: V x [B, D]."""
    assert outputs is not None
    return [view[head] for view in outputs if view is not None]


def positive_temperature(temperature: float) -> float:
    """``temperature`` itself, or a ValueError naming its config key."""
    if not temperature > 0:
        raise ValueError(f"objective.temperature is {temperature}: it must be above 0")
    return temperature
