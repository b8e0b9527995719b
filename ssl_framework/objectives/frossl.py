"""FroSSL: Skean et al., FroSSL: Frobenius Norm Minimization for Efficient Multiview Self-Supervised Learning, ECCV 2024
(arXiv:2310.02903): ``sum_v 2 log ||K_v||_F + invariance``.

The kernel matrix of each view, scaled to trace one, gets the smallest Frobenius norm, which it has where all directions
of the embedding are used alike: a second-order entropy without an eigendecomposition. Views are drawn to their mean.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import NonNegative, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

SMALLEST = 1e-12  # of a trace and a squared norm, where an embedding has collapsed


@guarded
class FroSSL(Objective):
    """``sum over views v of 2 log ||K_v||_F + weight * V * D * mean (z_v - mean of views)^2``.

    Every column of a view is of unit length over the global batch, after its mean was taken off (``centre``).
    ``K_v = Z^T Z`` or, with the same norm, ``Z Z^T``, whichever is smaller, divided by its trace.

    Args:
        invariance: weight of the distance to the mean of the views.
        centre: whether columns are centred first, as the authors' code for two views; that for more does not.
        head: name of the student's head whose output is compared.

    Logs ``exp(-mean over views of log ||K_v||_F^2)``: over so many directions the embedding is spread.
    """

    num_views = (2, None)

    def __init__(self, invariance: NonNegative, centre: bool, head: str = "projector") -> None:
        super().__init__()
        self.invariance = invariance
        self.centre = centre
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = torch.stack([self.columns(gather_with_grad(x)) for x in outputs_of(student, self.head)])  # [V, W * B, D]
        num_views, _, dim = z.shape
        entropy = torch.stack([log_squared_norm(view) for view in z])  # [V]
        distance = (z - z.mean(dim=0)).square().mean()
        loss = entropy.sum() + self.invariance * num_views**2 * dim * distance
        return {"loss": loss, "dimensions": entropy.detach().mean().neg().exp()}

    def columns(self, z: Tensor) -> Tensor:
        """[N, D] with columns of unit length."""
        z = full_precision(z)
        return F.normalize(z - z.mean(dim=0) if self.centre else z, dim=0)  # [N, D]


def log_squared_norm(z: Tensor) -> Tensor:
    """``2 log ||K||_F`` of the kernel of trace one: [N, D] -> scalar, between -log(min(N, D)) and 0."""
    kernel = z.T @ z if z.shape[1] <= len(z) else z @ z.T  # [D, D] or [N, N]
    kernel = kernel / kernel.trace().clamp(min=SMALLEST)
    return kernel.square().sum().clamp(min=SMALLEST).log()
