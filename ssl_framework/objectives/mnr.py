"""Multiple negatives ranking: Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017
(arXiv:1705.00652), eq. 4, as Hallee et al., Contrastive Learning and Mixture of Experts Enables Precise Vector
Embeddings (arXiv:2401.15713), train their experts with it.

The first text of a pair looks for the second among those of the global batch. The authors' "MNR plus" takes as targets
the most similar columns of similarities within each side, which for vectors of one length are the texts themselves: it
is the mean of both directions.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MNR(Objective):
    """Cross-entropy of ``scale`` times the cosines of view 0 to all views 1. With a scale that is learnt it is
    ``objective=clip``.

    Args:
        scale: 1 / tau.
        symmetric: whether view 1 looks for view 0, too, with half the weight ("MNR plus").
        head: name of the student's head whose outputs are compared.
    """

    def __init__(self, scale: Positive, symmetric: bool, head: str = "projector") -> None:
        super().__init__()
        self.scale = scale
        self.symmetric = symmetric
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        own = rank() * len(z0) + torch.arange(len(z0), device=z0.device)  # [B]
        loss = nce(z0, gather_with_grad(z1), own, 1 / self.scale)  # [B]
        if self.symmetric:
            loss = (loss + nce(z1, gather_with_grad(z0), own, 1 / self.scale)) / 2  # [B]
        return {"loss": loss.mean()}
