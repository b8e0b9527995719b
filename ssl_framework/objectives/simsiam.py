"""SimSiam: Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021 (arXiv:2011.10566), eq. 1 to 4.

The prediction of one view is drawn to the projection of the other, which gets no gradient. One encoder, no negatives,
no memory; predictor and stop-gradient are what keeps it from giving all images the same vector.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SimSiam(Objective):
    """Negative cosine of a prediction and the other view's projection, the mean of both directions; in [-1, 1].

    Args:
        stop_gradient: ``False`` lets the gradient reach the projections, too: the paper's ablation, which collapses.
        projector: name of the head that is predicted.
        predictor: name of the head that predicts.

    Logs the mean standard deviation of the unit projections' coordinates, ``1 / sqrt(D)`` where they point everywhere
    and near 0 when they have collapsed (the paper, figure 2).
    """

    against_collapse = ("stop_gradient", "predictor")

    def __init__(self, stop_gradient: bool, projector: str = "projector", predictor: str = "predictor") -> None:
        super().__init__()
        self.stop_gradient = stop_gradient
        self.projector = projector
        self.predictor = predictor
        self.reads = (projector, predictor)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        p0, p1 = map(unit, outputs_of(student, self.predictor))  # [B, D] each
        z0, z1 = map(unit, outputs_of(student, self.projector))  # [B, D] each
        if self.stop_gradient:
            z0, z1 = z0.detach(), z1.detach()
        both = (p0 * z1).sum(dim=1) + (p1 * z0).sum(dim=1)  # [B]
        spread = torch.stack([z0, z1]).detach().std(dim=1).mean()
        return {"loss": -both.mean() / 2, "target_std": spread}
