"""Mean Teacher: Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (arXiv:1703.01780).

A classifier learns the labels there are, and to say of every sample what the moving average of itself says of another
view. With mixtures (Verma et al., Interpolation Consistency Training, IJCAI 2019, arXiv:1903.03825) it has to say of
each what the teacher says of the sources, by their shares.

B samples of this rank, C classes.
"""

import math

from torch import Tensor

from ssl_framework.arguments import Classes, NonNegative, PositiveFraction, guarded
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.partial import Shown, both_means, clean_and_shown, told_accuracy, told_or_guessed
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MeanTeacher(Objective):
    """``CE(labelled) + w(t) mean of ||softmax(student) - softmax(teacher)||^2 / C`` over all samples.

    ``w(t) = weight exp(-5 (1 - t / ramp)^2)``, t the share of the run that is done; from ``ramp`` on it is the weight.

    Args:
        num_classes: C.
        weight: of the second term.
        ramp: share of the run in which its weight rises.
        head: name of the classifier of both.

    Logs both terms, the second without weight, and the accuracy on labelled samples.
    """

    requires = frozenset({"teacher", "label", "partial labels"})
    accepts = frozenset({"added mixtures"})
    num_views = (1, 1)

    def __init__(
        self, num_classes: Classes, weight: NonNegative, ramp: PositiveFraction, head: str = "classifier"
    ) -> None:
        super().__init__()
        self.num_classes, self.weight, self.ramp, self.head = num_classes, weight, ramp, head
        self.reads, self.teacher_reads = (head,), (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (clean,), (shown,) = clean_and_shown(student, batch, self.head)  # [B, C]
        (answer,) = outputs_of(teacher, self.head)  # [B, C]
        assert batch.label is not None
        each = Shown(clean, None).losses(told_or_guessed(batch.label, clean.new_zeros(clean.shape)))  # [B]
        labelled = both_means(each, batch.label)[0]
        distance = shown.logits.softmax(dim=1) - shown.blended(answer.softmax(dim=1))  # [B, C]
        consistency = distance.square().mean()
        rise = math.exp(-5 * (1 - min(1.0, clock.progress / self.ramp)) ** 2)
        logged = {"labelled": labelled.detach(), "consistency": consistency.detach()}
        logged["accuracy"] = told_accuracy(clean, batch.label)
        return {"loss": labelled + self.weight * rise * consistency, **logged}
