"""SimCLR: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020
(arXiv:2002.05709), eq. 1 (NT-Xent).

Every view is an anchor; its positive is the other view of the same sample, its negatives are both views of all other
samples of the global batch.
"""

import torch
from torch import Tensor

from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of, positive_temperature
from ssl_framework.types import Batch, Clock, Outputs


class SimCLR(Objective):
    """NT-Xent over two views.

    Args:
        temperature: tau.
        head: name of the student's head whose output is compared.
    """

    def __init__(self, temperature: float, head: str = "projector") -> None:
        super().__init__()
        self.temperature = positive_temperature(temperature)
        self.head = head

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = outputs_of(student, self.head)
        return {"loss": nt_xent(unit(z0), unit(z1), self.temperature)}


def nt_xent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Mean NT-Xent over this rank's 2B anchors; unit rows [B, D] of both views -> scalar."""
    z = torch.cat([z0, z1])  # [2B, D]
    keys = gather_with_grad(z)  # [W * 2B, D]
    own = torch.arange(len(z), device=z.device)  # [2B]
    positive = own.roll(len(z0))  # [2B]: row b of one view pairs with row b of the other
    own += rank() * len(z)  # among the keys of all ranks
    return nce(z, keys, rank() * len(z) + positive, temperature, exclude=own).mean()
