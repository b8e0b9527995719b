"""VICRegL: Bardes et al., VICRegL: Self-Supervised Learning of Local Visual Features, NeurIPS 2022 (arXiv:2210.01571),
eq. 1 to 6, with the criterion of VICReg (arXiv:2105.04906, eq. 1 to 6).

Views are alike as wholes, and position by position: each is matched with the most similar position of the other view,
and with the nearest in the image; the best matches of an image are kept. Variance and covariance prevent collapse.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, NonNegative, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import positions
from ssl_framework.objectives.base import Objective, geometry_of, outputs_of
from ssl_framework.types import Batch, Clock, Outputs
from ssl_framework.views.places import centres


@guarded
class VICRegL(Objective):
    """Invariance, variance and covariance of views and of matched positions, with any number of views.

    Args:
        invariance, variance, covariance: weights lambda, mu and nu; nu of the mean over both sides, half of VICReg's.
        alpha: share of the loss of whole views; the rest is that of positions.
        num_matches: matches kept of an image, from the first view of a pair and from the second; at most all.
        head: name of the head that gives a vector a view.
        dense_head: name of the one that gives a vector a position.

    Logs the three terms of whole views and the loss of positions.
    """

    requires = frozenset({"geometry", "maps"})
    against_collapse = ("variance",)
    num_views = (2, None)

    def __init__(
        self,
        invariance: NonNegative,
        variance: NonNegative,
        covariance: NonNegative,
        alpha: Fraction,
        num_matches: Annotated[Sequence[Count], Len(2, 2)],
        head: str = "projector",
        dense_head: str = "dense_projector",
    ) -> None:
        super().__init__()
        self.weights = invariance, variance, covariance
        self.alpha = alpha
        self.num_matches = list(num_matches)
        self.head = head
        self.dense_head = dense_head
        self.reads = (head, dense_head)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z, maps = outputs_of(student, self.head), outputs_of(student, self.dense_head)  # V x [B, D], V x [B, D, h, w]
        cuts = geometry_of(student, batch)
        places = [centres(g, *x.shape[2:]) for g, x in zip(cuts, maps, strict=True)]  # V x [B, P, 2]
        local = [positions(x) for x in maps]  # V x [B, P, D]
        pairs = list(permutations(range(len(z)), 2))
        invariance = torch.stack([(z[a] - z[b]).square().mean() for a, b in pairs]).mean()
        spread = [gather_with_grad(x) for x in z]  # V x [W * B, D]
        variance, covariance = (torch.stack([term(x) for x in spread]).mean() for term in (hinge, decorrelation))
        whole = self.criterion(invariance, variance, covariance)
        matched = [
            self.matched(local[a], local[b], *by)
            for a, b in pairs
            for by in ((local[a], local[b]), (places[a], places[b]))
        ]
        dense = torch.stack(matched).sum() / len(pairs)
        return {
            "loss": self.alpha * whole + (1 - self.alpha) * dense,
            "invariance": invariance.detach(),
            "variance": variance.detach(),
            "covariance": covariance.detach(),
            "dense_loss": dense.detach(),
        }

    def criterion(self, invariance: Tensor, variance: Tensor, covariance: Tensor) -> Tensor:
        """The three terms, weighed."""
        return sum(w * term for w, term in zip(self.weights, (invariance, variance, covariance), strict=True))  # type: ignore[return-value]

    def matched(self, a: Tensor, b: Tensor, by_a: Tensor, by_b: Tensor) -> Tensor:
        """The loss of positions [B, P, D] and [B, Q, D] that vectors of theirs match: mean of the matches from the one
        side and from the other."""
        sides = ((a, b, by_a, by_b), (b, a, by_b, by_a))
        losses = []
        for (x, y, by_x, by_y), count in zip(sides, self.num_matches, strict=True):
            own, other = nearest(by_x.detach(), by_y.detach(), count)  # [B, M] each
            x, y = rows_at(x, own), rows_at(y, other)  # [B, M, D] each
            x_all, y_all = gather_with_grad(x), gather_with_grad(y)  # [W * B, M, D] each
            variance, covariance = ((term(x_all) + term(y_all)) / 2 for term in (hinge, decorrelation))
            losses.append(self.criterion((x - y).square().mean(), variance, covariance))
        return torch.stack(losses).mean()


def nearest(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The positions of ``x`` [B, P, D] that lie nearest to one of ``y`` [B, Q, D], and that one: two [B, M] int64, the
    nearest pair first; M is ``count``, or P if that is less."""
    least, other = torch.cdist(x, y).min(dim=2)  # [B, P] each
    own = least.topk(min(count, x.shape[1]), dim=1, largest=False).indices  # [B, M]
    return own, other.gather(1, own)


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """Rows [B, M, D] of [B, P, D] at positions [B, M]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))  # [B, M, D]


def hinge(x: Tensor) -> Tensor:
    """How far deviations over the batch fall short of 1: [N, ..., D] -> mean over the rest, scalar."""
    return (1 - (x.var(dim=0) + 1e-4).sqrt()).relu().mean()


def decorrelation(x: Tensor) -> Tensor:
    """Sum of squared covariances of different dimensions over the batch, divided by D: [N, ..., D] -> mean, scalar."""
    x = x - x.mean(dim=0)
    covariance = torch.einsum("n...c,n...d->...cd", x, x) / (len(x) - 1)  # [..., D, D]
    squares = covariance.square()
    apart = squares.sum(dim=(-2, -1)) - squares.diagonal(dim1=-2, dim2=-1).sum(dim=-1)  # [...]
    return (apart / x.shape[-1]).mean()
