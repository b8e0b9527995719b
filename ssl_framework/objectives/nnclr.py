"""NNCLR: Dwibedi et al., With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual
Representations, ICCV 2021 (arXiv:2104.14548), eq. 3 and the pseudo-code of its appendix.

The nearest neighbour of one view's projection, in a queue of earlier projections, has to find the prediction of the
other view among the predictions of the global batch, for either view. A prediction may also have to find its neighbour.
"""

from typing import Literal

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.feature_mixers.base import in_batch
from ssl_framework.functional import hardest, nce, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.infonce import contrast
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class NNCLR(Objective):
    """InfoNCE with nearest neighbours as anchors; the mean over both views.

    Args:
        temperature: tau.
        queue: the support set Q. Projections of the first view enter it.
        negatives: "predictions": a neighbour against all predictions, the rows of their similarities (eq. 3);
            "columns": a prediction against all neighbours, too, the mean of both; "all": likewise, and the other
            neighbours are negatives of a neighbour, the other predictions of a prediction (NT-Xent, as lightly has it).
        positive_in_denominator: ``False`` gives DCL's denominator (arXiv:2110.06848).
        projector: name of the head in whose space neighbours are sought.
        predictor: name of the head whose output is to be found.
    """

    def __init__(
        self,
        temperature: Positive,
        queue: Queue,
        positive_in_denominator: bool = True,
        negatives: Literal["predictions", "columns", "all"] = "predictions",
        projector: str = "projector",
        predictor: str = "predictor",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue
        self.positive_in_denominator = positive_in_denominator
        self.negatives = negatives
        self.projector = projector
        self.predictor = predictor
        self.reads = (projector, predictor)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = (unit(z.detach()) for z in outputs_of(student, self.projector))  # [B, D] each
        p0, p1 = map(unit, outputs_of(student, self.predictor))  # [B, D] each
        support = self.queue.read()  # [K, D]
        n0, n1 = (support[hardest(z, support, 1)[0][:, 0]] for z in (z0, z1))  # [B, D] each
        both = self.find(n0, p1) + self.find(n1, p0)  # [B]
        self.queue.push(z0)
        # Near one from the start means collapse; else it rises as the support set fills with the data.
        return {"loss": both.mean() / 2, "neighbour_similarity": (z0 * n0).sum(dim=1).mean()}

    def find(self, neighbour: Tensor, p: Tensor) -> Tensor:
        """Cross-entropy of finding each other with the negatives that the config says: two [B, D] -> [B]"""
        if self.negatives == "all":
            found = contrast(in_batch(neighbour, p), self.temperature, self.positive_in_denominator).loss  # [2B]
            return found.view(-1, 2).mean(dim=1)  # [B]; the two of a sample follow each other
        rows = find_prediction(neighbour, p, self.temperature, self.positive_in_denominator)  # [B]
        if self.negatives == "predictions":
            return rows
        columns = find_prediction(p, neighbour, self.temperature, self.positive_in_denominator)  # [B]
        return (rows + columns) / 2


def find_prediction(neighbour: Tensor, p: Tensor, temperature: float, positive_in_denominator: bool = True) -> Tensor:
    """Cross-entropy of finding the own sample's prediction among those of all ranks.

    Args:
        neighbour: [B, D] unit rows.
        p: [B, D] unit rows.
        temperature: tau.
        positive_in_denominator: ``False`` gives DCL's denominator.

    Returns:
        [B]
    """
    own = rank() * len(p) + torch.arange(len(p), device=p.device)  # [B]
    keys = gather_with_grad(p)  # [W * B, D]
    return nce(neighbour, keys, own, temperature, positive_in_denominator=positive_in_denominator)  # [B]
