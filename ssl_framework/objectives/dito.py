"""DITO: Kim et al., Region-centric Image-Language Pretraining for Open-Vocabulary Detection, ECCV 2024
(arXiv:2310.00161): what trains its detector head from pictures and texts alone.

Random boxes of several sizes are cut out of the picture's map, each goes through the head, and the largest value of
every dimension stands for the picture, which has to find its text as in CLIP.

B samples of this rank, M of all ranks, R boxes of a picture, N places of it, D their width.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Positive, PositiveFraction, guarded
from ssl_framework.distributed import own_rows, world_size
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class DITO(Objective):
    """CLIP's loss of texts and of what regions of a picture hold.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        regions: R.
        side: [lo, hi], range of a box's sides, shares of the picture's.
        head: name of the head, the same in every tower: what regions go through, and texts.

    Raises:
        ValueError: the range is empty.
    """

    requires = frozenset({"heads"})

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        regions: Count,
        side: Annotated[Sequence[PositiveFraction], Len(2, 2)],
        head: str = "projector",
    ) -> None:
        super().__init__()
        if side[0] > side[1]:
            raise ValueError(f"objective.side is {list(side)}: give two shares, 0 < lo <= hi <= 1")
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.regions = regions
        self.side = tuple(side)
        self.head = head
        self.reads = (head, "places")
        self.token_reads = ("places",)
        self.modality = {0: "image"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        assert self.through_heads is not None
        self.clip.bound()
        text = rows_of(student, self.head)[1]  # [B, D']
        places = outputs_of(student, "places")[0]  # [B, N, D]
        found = region_means(places, own_rows(self.boxes(len(text) * world_size(), clock)).to(places))  # [B, R, D]
        each = self.through_heads(found.flatten(0, 1))[self.head].unflatten(0, (len(text), -1))  # [B, R, D']
        picture = unit(each.amax(dim=1))  # [B, D']
        return {"loss": self.clip.both_ways(picture, text).mean(), "scale": self.clip.log_scale.detach().exp()}

    def boxes(self, count: int, clock: Clock) -> Tensor:
        """Random boxes of ``count`` pictures, alike on all ranks: [count, R, 4], x0, y0, x1, y1 in [0, 1]."""
        draws = torch.rand(2, count, self.regions, 2, generator=clock.generator())  # [2, count, R, 2]
        low, high = self.side
        size = low + (high - low) * draws[0]  # [count, R, 2]
        start = (1 - size) * draws[1]  # [count, R, 2]
        return torch.cat([start, start + size], dim=2)  # [count, R, 4]


def region_means(places: Tensor, boxes: Tensor) -> Tensor:
    """The mean of the places in each box; one counts by the share of it that lies within.

    Args:
        places: [B, N, D] of a square grid, row after row.
        boxes: [B, R, 4] x0, y0, x1, y1 in [0, 1], of a size above 0.

    Returns:
        [B, R, D]
    """
    side = math.isqrt(places.shape[1])
    edges = torch.arange(side + 1, device=places.device, dtype=places.dtype) / side  # [side + 1]
    low, high = edges[:-1], edges[1:]  # [side] each

    def within(start: Tensor, end: Tensor) -> Tensor:
        """[B, R] each -> [B, R, side], how much of each row or column."""
        return (torch.minimum(end[..., None], high) - torch.maximum(start[..., None], low)).clamp(min=0)

    x0, y0, x1, y1 = boxes.unbind(dim=2)  # [B, R] each
    share = (within(y0, y1)[..., :, None] * within(x0, x1)[..., None, :]).flatten(2)  # [B, R, N]
    return share @ places / share.sum(dim=2, keepdim=True)
