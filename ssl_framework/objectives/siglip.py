"""SigLIP: Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023 (arXiv:2303.15343), section 3.2.

Every picture with every text of the global batch is a decision of its own: together or not. Nothing is normalised over
the batch, so the loss of a pair does not depend on the others; scale and bias of the decision are learnt.

B pairs of this rank, M of all ranks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import by_tiles
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SigLIP(Objective):
    """``- 1 / M sum_ij log sigmoid(y_ij (t z_i . x_j + b))`` with y_ij = 1 for i = j and -1 otherwise.

    Args:
        temperature: 1 / t in the first step; the logarithm of t is trained.
        bias: b in the first step; trained.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    def __init__(self, temperature: Positive, bias: float, head: str = "projector") -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))  # no dimensions: no weight decay
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        z0, z1 = rows_of(student, self.head)  # [B, D] each
        keys = gather_with_grad(z1)  # [M, D]
        own = rank() * len(z0) + torch.arange(len(z0), device=z0.device)  # [B]
        # Scale and bias as one more coordinate of the keys: tiles pass on the gradient of what they are given.
        scale, bias = self.log_scale.to(z0.dtype).exp(), self.bias.to(z0.dtype)
        keys = torch.cat([scale * keys, bias.expand(len(keys), 1)], dim=1)  # [M, D + 1]
        anchors = torch.cat([z0, torch.ones_like(z0[:, :1])], dim=1)  # [B, D + 1]
        (loss,) = by_tiles(decisions, keys, anchors, own)  # [B]
        return {"loss": loss.mean(), "scale": scale.detach(), "bias": bias.detach()}


def decisions(keys: Tensor, anchors: Tensor, own: Tensor) -> tuple[Tensor]:
    """The cost of all decisions about each anchor: keys [M, D], anchors [R, D], their own columns [R] -> [R].

    ``-log sigmoid(s)`` is ``softplus(s) - s``, so own pairs differ from the others by the last term alone.
    """
    logits = anchors @ keys.T  # [R, M]
    return (F.softplus(logits).sum(dim=1) - logits.gather(1, own[:, None])[:, 0],)
