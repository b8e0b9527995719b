"""Barlow Twins: Zbontar et al., Self-Supervised Learning via Redundancy Reduction, ICML 2021 (arXiv:2103.03230), eq. 1.

The cross-correlation matrix of the two views' projections, over the global batch, is driven to the identity: the
diagonal makes views agree, the rest makes dimensions independent. No negatives, no teacher.
"""

import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class BarlowTwins(Objective):
    """Squared distance of the cross-correlation matrix from the identity.

    Args:
        off_diagonal_weight: lambda, the weight of every entry off the diagonal.
        scale: factor of the whole loss, which the paper does not have.
        head: name of the student's head whose output is correlated.
    """

    def __init__(self, off_diagonal_weight: NonNegative, scale: Positive, head: str = "projector") -> None:
        super().__init__()
        self.off_diagonal_weight = off_diagonal_weight
        self.scale = scale
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        correlation = cross_correlation(*map(standardised, outputs_of(student, self.head)))  # [D, D]
        diagonal = correlation.diagonal()  # [D]
        rest = (correlation - diagonal.diag()).square()  # [D, D], zero on the diagonal
        loss = self.scale * ((1 - diagonal).square().sum() + self.off_diagonal_weight * rest.sum())
        # Both are to be watched: one at the diagonal, zero beside it.
        rms = rest.detach().sum().div(max(1, rest.numel() - len(rest))).sqrt()
        return {"loss": loss, "diagonal": diagonal.detach().mean(), "off_diagonal": rms}


def standardised(z: Tensor) -> Tensor:
    """Columns with mean zero and standard deviation one over the global batch; a constant column becomes zero.

    The population's deviation, and 1e-5 added to the variance, as the batch normalisation of the authors' code.
    Every rank gets the rows of all ranks and computes the same loss: summed over ranks by the backward pass and
    averaged by DDP, the gradient is that of one process.

    Args:
        z: [B, D] of this rank, at least two rows on all ranks together.

    Returns:
        [W * B, D]
    """
    return F.batch_norm(gather_with_grad(full_precision(z)), None, None, training=True, eps=1e-5)  # [W * B, D]


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Mean over rows of the products of each column of ``a`` with each of ``b``: two [N, D] -> [D, D]."""
    return a.T @ b / len(a)  # [D, D]
