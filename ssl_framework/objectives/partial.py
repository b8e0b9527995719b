"""What objectives share that read some labels: -1 stands for a class that is not told.

B samples of this rank, W ranks, N rows of this rank, C classes, D dimensions.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.distributed import gather, gather_with_grad, mean_of, rank
from ssl_framework.functional import SameClass, class_sums, nce
from ssl_framework.objectives.base import parted
from ssl_framework.types import Batch, Mix, Outputs


def labelled_supcon(z: Tensor, label: Tensor, temperature: float) -> Tensor:
    """SupCon (arXiv:2004.11362, eq. 2) among the labelled rows of all ranks, the mean over those with a positive.

    Args:
        z: [N, D] unit rows of this rank, all views.
        label: [N] int64, -1: neither anchor nor key.
    """
    keys, classes = gather_with_grad(z), gather(label)  # [W * N, D], [W * N]
    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [N]
    itself = own[:, None] == torch.arange(len(keys), device=z.device)  # [N, W * N]
    count = class_sums(torch.empty(len(keys), 0, device=z.device), classes, label)[1] - 1  # [N] positives
    counts = (label >= 0) & (count > 0)  # [N]
    exclude = (itself | (classes < 0)) & counts[:, None]  # [N, W * N]; a row that does not count keeps its columns
    per_anchor = nce(z, keys, SameClass(label, classes, own), temperature, exclude=exclude)  # [N]
    return mean_of(per_anchor, counts)


def told_or_guessed(label: Tensor, guess: Tensor) -> Tensor:
    """What each sample is to be recognised as: [B] int64 and [B, C] -> [B, C], its class where that is told."""
    classes = (label[:, None] == torch.arange(guess.shape[1], device=label.device)).to(guess.dtype)  # [B, C]
    return torch.where(label[:, None] >= 0, classes, guess)


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """Probabilities [B, C] with less entropy: ``p^(1 / T)``, rows of sum one (MixMatch, arXiv:1905.02249, eq. 7)."""
    return (p.log() / temperature).softmax(dim=1)


class Shown(NamedTuple):
    """What is to be recognised in the place of one view."""

    logits: Tensor  # [B, C]
    mix: Mix | None  # of the mixture that stands there; None: the view itself

    def blended(self, targets: Tensor) -> Tensor:
        """Of the samples' targets [B, C] those of what is shown, by the shares of its sources."""
        if self.mix is None:
            return targets
        return (self.mix.share.to(targets.dtype)[..., None] * targets[self.mix.source]).sum(dim=1)  # [B, C]

    def losses(self, targets: Tensor) -> Tensor:
        """Cross-entropy [B] with the samples' targets [B, C]; rows of zeros ask for nothing."""
        return F.cross_entropy(self.logits, self.blended(targets), reduction="none")


def clean_and_shown(student: list[Outputs | None], batch: Batch, head: str) -> tuple[list[Tensor], list[Shown]]:
    """Class scores of all views, V x [B, C]; and of the mixture of each, if a mixer has added one, or of the view once
    more."""
    clean, mixtures = parted(student, batch, head)
    made = {mixture.mix.of: Shown(*mixture) for mixture in reversed(mixtures)}  # the first one of each view
    return clean, [made.get(v, Shown(z, None)) for v, z in enumerate(clean)]


def both_means(each: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the labelled samples' [B], and of the others', over all ranks; 0 where there is none."""
    return mean_of(each, label >= 0), mean_of(each, label < 0)


def told_accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Share of right answers [B, C] among the labelled samples."""
    right = (logits.detach().argmax(dim=1) == label).to(logits.dtype)  # [B]
    return mean_of(right, label >= 0)
