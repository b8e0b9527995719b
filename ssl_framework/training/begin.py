"""Where a process begins that a run has started for itself; imports nothing, so that it is there at once."""

from typing import Any

from ssl_framework.runs.importing import importing


def begin_rank(*arguments: Any) -> None:
    """Imports what a rank needs, and becomes one: ``rank`` of ``rank.py``."""
    with importing():
        from ssl_framework.training.rank import rank
    rank(*arguments)
