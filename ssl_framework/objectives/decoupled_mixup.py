"""Decoupled Mixup (DM): Liu et al., Harnessing Hard Mixed Samples with Decoupled Regularizer, NeurIPS 2023
(arXiv:2203.10761).

In the softmax of a mixture its two classes compete. DM adds a cross-entropy for each of them in which the other does
not take part, so that a mixture that is hard to tell apart is still recognised as both.

B samples of this rank, C classes, a and b the classes of a mixture.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Classes, NonNegative, guarded
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.supervised import accuracy, clean_and_mixed, cross_entropy
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class DecoupledMixup(Objective):
    """Mean over the mixtures of their decoupled cross-entropy, and over clean views, where there are any, of the usual.

    Args:
        num_classes: C, of the training set.
        eta: weight of the decoupled terms, at least 0.
        head: name of the student's classifier.
    """

    requires = frozenset({"label", "mixer"})
    accepts = frozenset({"added mixtures"})
    num_views = (1, None)

    def __init__(self, num_classes: Classes, eta: NonNegative, head: str = "classifier") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.eta = eta
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        clean, mixed = clean_and_mixed(student, batch, self.head)
        assert batch.label is not None
        alone = torch.ones_like(batch.label)  # [B] share of the only class
        losses = [decoupled_cross_entropy(z, batch.label, batch.label, alone, self.eta).mean() for z in clean]
        for logits, mix in mixed:
            if mix.source.shape[1] != 2:
                raise ValueError(
                    f"DecoupledMixup tells two classes apart, but each mixture has {mix.source.shape[1]} sources: "
                    "choose a mixer with one partner a sample, such as mixer=mixup"
                )
            label = batch.label[mix.source]  # [B, 2]
            each = decoupled_cross_entropy(logits, label[:, 0], label[:, 1], mix.share[:, 0], self.eta)  # [B]
            losses.append(each.mean())
        return {"loss": torch.stack(losses).mean(), **accuracy(clean, batch.label)}


def decoupled_cross_entropy(logits: Tensor, a: Tensor, b: Tensor, share: Tensor, eta: float) -> Tensor:
    """``CE(l a + (1 - l) b) + eta l CE_without_b(a) + eta (1 - l) CE_without_a(b)``.

    A sample that shows one class only (a = b, or l of 0 or 1) has no other to leave out, and just the first term.

    Args:
        logits: [B, C] class scores.
        a, b: [B] int64 classes.
        share: [B] in [0, 1], l: the share of a.
        eta: weight of the decoupled terms.

    Returns:
        [B].
    """
    share = share.to(logits.dtype)
    classes = torch.arange(logits.shape[1], device=logits.device)  # [C]
    one_hot = torch.stack([a, b])[..., None] == classes  # [2, B, C]
    both = share[:, None] * one_hot[0] + (1 - share)[:, None] * one_hot[1]  # [B, C]
    left_out = one_hot.flip(0)  # [2, B, C] the other class
    own = (logits * one_hot).sum(dim=2)  # [2, B]
    decoupled = logits.masked_fill(left_out, float("-inf")).logsumexp(dim=2) - own  # [2, B]
    weight = eta * torch.stack([share, 1 - share])  # [2, B]
    two = (a != b) & (share > 0) & (share < 1)  # [B]
    return cross_entropy(logits, both) + torch.where(two, weight * decoupled, 0).sum(dim=0)
