"""Alignment and uniformity: Wang and Isola, Understanding Contrastive Representation Learning through Alignment and
Uniformity on the Hypersphere, ICML 2020 (arXiv:2005.10242), section 4.

The two views of a sample should be close, and all samples should be spread over the sphere.
"""

import torch
from torch import Tensor

from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


class AlignUniform(Objective):
    """``align + weight * uniform``, the uniformity of both views averaged.

    Args:
        weight: of the uniformity, at least 0.
        t: of its Gaussian kernel, above 0.
        head: name of the student's head whose output is compared.
    """

    def __init__(self, weight: float, t: float, head: str = "projector") -> None:
        super().__init__()
        if weight < 0 or t <= 0:
            raise ValueError(f"objective.weight is {weight} and t is {t}: give at least 0, and above 0")
        self.weight = weight
        self.t = t
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = (unit(z) for z in outputs_of(student, self.head))  # [B, D] each
        align = (z0 - z1).square().sum(dim=1).mean()
        uniform = (uniformity(z0, self.t) + uniformity(z1, self.t)) / 2
        return {"loss": align + self.weight * uniform, "align": align, "uniform": uniform}


def uniformity(z: Tensor, t: float) -> Tensor:
    """``log mean exp(-t |x - y|^2)`` over all pairs of rows of the global batch: unit rows [B, D] -> scalar."""
    x = gather_with_grad(z)  # [W * B, D]
    closeness = t * (2 * x @ x.T - 2)  # [W * B, W * B]
    apart = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    return torch.logsumexp(closeness[apart], dim=0) - torch.log(apart.sum())
