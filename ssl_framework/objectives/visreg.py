"""VISReg: Wu et al., VISReg: Variance-Invariance-Sketching Regularization for JEPA training, 2026 (arXiv:2606.02572):
``(1 - lam) * prediction + lam * (centre + scale + shape)``.

As LeJEPA, with three terms in the place of one statistic: means of zero, deviations of one, and along random directions
the quantiles of a Gaussian, by the sliced Wasserstein distance of what is standardised.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.lejepa import directions, prediction, views_of
from ssl_framework.types import Batch, Clock, Outputs

SMALLEST = 1e-6  # deviation that a dimension is divided by at least


@guarded
class VISReg(Objective):
    """The sum of all terms; outputs are compared as they are, not normalised.

    Args:
        lam: weight of the three terms, in [0, 1].
        num_global: so many first views have the mean that all views are drawn to; without small crops all of them.
        num_directions: M, random directions of a step, alike on all ranks.
        head: name of the student's head whose output is compared.
    """

    num_views = (2, None)
    against_collapse = ("lam",)

    def __init__(self, lam: Fraction, num_global: Count, num_directions: Count, head: str = "projector") -> None:
        super().__init__()
        self.lam = lam
        self.num_global = num_global
        self.num_views = (max(2, num_global), None)
        self.num_directions = num_directions
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = views_of(student, self.head, self.num_global)  # [V, B, D]
        distance = prediction(z, self.num_global)
        everyone = torch.stack([gather_with_grad(view) for view in z])  # [V, W * B, D]
        terms = regularisers(everyone, directions(self.num_directions, z, clock))
        loss = (1 - self.lam) * distance + self.lam * torch.stack([*terms.values()]).sum()
        return {"loss": loss, "prediction": distance.detach(), **{name: x.detach() for name, x in terms.items()}}


def regularisers(z: Tensor, along: Tensor) -> dict[str, Tensor]:
    """Centre, scale and shape, each the mean over views: [V, N, D] and unit directions [M, D] -> scalars."""
    centre, deviation = z.mean(dim=1, keepdim=True), z.std(dim=1, correction=0, keepdim=True)  # [V, 1, D] each
    standard = (z - centre) / deviation.detach().clamp(min=SMALLEST)  # [V, N, D]
    ordered = (standard @ along.T).sort(dim=1).values  # [V, N, M]
    rank = torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device) / (z.shape[1] + 1)  # [N]
    quantile = torch.special.ndtri(rank)[:, None]  # [N, 1] of the standard Gaussian
    return {
        "centre": centre.square().mean(),
        "scale": (1 - deviation).square().mean(),
        "shape": (ordered - quantile).square().mean(),
    }
