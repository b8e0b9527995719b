"""Which queries meet which keys where mixtures stand beside the clean views and the teacher encodes them, too.

What methods on MoCo v3 that compare mixtures with images and with other mixtures share (SDMP, PatchMix); they differ in
the cost of a pair.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.distributed import gather
from ssl_framework.functional import unit
from ssl_framework.mixers.targets import among_all, common_targets, targets
from ssl_framework.types import Batch, Outputs


class Pair(NamedTuple):
    """Queries of one view or mixture, keys of another."""

    q: Tensor  # [B, D] unit rows
    keys: Tensor  # [W * B, D] unit rows, without gradient
    share: Tensor  # [B, W * B], rows sum to one: what a query has in common with each key


class Pairs(NamedTuple):
    """All pairs, by who asks and who answers; never two of the same view."""

    clean: list[Pair]  # images and images: both directions
    mixed: list[Pair]  # mixtures and images
    mixtures: list[Pair]  # mixtures and mixtures


def mixture_pairs(
    student: list[Outputs | None],
    teacher: list[Outputs | None] | None,
    batch: Batch,
    student_head: str,
    teacher_head: str,
) -> Pairs:
    """Every view and mixture that the student saw with every one of another view that the teacher saw.

    Raises:
        ValueError: only one view was mixed, so that no mixture of another view answers.
    """
    assert teacher is not None
    mixes = batch.mix or [None] * len(student)
    shown = [v if mix is None else mix.of for v, mix in enumerate(mixes)]
    queries = {v: unit(view[student_head]) for v, view in enumerate(student) if view is not None}  # V x [B, D]
    keys = {v: gather(unit(view[teacher_head])) for v, view in enumerate(teacher) if view is not None}  # V x [W * B, D]
    pairs = Pairs([], [], [])
    for v, u in ((v, u) for v in queries for u in keys if shown[v] != shown[u]):
        q, asks, answers = queries[v], mixes[v], mixes[u]
        if asks is None and answers is None:
            itself = among_all(torch.eye(len(q), device=q.device, dtype=q.dtype))  # [B, W * B]
            pairs.clean.append(Pair(q, keys[u], itself))
        elif asks is not None and answers is None:
            pairs.mixed.append(Pair(q, keys[u], targets(asks)))
        elif asks is not None and answers is not None:
            pairs.mixtures.append(Pair(q, keys[u], common_targets(asks, answers)))
    if pairs.mixed and not pairs.mixtures:
        only = next(mix.of for mix in mixes if mix is not None)
        raise ValueError(
            f"mixer.views names view {only} only, but mixtures of one view are compared with those of another: "
            "set mixer.views=[0,1]"
        )
    return pairs


def costs(pairs: Pairs, cost: Callable[[Pair], Tensor]) -> dict[str, Tensor]:
    """The terms of the loss: the sum of both directions between images, and the means over all other pairs.

    Args:
        pairs: outside the mixer's schedule those of images only.
        cost: a pair -> [B] of its queries.
    """
    means = {
        kind: torch.stack([cost(pair).mean() for pair in each]).mean() for kind, each in pairs._asdict().items() if each
    }
    return {kind: (2 if kind == "clean" else 1) * mean for kind, mean in means.items()}
