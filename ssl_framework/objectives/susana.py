"""Mendez-Ruiz et al., SuSana Distancia is all you need: Enforcing class separability in metric learning via two novel
distance-based loss functions for few-shot image classification (arXiv:2305.09062).

    ProtoTriplet  a query lies nearer to the prototype of its class than to the nearest other one, by a margin
    ICNN          the k nearest neighbours of a sample are of its class and near, those of other classes far

B samples of this rank, W ranks, D dimensions, N samples of all views and ranks, C classes in the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, guarded
from ssl_framework.distributed import gather, gather_with_grad
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

FLOOR = 1e-6  # what the authors' code adds where it takes roots of distances and divides


@guarded
class ProtoTriplet(Objective):
    """``relu(d(query, own prototype) - min d(query, other prototype) + margin)``, the mean over queries.

    The first view has the queries, the second the support, whose class means over all ranks are the prototypes.

    Args:
        margin: in units of the distance.
        head: name of the student's output that is compared, not normalised.
    """

    requires = frozenset({"label"})

    def __init__(self, margin: NonNegative, head: str = "projector") -> None:
        super().__init__()
        self.margin, self.head = margin, head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        query, support = outputs_of(student, self.head)  # [B, D] each
        assert batch.label is not None
        support = gather_with_grad(support)  # [W * B, D]
        per_query, right = proto_triplet(query, batch.label, support, gather(batch.label), self.margin)
        return {"loss": per_query.mean(), "accuracy": right.float().mean()}


def proto_triplet(
    query: Tensor, label: Tensor, support: Tensor, support_label: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """The loss of every query, and whether the nearest prototype is that of its class.

    Args:
        query: [B, D], of the classes [B] int64, each of which the support has.
        support: [M, D], of the classes [M] int64.
        margin: 0 or more.

    Returns:
        [B] losses, 0 where the support has no other class; [B] bool.
    """
    classes, own = support_label.unique(return_inverse=True)  # [C], [M]
    share = F.one_hot(own, len(classes)).to(full_precision(support).dtype)  # [M, C]
    prototypes = (share / share.sum(dim=0)).T @ full_precision(support)  # [C, D]
    away = distances(full_precision(query), prototypes)  # [B, C]
    mine = label[:, None] == classes  # [B, C]
    near, far = away[mine], away.masked_fill(mine, float("inf")).amin(dim=1)  # [B] each
    return (near - far + margin).relu(), near < far


@guarded
class ICNN(Objective):
    """``-log`` of the inter- and intra-class nearest neighbours' score of the batch of all ranks, every view a sample.

    Every rank computes the score of the whole batch, so that it is that of one process.

    Args:
        num_neighbours: k; of a smaller batch all others.
        head: name of the student's output that is compared, not normalised.
    """

    requires = frozenset({"label"})
    num_views = (1, None)

    def __init__(self, num_neighbours: Count, head: str = "projector") -> None:
        super().__init__()
        self.num_neighbours, self.head = num_neighbours, head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        views = outputs_of(student, self.head)  # V x [B, D]
        assert batch.label is not None
        z = gather_with_grad(torch.cat(views))  # [N, D]
        score, same = icnn_score(z, gather(batch.label.repeat(len(views))), self.num_neighbours)
        return {"loss": -score.clamp(min=FLOOR).log(), "score": score.detach(), "same_class": same}


def icnn_score(z: Tensor, label: Tensor, num_neighbours: int) -> tuple[Tensor, Tensor]:
    """The score in [0, 1], the higher the better, with its roots p = r = 2.

    The k distances of a sample are scaled to [0, 1]. lambda is the sum of those to other classes and of one less those
    to its own, over the largest such sum; gamma the share of its own class. The score is the mean of their roots.

    Args:
        z: [N, D] of the classes [N] int64, N at least 2.
        num_neighbours: k; at most N - 1.

    Returns:
        Scalar; and the mean share of neighbours of a sample's own class, without gradient.
    """
    z = full_precision(z)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)  # [N, N]
    away = distances(z, z).masked_fill(itself, float("inf"))  # [N, N]
    near, where = away.topk(min(num_neighbours, len(z) - 1), largest=False)  # [N, k] each
    same = (label[where] == label[:, None]).to(z.dtype)  # [N, k]
    low, high = near.amin(dim=1, keepdim=True), near.amax(dim=1, keepdim=True)  # [N, 1] each
    scaled = (near - low) / (high - low + FLOOR)  # [N, k]
    terms = (same * (1 - scaled) + (1 - same) * scaled).sum(dim=1)  # [N]
    pulled = (terms / (terms.max() + FLOOR)).clamp(min=FLOOR**3).sqrt()  # [N] lambda; a root of 0 has no gradient
    share = same.mean(dim=1)  # [N] gamma
    return (pulled + share.sqrt()).mean() / 2, share.mean()


def distances(a: Tensor, b: Tensor) -> Tensor:
    """``sqrt(|a_i - b_j|^2 + 1e-6)``: [N, D], [M, D] -> [N, M]."""
    return ((a[:, None] - b[None]).square().sum(dim=2) + FLOOR).sqrt()  # [N, M]
