"""ConR: Keramati et al., ConR: Contrastive Regularizer for Deep Imbalanced Regression, ICLR 2024 (arXiv:2309.06651).

    l_i = -mean_{p in P} log( exp(s_ip / tau) / (sum_{j in P} exp(s_ij / tau) + sum_{j in N} w_ij exp(s_ij / tau)) )

A regression by L1 with a regulariser on the features: an anchor is pulled to samples with nearly its number, P, and
pushed from those, N, whose numbers are far from its own but are predicted near it; the farther, the more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, rank
from ssl_framework.functional import by_tiles, full_precision, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.regression import numbers_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class ConR(Objective):
    """``L1 + weight * mean_i l_i`` over any number of views.

    Args:
        window: w, how far two numbers may be apart to count as near; in units of the label.
        push: e, weight of a negative is ``exp(e |y_i - y_j|)``; per unit of the label.
        temperature: tau.
        weight: beta, of the regulariser beside L1.
        regressor: name of the student's head that predicts the number; its output is [B, 1].
        head: name of the features that are compared; "pooled" are the backbone's own.

    Logs both terms.

    Raises:
        ValueError: a number out of its range.
    """

    requires = frozenset({"number"})
    num_views = (1, None)

    def __init__(
        self,
        window: NonNegative,
        push: NonNegative,
        temperature: Positive,
        weight: NonNegative,
        regressor: str = "regressor",
        head: str = "pooled",
    ) -> None:
        super().__init__()
        self.window = window
        self.push = push
        self.temperature = temperature
        self.weight = weight
        self.regressor = regressor
        self.head = head
        self.reads = (regressor, head)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        views = [unit(z) for z in outputs_of(student, self.head)]  # V x [B, D]
        label = full_precision(batch.label).repeat(len(views))  # [V * B]
        predicted = torch.cat(numbers_of(student, self.regressor))  # [V * B]
        error = F.l1_loss(predicted, label)
        each = conr(torch.cat(views), label, predicted.detach(), self.window, self.push, self.temperature)  # [V * B]
        return {
            "loss": error + self.weight * each.mean(),
            "absolute_error": error.detach(),
            "conr": each.detach().mean(),
        }


def conr(z: Tensor, label: Tensor, predicted: Tensor, window: float, push: float, temperature: float) -> Tensor:
    """The regulariser of every anchor of this rank against the global batch.

    Args:
        z: [N, D] unit rows of this rank, all views.
        label: [N] number of each row.
        predicted: [N] prediction for each row, without gradient.
        window: w.
        push: e.
        temperature: tau.

    Returns:
        [N]; 0 for an anchor without positives or without negatives.
    """
    labels, predictions = gather(label), gather(predicted)  # [W * N] each
    columns = torch.arange(len(labels), device=z.device)  # [W * N]

    def of_rows(keys: Tensor, z: Tensor, label: Tensor, predicted: Tensor, own: Tensor) -> tuple[Tensor]:
        logits = z @ keys.T / temperature  # [R, W * N]
        distance = (label[:, None] - labels).abs()  # [R, W * N]
        near = distance <= window  # [R, W * N]
        positive = near & (own[:, None] != columns)  # [R, W * N]
        negative = ~near & ((predicted[:, None] - predictions).abs() <= window)  # [R, W * N]
        both = positive.any(dim=1) & negative.any(dim=1)  # [R]
        left_out = ~(positive | negative) & both[:, None]  # never a whole row: its gradient would not be a number
        weighted = torch.where(negative, logits + push * distance, logits)  # [R, W * N]
        denominator = weighted.masked_fill(left_out, float("-inf")).logsumexp(dim=1)  # [R]
        attraction = (logits * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)  # [R]
        return (torch.where(both, denominator - attraction, 0.0),)  # [R]

    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [N]
    return by_tiles(of_rows, gather_with_grad(z), z, label, predicted, own)[0]
