"""Metrix: Venkataramanan et al., It Takes Two to Tango: Mixup for Deep Metric Learning, ICLR 2022 (arXiv:2106.04990).

A loss over positives and negatives (see ``metric``), and the same loss over mixtures of a positive, or of the anchor
itself, with a negative: a mixture with the share l of the anchor's class weighs l among the positives and 1 - l among
the negatives.

A anchors, M examples and G = W B samples of all ranks, B samples of this rank, P sources of a mixture, D dimensions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.arguments import Fraction, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, own_rows, world_size
from ssl_framework.functional import unit
from ssl_framework.mixers.base import beta
from ssl_framework.objectives.base import Mixture, Objective, parted
from ssl_framework.objectives.metric import Anchors, MetricLoss
from ssl_framework.types import Batch, Clock, Outputs

LEVELS = {"embedding": frozenset(), "feature": frozenset({"heads"}), "input": frozenset({"added mixtures"})}
"""What is mixed, and what that takes."""


@guarded
class Metrix(Objective):
    """``clean + w mixed``, of any ``MetricLoss``.

    Args:
        loss: of similarities and weights.
        level: "embedding": for every anchor and each of its negatives one mixture of both embeddings; "feature": for
            every sample one mixture of pooled features with its most similar negative, which goes through the heads;
            "input": what the mixer has added to the views.
        weight: w, of the mixtures.
        alpha: of the Beta distribution of l; not read at level "input", where the mixer draws.
        anchor_share: how often the anchor itself is mixed, and not one of its positives; likewise.
        head: name of the student's head whose output is compared.

    Logs both terms.
    """

    requires = frozenset({"label"})  # and, of an instance, what its level takes
    num_views = (1, 1)

    def __init__(
        self,
        loss: MetricLoss,
        level: str,
        weight: NonNegative,
        alpha: Positive,
        anchor_share: Fraction,
        head: str = "projector",
    ) -> None:
        super().__init__()
        if level not in LEVELS:
            raise ValueError(f"objective.level is {level}: choose one of {', '.join(LEVELS)}")
        self.requires = self.requires | LEVELS[level]
        self.loss = loss
        self.num_classes = loss.num_classes
        self.level = level
        self.weight = weight
        self.alpha = alpha
        self.anchor_share = anchor_share
        self.head = head
        self.reads = (head, "pooled") if "heads" in self.requires else (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (own,), mixtures = parted(student, batch, self.head)  # [B, D]
        assert batch.label is not None
        z = gather_with_grad(unit(own))  # [G, D]
        everyone = Examples(z, gather(batch.label)[:, None], z.new_ones(len(z), 1))
        anchors = self.loss.anchors(unit(own), batch.label)
        similarity = anchors.z @ z.T  # [A, G]
        positive, negative = pairs(anchors, everyone.label[:, 0])  # [A, G] each
        counts = (each.to(z.dtype) for each in self.loss.mined(similarity, positive, negative))
        clean = self.loss(similarity, *counts)
        if self.level == "embedding":
            draws = self.draw(anchors, len(z), z, clock)
            mixed = self.loss(*embedding_mixtures(similarity, z @ z.T, positive, negative, draws))
        elif self.level == "input" and not mixtures:  # outside the mixer's schedule
            return {"loss": clean, "clean": clean}
        else:
            by_mixer = self.level == "input"
            made = from_mixer(mixtures, batch.label) if by_mixer else self.from_features(student, everyone, clock)
            mixed = self.loss(anchors.z @ made.z.T, *two_sided(anchors.label, made))
        return {"loss": clean + self.weight * mixed, "clean": clean, "mixed": mixed}

    def draw(self, anchors: Anchors, count: int, like: Tensor, clock: Clock) -> "Draws":
        """For every anchor and example [A, M], of the whole that all ranks draw alike."""
        generator = clock.generator(like.device)
        rows = len(anchors.z) * (1 if anchors.own is None else world_size())
        uniform = torch.rand(2, rows, count, generator=generator, device=like.device)  # [2, W * A, M]
        share = beta(self.alpha, self.alpha, (rows, count), like, generator).to(like.dtype)  # [W * A, M]
        whole = Draws(share, uniform[0] < self.anchor_share, uniform[1])
        return whole if anchors.own is None else Draws(*(own_rows(each) for each in whole))

    def from_features(self, student: list[Outputs | None], everyone: "Examples", clock: Clock) -> "Examples":
        """One mixture a sample: of it or a positive of its with its most similar negative, through the heads."""
        (view,) = [view for view in student if view is not None]
        assert self.through_heads is not None
        pooled = gather_with_grad(view["pooled"])  # [G, D']
        z, label = everyone.z.detach(), everyone.label[:, 0]  # [G, D], [G]
        itself = torch.arange(len(label), device=label.device)  # [G]
        positive, negative = pairs(Anchors(z, label, itself), label)  # [G, G] each
        draws = self.draw(Anchors(z, label, None), 1, z, clock)  # of [G, 1]
        alone = draws.itself | ~positive.any(dim=1, keepdim=True)  # [G, 1]
        chosen = torch.where(alone, itself[:, None], a_positive(positive, draws.which))[:, 0]  # [G]
        hardest = (z @ z.T).masked_fill(~negative, float("-inf")).argmax(dim=1)  # [G]
        source = own_rows(torch.stack([chosen, hardest], dim=1))  # [B, 2]
        share = own_rows(torch.cat([draws.share, 1 - draws.share], dim=1))  # [B, 2]
        features = (share[..., None].to(pooled.dtype) * pooled[source]).sum(dim=1)  # [B, D']
        made = unit(self.through_heads(features)[self.head])  # [B, D]
        return Examples(gather_with_grad(made), gather(label[source]), gather(share))


class Examples(NamedTuple):
    """What anchors are compared with, of all ranks."""

    z: Tensor  # [M, D] unit rows
    label: Tensor  # [M, P] int64
    share: Tensor  # [M, P] of the labels, rows sum to one


class Draws(NamedTuple):
    """What is mixed with each example, for each anchor."""

    share: Tensor  # [A, M] l, of what is not the negative
    itself: Tensor  # [A, M] bool: that is the anchor itself
    which: Tensor  # [A, M] in [0, 1): or which of its positives


def from_mixer(mixtures: list[Mixture], label: Tensor) -> Examples:
    """The mixtures of all ranks that the mixer has added; ``label`` [B] of this rank."""
    z = unit(torch.cat([mixture.z for mixture in mixtures]))  # [N, D]
    classes = torch.cat([label[mixture.mix.source] for mixture in mixtures])  # [N, P]
    share = torch.cat([mixture.mix.share for mixture in mixtures])  # [N, P]
    return Examples(gather_with_grad(z), gather(classes), gather(share))


def pairs(anchors: Anchors, label: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the examples of classes [M] are positives of each anchor, itself left out, and which are negatives:
    [A, M] bool each."""
    same = anchors.label[:, None] == label  # [A, M]
    return same if anchors.own is None else same.scatter(1, anchors.own[:, None], False), ~same


def a_positive(positive: Tensor, which: Tensor) -> Tensor:
    """A positive of each anchor, by numbers [A, S] in [0, 1): of [A, M] bool -> [A, S] int64 positions.

    Of an anchor without any, an example that is none.
    """
    order = positive.long().argsort(dim=1, descending=True, stable=True)  # [A, M]: positives first
    count = positive.sum(dim=1, keepdim=True)  # [A, 1]
    number = torch.minimum((which * count).long(), (count - 1).clamp(min=0))  # [A, S]
    return order.gather(1, number)


def embedding_mixtures(
    similarity: Tensor, between: Tensor, positive: Tensor, negative: Tensor, draws: Draws
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of every anchor to its mixtures, one for each of its negatives, and their weights.

    With p a positive or the anchor itself and n the negative the mixture is the unit vector along ``l p + (1 - l) n``.
    Inner products are linear, so no mixture is ever made.

    Args:
        similarity: [A, M] of anchors and examples; between: [M, M] of examples.
        positive, negative: [A, M] bool. An anchor without a positive gets no mixtures.
        draws: what is mixed.

    Returns:
        [A, M] similarities, [A, M] weights among the positives and [A, M] among the negatives.
    """
    p = a_positive(positive, draws.which)  # [A, M]
    n = torch.arange(len(between), device=p.device)  # [M]
    to_p = torch.where(draws.itself, torch.ones_like(similarity), similarity.gather(1, p))  # [A, M]: <a, p>
    p_to_n = torch.where(draws.itself, similarity, between[p, n])  # [A, M]: <p, n>
    rest = 1 - draws.share  # [A, M]
    length = draws.share.square() + rest.square() + 2 * draws.share * rest * p_to_n  # [A, M] squared
    mixed = (draws.share * to_p + rest * similarity) * length.clamp(min=1e-6).rsqrt()  # [A, M]; opposites cancel
    there = (negative & positive.any(dim=1, keepdim=True)).to(mixed.dtype)  # [A, M]
    return mixed, there * draws.share, there * rest


def two_sided(label: Tensor, made: Examples) -> tuple[Tensor, Tensor]:
    """Weights of mixtures among the positives and among the negatives of anchors of classes [A]: [A, M] each.

    A mixture counts for an anchor if it shows both something of the anchor's class and something else.
    """
    own = (made.label == label[:, None, None]).to(made.share.dtype)  # [A, M, P]
    positive, negative = (own * made.share).sum(dim=2), ((1 - own) * made.share).sum(dim=2)  # [A, M] each
    both = (positive > 0) & (negative > 0)  # [A, M]
    return positive * both, negative * both
