"""Regression of a number that every sample has as its label; the supervised baseline of the methods for numbers.

With mixer=c_mixup this is C-Mixup: Yao et al., C-Mixup: Improving Generalization in Regression, NeurIPS 2022
(arXiv:2210.05775): an image is mixed with one whose number is near, and the target is the mean of both numbers by the
same shares.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.functional import full_precision
from ssl_framework.mixers.targets import number_targets
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss, "huber": F.huber_loss}


@guarded
class Regression(Objective):
    """The mean loss over all views and samples, each view with the number it shows.

    Args:
        loss: "l1", "mse", or "huber" (half the square up to an error of 1, linear beyond).
        head: name of the student's head that predicts the number; its output is [B, 1].

    Logs the mean absolute error.
    """

    requires = frozenset({"number"})
    accepts = frozenset({"mixer"})
    num_views = (1, None)

    def __init__(self, loss: str, head: str = "regressor") -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"objective.loss is {loss}: choose one of {', '.join(LOSSES)}")
        self.loss = loss
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        label = full_precision(batch.label)  # [B]
        mixes = batch.mix or [None] * len(student)
        target = [
            number_targets(mix, label) for seen, mix in zip(student, mixes, strict=True) if seen is not None
        ]  # V x [B]
        predicted = torch.cat(numbers_of(student, self.head))  # [V * B]
        wanted = torch.cat(target).to(predicted.dtype)  # [V * B]; the backward pass of huber takes no two dtypes
        error = (predicted - wanted).abs().mean()
        return {"loss": LOSSES[self.loss](predicted, wanted), "absolute_error": error.detach()}


def numbers_of(student: list[Outputs | None], head: str) -> list[Tensor]:
    """What a head that gives one number predicts for every view that was encoded: V x [B].

    Raises:
        ValueError: the head gives several numbers.
    """
    outputs = [full_precision(output) for output in outputs_of(student, head)]  # V x [B, 1]
    if outputs[0].shape[1] != 1:
        raise ValueError(f"student.heads.{head}.out is {outputs[0].shape[1]}: a number is one output, set it to 1")
    return [output[:, 0] for output in outputs]
