"""Noise that has each pixel of some picture and nothing of any whole one."""

import torch
from torch import Tensor

from ssl_framework.arguments import Natural, guarded
from ssl_framework.types import Batch


@guarded
class Marginals:
    """Replaces one view by a draw of the product of the pixels' marginal distributions.

    At every place each sample gets the pixel, all channels of it, of another sample of this rank's batch, by a random
    permutation of its own. Goes into ``views.noise``.

    Args:
        view: its number.
    """

    def __init__(self, view: Natural) -> None:
        self.view = view

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """The batch with this view permuted; views V x [B, C, h, w].

        Raises:
            ValueError: there is no such view.
        """
        if self.view >= len(batch.views):
            raise ValueError(
                f"views.noise.view is {self.view}, but the views are numbered 0 to {len(batch.views) - 1}: set "
                "views.noise.view to one of them"
            )
        views = list(batch.views)
        views[self.view] = permuted(views[self.view], generator)
        return batch._replace(views=views)


def permuted(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Every pixel place permuted over the batch: [B, C, h, w] -> [B, C, h, w]."""
    where = x.device if generator is None else generator.device
    draws = torch.rand(len(x), x[0, 0].numel(), generator=generator, device=where)  # [B, h * w]
    order = draws.argsort(dim=0).to(x.device)[:, None].expand(-1, x.shape[1], -1)  # [B, C, h * w]
    return x.flatten(2).gather(0, order).view_as(x)
