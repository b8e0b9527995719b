"""ReMixMatch: Berthelot et al., ReMixMatch: Semi-Supervised Learning with Distribution Alignment and Augmentation
Anchoring, ICLR 2020 (arXiv:1911.09785).

MixMatch whose guess is of one weak view, aligned with the classes' shares among the labelled samples, and is learnt
from strong views; what was done to one more view is to be told, rotations there, flips for sounds in SSLH.

B samples of this rank, W ranks, C classes, H batches of history.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Classes, Count, NonNegative, Positive, guarded
from ssl_framework.distributed import gather
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.partial import both_means, clean_and_shown, sharpened, told_accuracy, told_or_guessed
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class ReMixMatch(Objective):
    """``CE(labelled) + weight CE(unlabelled) + anchor_weight CE(first strong view) + turn_weight CE(change)``.

    The first view is weak, those behind it strong, and the last one was changed in a way that the views know
    (``views.pretext``), if ``turn_weight`` is not 0. Mixtures count as in MixMatch; the third term is of the unlabelled
    samples' clean view.

    Args:
        num_classes: C.
        temperature: of the sharpening, T.
        weight: lambda_u.
        anchor_weight: of the strong view that is not mixed, lambda_u1.
        turn_weight: of the change, lambda_r.
        history: H, batches over which the guesses' mean is taken.
        head: name of the student's classifier.
        turn_head: of the scores of the changes.
    """

    requires = frozenset({"label", "partial labels"})
    accepts = frozenset({"added mixtures"})
    num_views = (2, None)
    means: Tensor  # [H, C] float32 mean guess of each of the last batches
    batches: Tensor  # [] int64 how many there have been
    counts: Tensor  # [C] float32 labelled samples of each class so far, and one of each before the first

    def __init__(
        self,
        num_classes: Classes,
        temperature: Positive,
        weight: NonNegative,
        anchor_weight: NonNegative,
        turn_weight: NonNegative,
        history: Count,
        head: str = "classifier",
        turn_head: str = "pretext",
    ) -> None:
        super().__init__()
        self.num_classes, self.temperature, self.weight = num_classes, temperature, weight
        self.anchor_weight, self.turn_weight, self.head, self.turn_head = anchor_weight, turn_weight, head, turn_head
        self.reads = (head, turn_head) if turn_weight else (head,)
        self.num_views = (3 if turn_weight else 2, None)
        self.requires = self.requires | ({"answer"} if turn_weight else set())
        self.register_buffer("means", torch.zeros(history, num_classes))  # [H, C]
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("counts", torch.ones(num_classes))  # [C]

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: nothing says how the last view was changed."""
        clean, shown = clean_and_shown(student, batch, self.head)
        assert batch.label is not None
        turn = clean[0].new_zeros(())
        if self.turn_weight:
            turn = self.change(student[len(clean) - 1], batch)
            clean, shown = clean[:-1], shown[:-1]
        p = clean[0].detach().softmax(dim=1)  # [B, C]
        guess = sharpened(aligned(p, self.counts, self.means.sum(dim=0)), self.temperature)  # [B, C]
        self.remember(p, batch.label)
        targets = told_or_guessed(batch.label, guess)  # [B, C]
        labelled, unlabelled = both_means(torch.stack([v.losses(targets) for v in shown]).mean(dim=0), batch.label)
        anchor = both_means(F.cross_entropy(clean[1], targets, reduction="none"), batch.label)[1]
        terms = {"labelled": labelled, "unlabelled": unlabelled, "anchor": anchor, "turn": turn}
        loss = labelled + self.weight * unlabelled + self.anchor_weight * anchor + self.turn_weight * turn
        logged = {name: term.detach() for name, term in terms.items()}
        return {"loss": loss, **logged, "accuracy": told_accuracy(clean[0], batch.label)}

    def change(self, last: Outputs | None, batch: Batch) -> Tensor:
        """Cross-entropy of what was done to the last of the clean views."""
        if not batch.targets or last is None:
            raise ValueError(
                "ReMixMatch asks how the last view was changed, but nothing has changed it: choose views=remixmatch or "
                "audio_remixmatch, or set objective.turn_weight=0 and head=classifier"
            )
        return F.cross_entropy(last[self.turn_head], batch.targets[-1])

    def remember(self, p: Tensor, label: Tensor) -> None:
        """Notes the unlabelled samples' mean guess, of all ranks and in the place of the oldest, and the labels."""
        label, p = gather(label), gather(p)  # [W * B], [W * B, C]
        hidden = (label < 0).to(p.dtype)  # [W * B]
        mean = (hidden @ p / hidden.sum().clamp(min=1)).to(self.means.dtype)  # [C]
        row = (torch.arange(len(self.means), device=p.device) == self.batches % len(self.means))[:, None]  # [H, 1]
        self.means = torch.where(row, mean, self.means)  # [H, C]
        self.counts = self.counts + (label[:, None] == torch.arange(p.shape[1], device=p.device)).sum(dim=0)  # [C]
        self.batches = self.batches + 1


def aligned(p: Tensor, wanted: Tensor, found: Tensor) -> Tensor:
    """Guesses as if classes were as frequent as they are to be: ``p wanted / found``, rows of sum one (section 3.1).

    Args:
        p: [B, C] guesses.
        wanted, found: [C] shares of the classes, up to a factor; ``found`` of zeros leaves the guesses as they are.
    """
    ratio = torch.where(found.sum() > 0, wanted / found.clamp(min=1e-6), torch.ones_like(wanted)).to(p.dtype)  # [C]
    scaled = p * ratio  # [B, C]
    return scaled / scaled.sum(dim=1, keepdim=True).clamp(min=1e-12)
