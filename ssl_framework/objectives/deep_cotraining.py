"""Deep Co-Training: Qiao et al., Deep Co-Training for Semi-Supervised Image Recognition, ECCV 2018 (arXiv:1803.05984).

Two networks learn the labels and to agree on unlabelled samples; each has to say of samples that fool the other one
what that one says of them as they were, so that the two stay different.

B samples of this rank, C classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Classes, NonNegative, Positive, guarded
from ssl_framework.distributed import mean_of
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.partial import both_means, clean_and_shown, told_accuracy, told_or_guessed
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class DeepCoTraining(Objective):
    """``CE_1 + CE_2 + agreement JSD(p_1, p_2) + difference (H(p_1(x), p_2(x_1)) + H(p_2(x), p_1(x_2)))``, eq. 1 to 5.

    JSD is of the unlabelled samples. ``x_i = x + epsilon sign grad_x CE(p_i(x), argmax p_i(x))`` fools network i. Of
    mixtures, where a mixer adds them, the first two terms ask for the label or the mean answer of both, by the shares
    of the sources; the others are of clean samples.

    Args:
        num_classes: C.
        agreement: weight of the third term, lambda_cot.
        difference: weight of the last, lambda_dif.
        epsilon: size of the change, in units of a view's values.
        head, second_head: names of both networks' classifiers.

    Logs all terms without weight and the first network's accuracy on labelled samples.
    """

    requires = frozenset({"label", "partial labels", "inputs", "encoder"})
    accepts = frozenset({"added mixtures"})
    num_views = (1, 1)

    def __init__(
        self,
        num_classes: Classes,
        agreement: NonNegative,
        difference: NonNegative,
        epsilon: Positive,
        head: str = "classifier",
        second_head: str = "second_classifier",
    ) -> None:
        super().__init__()
        self.num_classes, self.agreement, self.difference, self.epsilon = num_classes, agreement, difference, epsilon
        self.heads = self.reads = (head, second_head)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        seen = [clean_and_shown(student, batch, head) for head in self.heads]
        z = [clean[0] for clean, _ in seen]  # 2 x [B, C]
        assert batch.label is not None
        answer = (z[0].detach().softmax(dim=1) + z[1].detach().softmax(dim=1)) / 2  # [B, C]
        targets = told_or_guessed(batch.label, answer)  # [B, C]
        labelled = torch.stack([both_means(shown[0].losses(targets), batch.label)[0] for _, shown in seen]).sum()
        agreement = mean_of(jensen_shannon(*z), batch.label < 0)
        difference = self.difference_of(batch.views[0], z)
        loss = labelled + self.agreement * agreement + self.difference * difference
        terms = {"labelled": labelled, "agreement": agreement, "difference": difference}
        logged = {name: term.detach() for name, term in terms.items()}
        return {"loss": loss, **logged, "accuracy": told_accuracy(z[0], batch.label)}

    def difference_of(self, x: Tensor, z: list[Tensor]) -> Tensor:
        """The last term, for views [B, ...] and what both networks say of them, 2 x [B, C]."""
        assert self.through_encoder is not None
        x = x.detach().requires_grad_()
        found = self.through_encoder(x, True)
        total = z[0].new_zeros(())
        for own, other in ((0, 1), (1, 0)):
            scores = found[self.heads[own]]  # [B, C]
            wrong = F.cross_entropy(scores, scores.argmax(dim=1), reduction="sum")
            (gradient,) = torch.autograd.grad(wrong, x, retain_graph=True)
            fooling = (x + self.epsilon * gradient.sign()).detach()  # [B, ...]
            answers = self.through_encoder(fooling, False)[self.heads[other]]  # [B, C]
            total = total + F.cross_entropy(answers, z[own].softmax(dim=1))
        return total


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """``H((p + q) / 2) - (H(p) + H(q)) / 2`` of scores [B, C] of two classifiers: [B], in [0, log 2]."""
    p, q = a.log_softmax(dim=1), b.log_softmax(dim=1)  # [B, C] each
    mean = torch.logaddexp(p, q) - math.log(2)  # [B, C]
    return (p.exp() * (p - mean) + q.exp() * (q - mean)).sum(dim=1) / 2
