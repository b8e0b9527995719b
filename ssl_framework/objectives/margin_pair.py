"""The margin loss of pairs: Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006.
Yalta et al., Weakly Supervised Deep Recurrent Neural Networks for Basic Dance Step Generation, 2018
(arXiv:1807.01126), make encoders of sound and of motion agree by it.

What belongs together is drawn together without end; what does not is pushed apart up to a margin. Each sample makes one
pair of either kind: with its own other view, and with that of the next sample.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MarginPair(Objective):
    """Mean of ``d^2`` of pairs of one sample and ``max(0, margin - d)^2`` of pairs of two, d the distance of unit rows.

    Logs both distances.

    Args:
        margin: pairs of two samples that are further apart do not count.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    def __init__(self, margin: Positive, head: str = "projector") -> None:
        super().__init__()
        self.margin = margin
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of two towers are of different widths, or there is no second sample."""
        z0, z1 = rows_of(student, self.head)  # [B, D] each
        keys = gather_with_grad(z1)  # [M, D]
        if len(keys) < 2:
            raise ValueError("MarginPair compares neighbours, but the batch has one sample: raise data.batch_size")
        own = rank() * len(z0) + torch.arange(len(z0), device=z0.device)  # [B]
        near, far = distance(z0, keys[own]), distance(z0, keys[(own + 1) % len(keys)])  # [B] each
        same = torch.cat([torch.ones_like(near), torch.zeros_like(far)])  # [2B]
        loss = margin_pair(torch.cat([near, far]), same, self.margin)  # [2B]
        return {"loss": loss.mean(), "near": near.detach().mean(), "far": far.detach().mean()}


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, with a gradient where two rows are equal: [N, D] each -> [N]."""
    return (a - b).square().sum(dim=1).clamp(min=1e-12).sqrt()


def margin_pair(away: Tensor, same: Tensor, margin: float) -> Tensor:
    """``y d^2 + (1 - y) max(0, margin - d)^2``: distances [N] and y [N], 1 for what belongs together -> [N]."""
    return same * away.square() + (1 - same) * (margin - away).relu().square()
