"""Patches hidden under those of another image (MixedAE, Chen et al., CVPR 2023, arXiv:2303.17152, section 3)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Natural, OpenFraction, guarded
from ssl_framework.masks.base import Drawn, Draws, ViewMasker, first, number_of
from ssl_framework.types import Batch, Clock, Mix


@guarded
class MixtureMask(ViewMasker):
    """Shows at the hidden places the patches of the image that follows in the batch, and keeps the record of that.

    The places are those of the whole batch, so that every patch of every image is shown once. Evaluators, losses and a
    teacher find the whole view in ``batch.mix``. Odd sides that the patches do not cover stay as they are.

    Args:
        ratio: share that is another image's, in (0, 1).
        views: positions of the views that are mixed; ``None``: all that the student encodes.
    """

    fills = True

    def __init__(self, ratio: OpenFraction, views: Annotated[Sequence[Natural], Len(1)] | None = None) -> None:
        super().__init__(views)
        self.ratio = ratio

    def draw(self, count: int, grid: tuple[int, int], draws: Draws, device: torch.device) -> Drawn:
        total = grid[0] * grid[1]
        hidden = first(draws.uniform(1, total, device=device), number_of(self.ratio, total))  # [1, N]
        return Drawn(hidden.expand(count, -1))  # [B, N]

    def forward(self, batch: Batch, clock: Clock, generator: torch.Generator | None = None) -> Batch:
        """As of every masker, and with the mixtures in the place of views."""
        found = super().forward(batch, clock, generator)
        assert found.masks is not None
        views, mixes = list(batch.views), list(batch.mix or [None] * len(batch.views))
        for view, grid in self.grids.items():
            mask = found.masks[view]
            assert mask is not None
            views[view], mixes[view] = covered(batch.views[view], mask, grid, view)
        return found._replace(views=views, mix=mixes)


def covered(x: Tensor, mask: Tensor, grid: tuple[int, int], view: int) -> tuple[Tensor, Mix]:
    """Images [B, C, h, w] that show the next one of the batch where ``mask`` [B, N] says, and the record of it."""
    side = x.shape[2] // grid[0], x.shape[3] // grid[1]  # pixels of a patch
    other = mask.view(-1, 1, *grid).repeat_interleave(side[0], dim=2).repeat_interleave(side[1], dim=3)  # [B, 1, h, w]
    rest = (0, x.shape[3] - other.shape[3], 0, x.shape[2] - other.shape[2])
    other = torch.nn.functional.pad(other, rest)  # [B, 1, h, w]
    itself = torch.arange(len(x), device=x.device)  # [B]
    source = torch.stack([itself, itself.roll(-1)], dim=1)  # [B, 2]
    owner = torch.cat([~other, other], dim=1).float()  # [B, 2, h, w]
    return torch.where(other, x[source[:, 1]], x), Mix(x, source, owner.mean(dim=(2, 3)), owner, view)
