"""What MoCo, SimCLR and BYOL lend to objectives that add terms of mixtures to theirs: which keys there are, and what a
pair of a query and a key costs.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from ssl_framework.functional import unit
from ssl_framework.objectives.base import Mixture, parted
from ssl_framework.types import Batch, Clock, Mix, Outputs


class Siamese(NamedTuple):
    """The loss of a host, taken apart."""

    asks: str  # the student's head that queries come from
    keys: list[Tensor | None]  # V x [B, D] unit rows: what a query of another view is compared with
    memory: Tensor | None  # [K, D] unit rows: further negatives, as they were before this step
    cost: Callable[[Tensor, Tensor], Tensor]  # the loss of each pair of unit rows: [B, D] and [B, D] -> [B]


class Host(Protocol):
    """An objective that can be taken apart: its ``accepts`` holds "terms of mixtures"."""

    requires: frozenset[str]
    accepts: frozenset[str]
    num_views: tuple[int, int | None]
    reads: tuple[str, ...]
    teacher_reads: tuple[str, ...]

    def __call__(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """The loss of clean views; changes the host's memory."""
        ...

    def siamese(self, student: list[Outputs | None], teacher: list[Outputs | None] | None) -> Siamese:
        """Its parts, for the outputs of clean views; before the call, which changes the memory."""
        ...


class Query(NamedTuple):
    """A mixture as a query."""

    q: Tensor  # [B, D] unit rows
    k: Tensor  # [B, D] unit rows: the samples' keys, from another view than the one that was mixed
    mix: Mix


def checked(host: Host) -> Host:
    """``host`` itself, or a ValueError if it cannot be one."""
    if "terms of mixtures" not in host.accepts:
        raise ValueError(
            f"objective.host is {type(host).__name__}, which takes no terms of mixtures: choose SimCLR, BYOL, or MoCo "
            "with class_oracle: false"
        )
    return host


def apart(
    host: Host, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
) -> tuple[dict[str, Tensor], Siamese, list[Query]]:
    """The host's loss of the clean views, its parts, and the mixtures that were added to the views.

    Raises:
        ValueError: a mixture's keys could only come from the very view that was mixed.
    """
    count = len(student) - sum(mix is not None for mix in batch.mix or [])  # V: every mixture stands behind them
    parts = host.siamese(student[:count], teacher)  # first: the call pushes its keys
    out = host(student[:count], teacher, batch._replace(mix=None), clock)
    return out, parts, [query(mixture, parts.keys) for mixture in parted(student, batch, parts.asks)[1]]


def query(mixture: Mixture, keys: list[Tensor | None]) -> Query:
    """A mixture [B, D] with the keys of the first other view, V x [B, D]."""
    others = [k for v, k in enumerate(keys) if k is not None and v != mixture.mix.of]
    if not others:
        raise ValueError(
            f"mixer.views names view {mixture.mix.of}, but only that view's own keys could answer: name another view"
        )
    return Query(unit(mixture.z), others[0], mixture.mix)


def unit_rows(outputs: list[Outputs | None] | None, head: str) -> list[Tensor | None]:
    """The named head's output of unit length, view by view: V x [B, D], ``None`` where a view was not encoded."""
    return [None if view is None else unit(view[head]) for view in outputs or []]
