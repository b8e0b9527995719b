"""What a classifier has kept and what it has learnt, where classes come one task after another (class-incremental
learning: van de Ven and Tolias, Three scenarios for continual learning, 2019, arXiv:1904.07734)."""

from ssl_framework.arguments import Count, Natural, guarded
from ssl_framework.evaluation.features import Frozen, Readout
from ssl_framework.evaluation.probes.base import right


@guarded
class TaskAccuracy:
    """The student's classifier on test samples of the classes before the task, and of the task; all classes may be
    answered.

    Args:
        first, end: of the classes of the task: ``first`` to ``end - 1``, as ``labels=task`` has them; ``None``: to the
            last.
    """

    def __init__(self, first: Natural, end: Count | None) -> None:
        self.first, self.end = first, end

    def __call__(self, train: Frozen, test: Frozen, readout: Readout) -> dict[str, float]:
        """Top-1 in percent, ``tasks[first=5,end=10]/old_top1`` and ``/new_top1``; only what there are samples of."""
        end = int(test.y.max()) + 1 if self.end is None else self.end
        answer = readout.logits(test.x).argmax(dim=1)  # [M]
        parts = {"old": test.y < self.first, "new": (test.y >= self.first) & (test.y < end)}  # [M] each
        return {
            f"tasks[first={self.first},end={end}]/{name}_top1": right(answer[own], test.y[own])
            for name, own in parts.items()
            if own.any()
        }
