"""MixMatch: Berthelot et al., A Holistic Approach to Semi-Supervised Learning, NeurIPS 2019 (arXiv:1905.02249).

The class of an unlabelled sample is guessed from several weak views, and the guess is sharpened; a classifier learns
labels and guesses, of mixtures where a mixer adds them. As in SSLH (Cances et al., arXiv:2102.08183), which took it to
sounds, both terms are cross-entropies.

B samples of this rank, C classes.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Classes, Fraction, NonNegative, Positive, guarded
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.partial import both_means, clean_and_shown, sharpened, told_accuracy, told_or_guessed
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MixMatch(Objective):
    """``CE(labelled) + weight CE(unlabelled)``, the second with ``p^(1/T) / sum p^(1/T)``, p the mean over clean views.

    A mixture counts as the sample that it is of, the target is that of its sources by their shares. A guess has no
    gradient.

    Args:
        num_classes: C.
        temperature: T.
        weight: lambda_u.
        ramp: share of the run in which the weight rises from 0, evenly; 0: it does not rise.
        head: name of the student's classifier.

    Logs both terms and the accuracy on labelled samples.
    """

    requires = frozenset({"label", "partial labels"})
    accepts = frozenset({"added mixtures"})
    num_views = (1, None)

    def __init__(
        self,
        num_classes: Classes,
        temperature: Positive,
        weight: NonNegative,
        ramp: Fraction,
        head: str = "classifier",
    ) -> None:
        super().__init__()
        self.num_classes, self.temperature, self.head = num_classes, temperature, head
        self.weight, self.ramp = weight, ramp
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        clean, shown = clean_and_shown(student, batch, self.head)
        assert batch.label is not None
        mean = torch.stack(clean).detach().softmax(dim=2).mean(dim=0)  # [B, C]
        targets = told_or_guessed(batch.label, sharpened(mean, self.temperature))  # [B, C]
        each = torch.stack([view.losses(targets) for view in shown]).mean(dim=0)  # [B]
        labelled, unlabelled = both_means(each, batch.label)
        logged = {"labelled": labelled.detach(), "unlabelled": unlabelled.detach()}
        logged["accuracy"] = told_accuracy(clean[0], batch.label)
        rise = min(1.0, clock.progress / self.ramp) if self.ramp else 1.0
        return {"loss": labelled + self.weight * rise * unlabelled, **logged}
