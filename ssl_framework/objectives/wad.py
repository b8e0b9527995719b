"""WAD: Du et al., Semi-Supervised Learning via Weight-aware Distillation under Class Distribution Mismatch, ICCV 2023
(arXiv:2308.11874): a frozen teacher's features say which class an unlabelled sample may be of, and how surely.

``w = s1 - s2``, the two largest cosines to the class axes, which are the mean directions of the labelled features; the
student learns the labels, and with that weight the nearest axis of those unlabelled samples it finds easiest.

B samples of this rank, W ranks, C classes, T numbers of the teacher's features.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import Classes, Count, guarded
from ssl_framework.distributed import gather, mean_of
from ssl_framework.functional import unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class WAD(Objective):
    """Cross-entropy of the labelled samples, plus the weighted one of the chosen unlabelled samples.

    A run has ``rounds + 1`` parts of equal length. At the end of the t-th, t from 0, the share ``share (1 - t /
    rounds)^2`` of the unlabelled samples whose loss was lowest, of those not yet chosen, is chosen as well.

    Args:
        num_classes: C.
        rounds: how often samples are chosen.
        share: of the first round.
        head: name of the student's class scores.
    """

    requires = frozenset({"teacher", "label", "partial labels", "index"})
    num_views = (1, 1)
    axes: Tensor  # [C, T] float32 sums of the labelled samples' unit features
    done: Tensor  # [] int64 rounds

    def __init__(
        self,
        num_classes: Classes,
        rounds: Count,
        share: Annotated[float, Interval(gt=0, le=1)],
        head: str = "classifier",
    ) -> None:
        super().__init__()
        self.num_classes, self.rounds, self.share, self.head = num_classes, rounds, share, head
        self.reads, self.teacher_reads = (head,), ("pooled",)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def meet(self, teacher: Mapping[str, int]) -> None:
        """Makes the axes, as wide as the teacher's features."""
        assert self.num_classes is not None
        self.register_buffer("axes", torch.zeros(self.num_classes, teacher["pooled"]))  # [C, T]

    def allocate(self, num_samples: int) -> None:
        """Makes the loss of every unlabelled sample, -1 where it is not known, and whether it is chosen."""
        self.bank = SampleBank({"loss": torch.full((num_samples,), -1.0), "chosen": torch.zeros(num_samples)})  # [N]

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (scores,), (features,) = outputs_of(student, self.head), outputs_of(teacher, "pooled")  # [B, C], [B, T]
        assert batch.label is not None and self.num_classes is not None
        labelled, features = batch.label >= 0, unit(features)  # [B], [B, T]
        self.choose(clock)
        weight, answer = weights(features, unit(self.axes))  # [B] each
        told = F.cross_entropy(scores, batch.label.clamp(min=0), reduction="none")  # [B]
        found = F.cross_entropy(scores, answer, reduction="none")  # [B]
        chosen = ~labelled & (self.bank.read("chosen", batch.index) > 0)  # [B]
        loss = mean_of(told, labelled) + mean_of(weight * found, chosen)
        member = F.one_hot(gather(batch.label) + 1, self.num_classes + 1)[:, 1:].to(features.dtype)  # [W * B, C]
        self.axes += (member.T @ gather(features)).to(self.axes.dtype)  # [C, T]
        self.bank.write(batch.index, {"loss": found.detach().masked_fill(labelled, -1.0)})
        right = (scores.detach().argmax(dim=1) == batch.label).float()  # [B]
        logged = {"accuracy": mean_of(right, labelled), "weight": mean_of(weight, ~labelled)}
        return {"loss": loss, **logged, "chosen": self.bank.get_buffer("chosen").mean()}

    def choose(self, clock: Clock) -> None:
        """Chooses samples at the first step of a part of the run. Changes ``bank`` and ``done``."""
        parts = self.rounds + 1
        reached = int(clock.progress * parts)
        if reached == int(clock._replace(step=clock.step - 1).progress * parts):
            return  # without asking the device for ``done``
        while int(self.done) < min(reached, self.rounds):
            loss, chosen = self.bank.get_buffer("loss"), self.bank.get_buffer("chosen")  # [N] each
            count = round(self.share * (1 - int(self.done) / self.rounds) ** 2 * int((loss >= 0).sum()))
            left = ((loss >= 0) & (chosen == 0)).nonzero()[:, 0]  # unlabelled samples
            self.bank.remember("chosen")
            chosen[left[loss[left].argsort(stable=True)[:count]]] = 1.0
            self.done += 1


def weights(features: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """How surely a sample is of the class of its nearest axis, and which that is.

    Args:
        features: [B, T] unit rows.
        axes: [C, T] unit rows; a row of zeros is no axis.

    Returns:
        [B] ``s1 - s2`` in [0, 2], 0 where fewer than two classes have an axis; and [B] int64 classes.
    """
    cosine = features @ axes.to(features.dtype).T  # [B, C]
    cosine = cosine.masked_fill((axes == 0).all(dim=1), -2.0)
    near = cosine.topk(2, dim=1)
    first, second = near.values.unbind(dim=1)  # [B] each
    return torch.where(second > -2, first - second, 0.0), near.indices[:, 0]
