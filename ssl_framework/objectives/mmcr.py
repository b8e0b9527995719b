"""MMCR: Yerxa et al., Learning Efficient Coding of Natural Images with Maximum Manifold Capacity Representations,
NeurIPS 2023 (arXiv:2303.03307): ``-||C||_*``.

The views of a sample are a manifold on the sphere. Its centroid is long where they agree, and the nuclear norm of all
centroids is large where these are long and spread over all dimensions, which is all that is asked for.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MMCR(Objective):
    """``-||C||_* + lam * mean over samples of ||Z_i||_*``, with any number of views.

    ``C`` [W * B, D] are the centroids of the global batch, ``Z_i`` [V, D] the views of a sample. The loss and its
    gradient grow with ``sqrt(W * B * D)``: a learning rate does not carry over to another batch size.

    Args:
        compression: lam, weight of the views' own spread; 0 in the paper's final form.
        head: name of the student's head whose output is compared.

    Logs the mean length of a centroid: 1 where all views of a sample are one vector, ``1 / sqrt(V)`` by chance.
    """

    num_views = (2, None)

    def __init__(self, compression: NonNegative, head: str = "projector") -> None:
        super().__init__()
        self.compression = compression
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = torch.stack([unit(x) for x in outputs_of(student, self.head)], dim=1)  # [B, V, D]
        centroid = z.mean(dim=1)  # [B, D]
        loss = -nuclear_norm(gather_with_grad(centroid))
        if self.compression > 0:
            loss = loss + self.compression * nuclear_norm(z).mean()
        return {"loss": loss, "centroid_length": centroid.detach().norm(dim=1).mean()}


def nuclear_norm(x: Tensor) -> Tensor:
    """Sum of the singular values: [..., N, D] -> [...]."""
    return torch.linalg.svdvals(x).sum(dim=-1)
