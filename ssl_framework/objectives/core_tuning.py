"""Core-tuning: Zhang et al., Unleashing the Power of Contrastive Self-Supervised Visual Models via Contrast-Regularized
Fine-Tuning, NeurIPS 2021 (arXiv:2102.06605), section 4.

Fine-tuning of a pretrained backbone: hard positives and hard negatives are mixed from the features of the batch, a
focal SupCon loss compares them with the clean ones, and the classifier learns from all of them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Classes, Fraction, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, own_rows, rank
from ssl_framework.functional import by_tiles, full_precision, unit
from ssl_framework.mixers.base import beta
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CoreTuning(Objective):
    """``CE + eta L_focal`` over the clean features and two mixtures a sample, with mixed labels.

    Args:
        temperature: tau of the contrastive loss.
        weight: eta, of the contrastive loss.
        alpha: of the Beta distribution of the shares.
        least_share: of the partner in a hard negative, at least so much; in [0, 1].
        num_classes: of the classifier.
        projector, classifier: names of the student's heads, both of which read the pooled features.

    Logs both losses and the accuracy of the classifier on the clean samples.
    """

    requires = frozenset({"label", "heads"})
    num_views = (1, 1)

    def __init__(
        self,
        temperature: Positive,
        weight: NonNegative,
        alpha: Positive,
        least_share: Fraction,
        num_classes: Classes,
        projector: str = "projector",
        classifier: str = "classifier",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = weight
        self.alpha = alpha
        self.least_share = least_share
        self.num_classes = num_classes
        self.projector = projector
        self.classifier = classifier
        self.reads = ("pooled", projector, classifier)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (clean,) = [view for view in student if view is not None]
        assert batch.label is not None and self.num_classes is not None and self.through_heads is not None
        features, classes = gather_with_grad(clean["pooled"]), gather(batch.label)  # [W * B, D], [W * B]
        pairs = self.hard_pairs(unit(features.detach()), classes, clock)  # of 2B mixtures
        share = pairs.share.to(features.dtype)  # [2B, 2]
        made = self.through_heads((share[..., None] * features[pairs.source]).sum(dim=1))  # of [2B, D]
        logits = torch.cat([clean[self.classifier], made[self.classifier]])  # [3B, num_classes]
        every = torch.arange(self.num_classes, device=classes.device)  # [num_classes]; F.one_hot reads numbers back
        one_hot = (classes[:, None] == every).to(logits.dtype)  # [W * B, num_classes]
        mixed = (share[..., None] * one_hot[pairs.source]).sum(dim=1)  # [2B, num_classes]
        classification = F.cross_entropy(logits, torch.cat([own_rows(one_hot), mixed]))
        z = unit(torch.cat([clean[self.projector], made[self.projector]]))  # [3B, D]
        contrastive = focal_supcon(z, torch.cat([batch.label, label_of(pairs, classes)]), self.temperature)
        right = logits[: len(batch.label)].argmax(dim=1) == batch.label  # [B]
        return {
            "loss": classification + self.weight * contrastive,
            "classification": classification,
            "contrastive": contrastive,
            "accuracy": right.float().mean(),
        }

    def hard_pairs(self, z: Tensor, label: Tensor, clock: Clock) -> "Pairs":
        """What this rank mixes: hard negatives, then hard positives.

        Args:
            z: [W * B, D] unit features of all ranks; label: [W * B] int64 their classes.
            clock: for what all ranks draw alike.

        Returns:
            2B pairs.
        """
        generator, count = clock.generator(z.device), len(label)
        order = torch.randperm(count, generator=generator, device=z.device)  # [W * B]
        shares = beta(self.alpha, self.alpha, (2, count), label, generator)  # [2, W * B]
        towards = shares[0].clamp(min=self.least_share)  # [W * B]
        itself = torch.arange(count, device=z.device)  # [W * B]
        negative = Pairs(torch.stack([itself, order], dim=1), torch.stack([1 - towards, towards], dim=1))
        positive = hard_positives(z, label, shares[1])
        source, share = ([own_rows(negative[part]), own_rows(positive[part])] for part in range(2))  # 2 x [B, 2] each
        return Pairs(torch.cat(source), torch.cat(share))


class Pairs(NamedTuple):
    """Mixtures of two samples of the global batch."""

    source: Tensor  # [N, 2] int64 positions in the global batch
    share: Tensor  # [N, 2] float32, rows sum to one


def hard_positives(z: Tensor, label: Tensor, share: Tensor) -> Pairs:
    """``l`` of each sample's least similar positive and ``1 - l`` of its most similar negative.

    A sample that is alone in its class stands for its positive itself; where all are of one class there is no negative
    and the share of the positive is one.

    Args:
        z: [N, D] unit rows; label: [N] int64; share: [N] l.
    """
    similarity = z @ z.T  # [N, N]
    same = label[:, None] == label  # [N, N]
    positive = similarity.masked_fill(~same, float("inf")).argmin(dim=1)  # [N]; itself, at 1, if there is no other
    negative = similarity.masked_fill(same, float("-inf")).argmax(dim=1)  # [N]
    share = torch.where(same.all(dim=1), torch.ones_like(share), share)  # [N]
    return Pairs(torch.stack([positive, negative], dim=1), torch.stack([share, 1 - share], dim=1))


def label_of(pairs: Pairs, label: Tensor) -> Tensor:
    """A number for the label of each mixture of this rank: equal numbers are equal labels.

    A mixture within one class has that class. Shares are drawn from a continuum, so that any other mixture shares its
    label with nobody: it gets a negative number of its own.

    Args:
        pairs: N mixtures of this rank; label: [W * B] int64 classes of the global batch.

    Returns:
        [N] int64
    """
    count, classes = len(pairs.source), label[pairs.source]  # [N, 2]
    pure = (classes[:, 0] == classes[:, 1]) | (pairs.share.amax(dim=1) == 1)  # [N]
    main = classes.gather(1, pairs.share.argmax(dim=1, keepdim=True))[:, 0]  # [N]
    number = rank() * count + torch.arange(count, device=label.device)  # [N]
    return torch.where(pure, main, -1 - number)


def focal_supcon(z: Tensor, label: Tensor, temperature: float) -> Tensor:
    """SupCon whose terms weigh ``1 - p``: ``L_i = -1/n sum over positives j of (1 - p_ij) log p_ij``.

    ``p_i`` is the softmax over all rows but i. As in the authors' code the divisor is n, all rows of the global batch,
    and the gradient passes through the weight.

    Args:
        z: [N, D] unit rows of this rank.
        label: [N] int64.
        temperature: tau.

    Returns:
        Scalar, the sum of L_i over the number of anchors that have a positive; 0 if there is none on any rank.
    """
    z = full_precision(z)
    keys, classes = gather_with_grad(z), gather(label)  # [W * N, D], [W * N]
    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [N]

    def of_anchors(keys: Tensor, z: Tensor, label: Tensor, own: Tensor) -> tuple[Tensor, ...]:
        logits = (z @ keys.T / temperature).scatter(1, own[:, None], float("-inf"))  # [R, W * N]
        positive = (label[:, None] == classes).scatter(1, own[:, None], False)  # [R, W * N]
        log_p = logits - logits.logsumexp(dim=1, keepdim=True)  # [R, W * N]
        log_p = log_p.masked_fill(~positive, 0.0)  # 1 - p is then 0: no term, and no infinity in the gradient
        return -((1 - log_p.exp()) * log_p).sum(dim=1) / len(keys), positive.any(dim=1).to(z.dtype)  # [R] each

    per_anchor, has_positive = by_tiles(of_anchors, keys, z, label, own)  # [N] each
    # The mean share of all ranks, as in SupCon: W ranks equal one also where one has more such anchors.
    return per_anchor.mean() / gather(has_positive).mean().clamp(min=1 / len(keys))
