"""PairingNet: Zhou et al., PairingNet: A Learning-based Pair-searching and -matching Network for Image Fragments, 2023
(arXiv:2312.08704): the losses of its two networks, which may train one encoder together or each alone.

Searching: a fragment has to find the fragments that it was torn from, all of them together, and whichever finds itself
in another pair of the batch is no negative. Matching: see ``point_matching``.

B pairs of this rank, W ranks, T points of a contour, D features.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.point_matching import PointMatching
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class PairingNet(Objective):
    """A weighted sum of the search, ``search(s, t) + self_weight * (search(s, s) + search(t, t)) / 2``, and of the
    matching of points; view 0 are sources, view 1 their partners.

    ``batch.targets`` are the numbers of both fragments of each pair, [B] int64 each, and, for the second term, which
    point of view 1 lies on each point of view 0, [B, T] int64, -1: none.

    Args:
        temperature: tau.
        self_weight: of the terms among sources and among targets.
        head: name of the student's output that the first term compares.
        search, matching: weights of both terms. At 0 the first one is logged all the same; the second is left out.
        points: makes the second term.

    Logs the term between both sides, and the second one.

    Raises:
        ValueError: nothing says which fragments the pairs are of, or which points lie on each other; or there is no
            term.
    """

    requires = frozenset({"fragments"})

    def __init__(
        self,
        temperature: Positive,
        self_weight: NonNegative,
        head: str = "projector",
        search: NonNegative = 1.0,
        matching: NonNegative = 0.0,
        points: PointMatching | None = None,
    ) -> None:
        super().__init__()
        if not search and not matching:
            raise ValueError("objective.search and objective.matching are both 0: give one of them a weight")
        if matching and points is None:
            raise ValueError(
                f"objective.matching is {matching}, but objective.points is null: say there how points are matched, or "
                "set objective.matching=0"
            )
        self.temperature, self.self_weight = temperature, self_weight
        self.head, self.search, self.matching = head, search, matching
        self.points = points if matching else None
        self.token_reads = () if self.points is None else (self.points.features,)
        self.reads = (head, *self.token_reads)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        if batch.targets is None or len(batch.targets) < 2:
            raise ValueError(
                "PairingNet has to know which fragments each pair is of, but the batch does not say: choose "
                "views=fragments with data=fragments, or call it with a Batch whose targets are both [B] numbers"
            )
        s, t = map(unit, outputs_of(student, self.head))  # [B, D] each
        source, target = batch.targets[:2]  # [B] each
        pairs = search(s, t, source, target, self.temperature)
        own = [search(z, z, number, number, self.temperature) for z, number in ((s, source), (t, target))]
        loss = self.search * (pairs + self.self_weight * torch.stack(own).mean())
        if self.points is None:
            return {"loss": loss, "pair_loss": pairs.detach()}
        if len(batch.targets) < 3:
            raise ValueError(
                f"objective.matching is {self.matching}, but the batch does not say which points lie on each other: "
                "choose views=fragments with data=fragments, or set objective.matching=0"
            )
        a, b = outputs_of(student, self.points.features)  # [B, T, D] each
        found = self.points(a, b, batch.targets[2])
        logged = {"pair_loss": pairs.detach(), "match_loss": found.detach()}
        return {"loss": loss + self.matching * found, **logged}


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
