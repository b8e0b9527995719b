"""What the processes of a launched run tell each other before, between and beside their steps: words, not tensors.

They meet in the key-value store that their process group will use as well: torchrun's, or one that the first process
holds. A process that nothing has launched meets nobody, and every function here answers at once.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable
from datetime import timedelta

from ssl_framework.runs.messages import RunFailed
from ssl_framework.training.place import Place, join, place

PATIENCE = timedelta(minutes=30)
"""How long the others wait for what the first process decides."""

TOGETHER = 10.0
"""Seconds within which all processes come to refuse what none of them can do."""

REFUSED = "refused"


class Meeting:
    """The words of one attempt of a run's processes.

    Args:
        here: where this process stands.
    """

    def __init__(self, here: Place) -> None:
        import torch.distributed as dist

        join(here)
        self.here = here
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
        self.store = dist.PrefixStore(f"ssl_framework/{attempt}", store)
        self.decisions = 0

    def agree(self, decide: Callable[[], str]) -> str:
        """What the first process decides; it alone does.

        Raises:
            RunFailed: it refused, and has said so.
        """
        self.decisions += 1
        key = f"decision/{self.decisions}"
        if self.here.rank:
            found = self.store.get(key).decode()
            if found == REFUSED:
                raise RunFailed
            return found.removeprefix("=")
        try:
            decided = decide()
        except BaseException:
            self.store.set(key, REFUSED)
            raise
        self.store.set(key, f"={decided}")
        return decided

    def first_to_say(self, sentence: str) -> bool:
        """Whether no other process has said this about the decision that was taken last."""
        digest = hashlib.sha256(sentence.encode()).hexdigest()
        return self.store.add(f"said/{self.decisions}/{digest}", 1) == 1

    def all_refuse(self) -> bool:
        """Whether every process comes to refuse what was decided last; if not, some of them wait for this one."""
        key, deadline = f"refusals/{self.decisions}", time.monotonic() + TOGETHER
        self.store.add(key, 1)
        while (refused := self.store.add(key, 0)) < self.here.world_size and time.monotonic() < deadline:
            time.sleep(0.05)
        return refused == self.here.world_size


@functools.cache
def meeting() -> Meeting | None:
    """Where the processes of this run meet; ``None`` if this one is alone."""
    here = place()
    return None if here is None or here.world_size == 1 else Meeting(here)


def agree(decide: Callable[[], str]) -> str:
    """See ``Meeting.agree``; a process alone decides."""
    found = meeting()
    return decide() if found is None else found.agree(decide)


def first_to_say(sentence: str) -> bool:
    """See ``Meeting.first_to_say``; a process alone says everything."""
    found = meeting()
    return found is None or found.first_to_say(sentence)
