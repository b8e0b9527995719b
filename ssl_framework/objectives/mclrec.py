"""MCLRec: Qin et al., Meta-optimized Contrastive Learning for Sequential Recommendation, SIGIR 2023 (arXiv:2304.07763),
section 3.

The next item is learnt with labels. Beside it two random views of a sequence have to find each other, and so do their
learned augmentations, of two small networks that follow the contrast alone; a regulariser keeps pairs from getting
more alike than the hardest negative asks for.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Classes, Count, NonNegative, Positive, guarded
from ssl_framework.feature_mixers.base import in_batch
from ssl_framework.functional import as_constant
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.infonce import contrast
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MCLRec(Objective):
    """Cross-entropy of view 0, and contrasts of views 1 and 2 by dot products of the features.

    Args:
        num_classes: items.
        dim: D, of the features.
        hidden: widths inside the augmenters, which end in D.
        temperature: tau.
        weight: of the contrast of the two views (lambda).
        learned_weight: of the contrasts with learned augmentations in the gradient of the encoder (beta); in that of
            the augmenters it is 1.
        regulariser: weight of the regulariser among the latter (gamma).
        head: name of the student's classifier.
        features: name of the output that is compared.
    """

    requires = frozenset({"label"})
    num_views = (3, 3)

    def __init__(
        self,
        num_classes: Classes,
        dim: Count,
        hidden: Sequence[Count],
        temperature: Positive,
        weight: NonNegative,
        learned_weight: NonNegative,
        regulariser: NonNegative,
        head: str = "classifier",
        features: str = "pooled",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.temperature = temperature
        self.weight = weight
        self.learned_weight = learned_weight
        self.regulariser = regulariser
        self.head, self.features = head, features
        self.reads = (head, features)
        self.first, self.second = augmenter(dim, hidden), augmenter(dim, hidden)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        clean, one, two = student
        assert clean is not None and one is not None and two is not None and batch.label is not None
        z1, z2 = one[self.features], two[self.features]  # [B, D] each
        item = F.cross_entropy(clean[self.head], batch.label)
        views = nce(z1, z2, self.temperature)
        # The encoder's gradient is as if the augmenters were constants, theirs as if the features were.
        learned = self.learned(z1, z2, as_constant(self.first, z1), as_constant(self.second, z2))
        y1, y2 = z1.detach(), z2.detach()
        own = self.learned(y1, y2, self.first(y1), self.second(y2))
        loss = item + self.weight * views + self.learned_weight * learned + (own - own.detach())
        return {"loss": loss, "item_loss": item.detach(), "view_loss": views.detach(), "learned_loss": own.detach()}

    def learned(self, z1: Tensor, z2: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        """The contrasts of features [B, D] with their learned augmentations [B, D]."""
        pairs = ((z1, w2), (z2, w1), (w1, w2))
        contrasts = torch.stack([nce(a, b, self.temperature) for a, b in pairs]).sum()
        return contrasts + self.regulariser * torch.stack([too_alike(a, b) for a, b in pairs]).sum()


def augmenter(dim: int, hidden: Sequence[int]) -> nn.Sequential:
    """Layers with ReLU between them: [B, D] -> [B, D]."""
    widths = [dim, *hidden, dim]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent of dot products, without normalisation; two [B, D] -> scalar."""
    return contrast(in_batch(a, b), temperature, positive_in_denominator=True).loss.mean()


def too_alike(a: Tensor, b: Tensor) -> Tensor:
    """How far positives p lie above the hardest negative m, and how far negatives n below max(p, m), both as means.

    Args:
        a, b: [B, D], pairs of this rank.
    """
    rows = in_batch(a, b)
    positive = (rows.q * rows.k).sum(dim=1, keepdim=True)  # [2B, 1]
    similar = rows.q @ rows.negatives.T  # [2B, 2 * W * B]
    own = torch.zeros_like(similar, dtype=torch.bool).scatter(1, rows.left_out[0], True)  # type: ignore[arg-type]
    hardest = similar.masked_fill(own, float("-inf")).amax(dim=1, keepdim=True)  # [2B, 1]
    below = (torch.maximum(positive, hardest) - similar).masked_fill(own, 0.0).sum() / (~own).sum()
    return F.relu(positive - hardest).mean() + below
