"""FixMatch: Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, NeurIPS 2020
(arXiv:2001.07685), eq. 3 and 4.

What a classifier says of a weak view of an unlabelled sample, where it is sure, is what it has to say of a strong one.

B samples of this rank, C classes.
"""

from torch import Tensor

from ssl_framework.arguments import Classes, Fraction, NonNegative, guarded
from ssl_framework.distributed import mean_of
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.partial import both_means, clean_and_shown, told_accuracy, told_or_guessed
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class FixMatch(Objective):
    """``CE(labelled, weak) + weight mean of [max p >= threshold] CE(strong, argmax p)``, p of the unlabelled samples'
    weak views.

    The mean is over all unlabelled samples, sure or not. Where a mixer adds mixtures of a view, they stand in its
    place: each learns the labels and sure guesses of its sources by their shares.

    Args:
        num_classes: C.
        threshold: of the probability of the likeliest class.
        weight: lambda_u.
        head: name of the student's classifier. Its first view is the weak one, its second the strong one.

    Logs both terms, the share of unlabelled samples with a sure guess, and the accuracy on labelled samples.
    """

    requires = frozenset({"label", "partial labels"})
    accepts = frozenset({"added mixtures"})

    def __init__(
        self, num_classes: Classes, threshold: Fraction, weight: NonNegative, head: str = "classifier"
    ) -> None:
        super().__init__()
        self.num_classes, self.threshold, self.weight, self.head = num_classes, threshold, weight, head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        clean, (weak, strong) = clean_and_shown(student, batch, self.head)
        assert batch.label is not None
        p, guess = clean[0].detach().softmax(dim=1).max(dim=1)  # [B] each
        sure = p >= self.threshold  # [B]
        one_hot = told_or_guessed(guess, clean[0].new_zeros(clean[0].shape))  # [B, C]
        targets = told_or_guessed(batch.label, one_hot * sure[:, None])  # [B, C]; 0 where nothing is sure
        labelled = both_means(weak.losses(targets), batch.label)[0]
        unlabelled = both_means(strong.losses(targets), batch.label)[1]
        logged = {"labelled": labelled.detach(), "unlabelled": unlabelled.detach()}
        logged["sure"] = mean_of(sure.to(p.dtype), batch.label < 0)
        logged["accuracy"] = told_accuracy(clean[0], batch.label)
        return {"loss": labelled + self.weight * unlabelled, **logged}
