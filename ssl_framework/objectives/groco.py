"""GroCo: Shvetsova et al., Learning by Sorting: Self-supervised Learning with Group Ordering Constraints, ICCV 2023
(arXiv:2301.02009), section 3.

A sample's other views and the hardest of the other samples are sorted by their similarity to it, through a sorting
network whose swaps are soft. Every positive should end behind every negative; the order within each group is free.
"""

import math

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Positive, Several, guarded
from ssl_framework.distributed import gather, gather_with_grad, rank
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class GroCo(Objective):
    """Group ordering constraints over any number of views.

    Args:
        steepness: of the soft swaps, beta.
        num_negatives: K, the most similar embeddings of other samples in the anchor's own view; at most the samples of
            the global batch but one.
        num_positive_views: so many first views are positives (the large crops); the others are anchors only. ``None``:
            all.
        stop_gradient: whether only the anchor is moved.
        head: name of the student's head whose output is compared.
    """

    num_views = (2, None)

    def __init__(
        self,
        steepness: Positive,
        num_negatives: Count,
        num_positive_views: Several | None,
        stop_gradient: bool,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.steepness = steepness
        self.num_negatives = num_negatives
        self.num_positive_views = num_positive_views
        self.stop_gradient = stop_gradient
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = [unit(x) for x in outputs_of(student, self.head)]  # V x [B, D]
        if len(z) < (self.num_positive_views or 0):
            raise ValueError(
                f"objective.num_positive_views is {self.num_positive_views}, "
                f"but the student encodes only {len(z)} views"
            )
        candidates = [x.detach() for x in z] if self.stop_gradient else z  # V x [B, D]
        losses, first = [], []
        for v, anchor in enumerate(z):
            others = [x for u, x in enumerate(candidates[: self.num_positive_views]) if u != v]
            positives = torch.stack([(anchor * x).sum(dim=1) for x in others], dim=1).sort(dim=1).values  # [B, P]
            negatives = self.hardest_negatives(anchor)  # [B, K]
            _, share = soft_sort(torch.cat([negatives, positives], dim=1), self.steepness)  # [B, K + P, K + P]
            losses.append(group_order_loss(share, self.num_negatives))
            first.append((positives[:, 0] > negatives[:, -1]).float().mean())
        # Share of anchors all of whose positives rank before every negative.
        return {"loss": torch.stack(losses).mean(), "proxy_accuracy": torch.stack(first).mean()}

    def hardest_negatives(self, anchor: Tensor) -> Tensor:
        """Similarities to the hardest samples of the same view, ascending: [B, D] -> [B, K]."""
        keys = gather(anchor) if self.stop_gradient else gather_with_grad(anchor)  # [W * B, D]
        if self.num_negatives >= len(keys):
            raise ValueError(
                f"objective.num_negatives is {self.num_negatives}, but a sample of the global batch has only "
                f"{len(keys) - 1} others: lower it or raise data.batch_size"
            )
        own = rank() * len(anchor) + torch.arange(len(anchor), device=anchor.device)  # [B]
        similarity = (anchor @ keys.T).scatter(1, own[:, None], float("-inf"))  # [B, W * B]
        return similarity.topk(self.num_negatives, dim=1).values.flip(dims=(1,))  # [B, K]


def soft_sort(x: Tensor, steepness: float) -> tuple[Tensor, Tensor]:
    """Odd-even sorting network with Cauchy swaps (Petersen et al., arXiv:2203.09630), n layers of neighbours.

    Written here, since their package, diffsort 0.2.0 of 2022, keeps its networks as dense float32 matrices that do not
    move with the module.

    Args:
        x: [B, n].
        steepness: of the probability that a pair is in order, ``arctan(steepness (right - left)) / pi + 1/2``.

    Returns:
        [B, n] softly ascending values, and [B, n, n] the share of each item (row) at each rank (column); rows and
        columns sum to one.
    """
    size = x.shape[1]
    items = torch.eye(size, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)  # [B, n, n]
    wires = torch.cat([x[:, None], items], dim=1)  # [B, 1 + n, n]: what each place holds, as a value and as shares
    for layer in range(size):
        start = layer % 2
        stop = size - (size - start) % 2
        left, right = wires[..., start:stop:2], wires[..., start + 1 : stop : 2]  # [B, 1 + n, pairs] each
        ordered = torch.arctan(steepness * (right[:, :1] - left[:, :1])) / math.pi + 0.5  # [B, 1, pairs]
        swapped = torch.stack(
            [ordered * left + (1 - ordered) * right, (1 - ordered) * left + ordered * right], dim=-1
        )  # [B, 1 + n, pairs, 2]
        wires = torch.cat([wires[..., :start], swapped.flatten(2), wires[..., stop:]], dim=2)  # [B, 1 + n, n]
    return wires[:, 0], wires[:, 1:]


def group_order_loss(share: Tensor, num_negatives: int) -> Tensor:
    """Mean over items of minus the logarithm of their share at the ranks of their own group: [B, n, n] -> scalar.

    The paper's two cross-entropies, of the share at the positives' ranks and of that at the negatives', are both this,
    since the two shares sum to one.

    Args:
        share: of each item at each rank; the negatives come first among items and ranks.
        num_negatives: size of the first group.
    """
    k = num_negatives
    own = torch.cat([share[:, :k, :k].sum(dim=2), share[:, k:, k:].sum(dim=2)], dim=1)  # [B, n]
    return -own.clamp(torch.finfo(own.dtype).tiny, 1).log().mean()  # rounding may leave (0, 1)
