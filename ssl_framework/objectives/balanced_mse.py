"""Balanced MSE: Ren et al., Balanced MSE for Imbalanced Visual Regression, CVPR 2022 (arXiv:2203.16427), in its
batch-based Monte-Carlo form.

A prediction has to find its own number among those of the batch, the nearer the likelier, so numbers that are frequent
are no better a guess than rare ones; the variance of the noise is learnt.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, rank
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.regression import numbers_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class BalancedMSE(Objective):
    """Cross-entropy over the numbers of the global batch, the mean over views and samples.

    Args:
        noise_variance: s^2 at the beginning, in squared units of the label.
        head: name of the student's head that predicts the number; its output is [B, 1].

    Logs the mean absolute error and s^2.
    """

    requires = frozenset({"number"})
    num_views = (1, None)

    def __init__(self, noise_variance: Positive, head: str = "regressor") -> None:
        super().__init__()
        self.head = head
        self.reads = (head,)
        self.log_variance = nn.Parameter(torch.tensor(math.log(noise_variance)))

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        predicted = torch.stack(numbers_of(student, self.head))  # [V, B]
        label = full_precision(batch.label).to(predicted.dtype)  # [B]
        variance = self.log_variance.exp()
        losses = torch.stack([balanced_mse(view, label, variance) for view in predicted])
        error = (predicted - label).abs().mean()
        return {"loss": losses.mean(), "absolute_error": error.detach(), "noise_variance": variance.detach()}


def balanced_mse(predicted: Tensor, label: Tensor, variance: Tensor) -> Tensor:
    """``-log(e^{-(p_i - y_i)^2 / 2 s^2} / sum_j e^{-(p_i - y_j)^2 / 2 s^2})``, the mean over own predictions.

    Args:
        predicted, label: of this rank, [B] each.
        variance: s^2, a scalar.
    """
    logits = -(predicted[:, None] - gather(label)).square() / (2 * variance)  # [B, W * B]
    own = rank() * len(label) + torch.arange(len(label), device=label.device)  # [B]
    return F.cross_entropy(logits, own)
