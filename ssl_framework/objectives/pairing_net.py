"""PairingNet: Zhou et al., PairingNet: A Learning-based Pair-searching and -matching Network for Image Fragments, 2023
(arXiv:2312.08704): its two losses; the one of searching trains, the other is for loops of one's own.

Searching: a fragment has to find the fragments that it was torn from, all of them together, and whichever finds itself
in another pair of the batch is no negative. Matching: points of both contours that lie on each other get a high entry
in the similarity matrix, all others a low one.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class PairingNet(Objective):
    """``search(s, t) + weight * (search(s, s) + search(t, t)) / 2``; view 0 are sources, view 1 their partners.

    ``batch.targets`` are the numbers of both fragments of each pair, [B] int64 each.

    Args:
        temperature: tau.
        self_weight: of the terms among sources and among targets.
        head: name of the student's output that is compared.

    Logs the term between both sides.

    Raises:
        ValueError: nothing says which fragments the pairs are of.
    """

    def __init__(self, temperature: Positive, self_weight: NonNegative, head: str = "projector") -> None:
        super().__init__()
        self.temperature, self.self_weight = temperature, self_weight
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        if batch.targets is None or len(batch.targets) != 2:
            raise ValueError(
                "PairingNet has to know which fragments each pair is of, but the batch does not say: choose "
                "views=fragments with data=fragments, or call it with a Batch whose targets are both [B] numbers"
            )
        s, t = map(unit, outputs_of(student, self.head))  # [B, D] each
        source, target = batch.targets  # [B] each
        pairs = search(s, t, source, target, self.temperature)
        own = [search(z, z, number, number, self.temperature) for z, number in ((s, source), (t, target))]
        loss = pairs + self.self_weight * torch.stack(own).mean()
        return {"loss": loss, "pair_loss": pairs.detach()}


def search(s: Tensor, t: Tensor, source: Tensor, target: Tensor, temperature: float) -> Tensor:
    """``-log sum_{j in P(i)} softmax_j(s_i . t_j / tau)``, the mean over own pairs.

    Args:
        s, t: unit rows of this rank's pairs [B, D] each.
        source, target: int64 numbers of their fragments, [B] each; t_j is a true partner of s_i where any pair of the
            global batch is of these two fragments.
        temperature: tau.
    """
    sources, targets = gather(source), gather(target)  # [W * B] each
    of_source = (source[:, None] == sources).to(s.dtype)  # [B, W * B]
    of_target = (targets[:, None] == targets).to(s.dtype)  # [W * B, W * B]
    partner = of_source @ of_target > 0  # [B, W * B]
    logits = s @ gather_with_grad(t).T / temperature  # [B, W * B]
    true = logits.masked_fill(~partner, float("-inf")).logsumexp(dim=1)  # [B]: each has its own partner
    return (logits.logsumexp(dim=1) - true).mean()


def correspondence(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Which points of two contours lie on each other: the product of the softmax over rows and over columns.

    Args:
        a, b: features of the points, [B, N, D] and [B, M, D].
        temperature: tau.

    Returns:
        [B, N, M], each entry in (0, 1).
    """
    logits = torch.einsum("bnd,bmd->bnm", a, b) / temperature  # [B, N, M]
    return logits.softmax(dim=1) * logits.softmax(dim=2)


def matching(
    probability: Tensor, match: Tensor, alpha: float, gamma: float, factor: float, valid: Tensor | None = None
) -> Tensor:
    """The focal loss ``-alpha (1 - p)^gamma log p`` of matches and ``-(1 - alpha) p^gamma log(1 - p)`` of all other
    pairs of points, the mean over both, times a factor.

    Args:
        probability: p, [B, N, M] in [0, 1].
        match: bool, likewise: which pairs lie on each other.
        alpha, gamma, factor: the authors' code: 0.55, 8 and 400.
        valid: bool, likewise: which pairs are of points that are there; ``None``: all.
    """
    there = torch.ones_like(match) if valid is None else valid | match  # [B, N, M]
    hit = alpha * (1 - probability) ** gamma * probability.clamp(min=1e-9).log()  # [B, N, M]
    miss = (1 - alpha) * probability**gamma * (1 - probability).clamp(min=1e-9).log()  # [B, N, M]
    return -factor * torch.where(match, hit, miss)[there].mean()
