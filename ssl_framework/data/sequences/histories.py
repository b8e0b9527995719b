"""From what users have chosen, one item after another, to samples: the items so far, and the item that comes next.

A sample is a row of the last L items before a moment, as the numbers 1 to V, with 0 in front of a shorter history; its
class is the item that came then, as the number 0 to V - 1. N samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PADDING = 0
"""Stands in front of a history that is shorter than a row. The items are the numbers from 1 on."""

LEAST = 3
"""Items of a user who can be trained on: one that is predicted, one before it, and one that is held out."""


def windows(histories: Sequence[Tensor], ends: Sequence[tuple[int, int]], length: int) -> tuple[Tensor, Tensor]:
    """Samples at chosen moments.

    Args:
        histories: of each user [n] int64, items from 1 on.
        ends: (user, t), t from 1 on: the items before the t-th, counted from 0, are shown, and the t-th is the class.
        length: L.

    Returns:
        Rows [N, L] int64, and classes [N] int64.
    """
    rows = torch.full((len(ends), length), PADDING)  # [N, L]
    for row, (user, t) in zip(rows, ends, strict=True):
        shown = histories[user][max(0, t - length) : t]
        row[length - len(shown) :] = shown
    return rows, torch.tensor([int(histories[user][t]) - 1 for user, t in ends], dtype=torch.int64)


def last_ends(histories: Sequence[Tensor], without: int, count: int) -> list[tuple[int, int]]:
    """The last ``count`` moments of every user of whom the last ``without`` items are held out, the latest first."""
    last = [len(history) - 1 - without for history in histories]
    return [(user, t) for user, end in enumerate(last) for t in range(end, max(0, end - count), -1)]
