"""Views."""

import torch
from torch import Tensor

from ssl_framework.types import Batch, Samples
from ssl_framework.views.image import Views


class RolledViews(Views):
    """Views of pictures, each pushed to the side by a random number of pixels; what leaves on the left comes in on the
    right. For pictures whose class is not where something lies.

    Args:
        groups, image_size, ...: as of ``Views``.
    """

    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """The views; a function of the generator's state alone."""
        batch = super().forward(samples, generator)
        return batch._replace(views=[rolled(view, generator) for view in batch.views])


def rolled(view: Tensor, generator: torch.Generator | None) -> Tensor:
    """Every picture [B, C, h, w] by a number of pixels of its own -> [B, C, h, w]."""
    count, _, _, width = view.shape
    by = torch.randint(width, (count, 1), generator=generator, device=view.device)  # [B, 1]
    column = (torch.arange(width, device=view.device) + by) % width  # [B, w]
    return view.gather(3, column[:, None, None].expand_as(view))
