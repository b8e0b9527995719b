"""TS2Vec: Yue et al., TS2Vec: Towards Universal Representation of Time Series, AAAI 2022 (arXiv:2106.10466), eq. 1 to 3
and algorithm 1.

What two crops have in common is compared point by point: a point has to find itself in the other crop among the same
point of all other series, and among all other points of its own series. The same is asked of ever coarser series, each
the maximum over two neighbours of the one before.

B samples of this rank, W ranks, O points that both crops show, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Fraction, guarded
from ssl_framework.distributed import gather_with_grad, rank, world_size
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class TS2Vec(Objective):
    """The hierarchical loss of two crops, by dot products of features as they are.

    Logs both contrasts at the finest scale.

    Args:
        instance_weight: alpha, of the contrast with other series; that with other points has the rest.
        head: name of the student's output that is compared, [B, T, D], a vector a point.
    """

    requires = frozenset({"maps", "common points"})

    def __init__(self, instance_weight: Fraction, head: str = "points") -> None:
        super().__init__()
        self.instance_weight = instance_weight
        self.head = head
        self.reads = self.token_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: nothing says which points the crops have in common."""
        if batch.targets is None:
            raise ValueError(
                "TS2Vec compares the points that two crops have in common, but the views do not name them: choose "
                "views=ts2vec"
            )
        views = outputs_of(student, self.head)  # 2 x [B, T, D]
        z0, z1 = (
            z.gather(1, at[..., None].expand(-1, -1, z.shape[2])) for z, at in zip(views, batch.targets, strict=True)
        )  # [B, O, D] each
        terms = hierarchical(z0, z1, self.instance_weight)
        return {"loss": terms[0], "instance_loss": terms[1].detach(), "temporal_loss": terms[2].detach()}


def hierarchical(z0: Tensor, z1: Tensor, instance_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The mean over scales of both contrasts, and each of them at the finest scale.

    A last scale of one point has the contrast with other series alone.

    Args:
        z0, z1: [B, O, D], point o of both is the same.
        instance_weight: alpha.
    """
    losses: list[Tensor] = []
    finest = (z0.new_zeros(()), z0.new_zeros(()))
    while True:
        points = z0.shape[1]
        instance = instance_contrast(z0, z1)
        loss = instance_weight * instance
        if points > 1:
            temporal = temporal_contrast(z0, z1)
            loss = loss + (1 - instance_weight) * temporal
        if not losses:
            finest = (instance, temporal if points > 1 else z0.new_zeros(()))
        losses.append(loss)
        if points == 1:
            return torch.stack(losses).mean(), *finest
        z0, z1 = (F.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2) for z in (z0, z1))  # [B, O // 2, D] each


def instance_contrast(z0: Tensor, z1: Tensor) -> Tensor:
    """Each point finds itself in the other crop, among the same point of both crops of all series of all ranks.

    Args:
        z0, z1: [B, O, D] of this rank.

    Returns:
        Scalar, the mean over this rank's 2B rows and O points; 0 where there is one series.
    """
    own = torch.cat([z0, z1]).transpose(0, 1)  # [O, 2B, D]
    everyone = torch.cat([gather_with_grad(z0), gather_with_grad(z1)]).transpose(0, 1)  # [O, 2 * W * B, D]
    total = world_size() * len(z0)
    first = rank() * len(z0) + torch.arange(len(z0), device=z0.device)  # [B]
    itself, partner = torch.cat([first, first + total]), torch.cat([first + total, first])  # [2B] each
    logits = own @ everyone.mT  # [O, 2B, 2 * W * B]
    logits = logits.scatter(2, itself[None, :, None].expand(len(logits), -1, 1), float("-inf"))
    return F.cross_entropy(logits.flatten(0, 1), partner.repeat(len(logits)))


def temporal_contrast(z0: Tensor, z1: Tensor) -> Tensor:
    """Each point finds itself in the other crop, among all points of both crops of its series: [B, O, D] -> scalar."""
    z = torch.cat([z0, z1], dim=1)  # [B, 2 * O, D]
    points = torch.arange(z.shape[1], device=z.device)  # [2 * O]
    logits = z @ z.mT  # [B, 2 * O, 2 * O]
    logits = logits.masked_fill(points[:, None] == points, float("-inf"))
    partner = points.roll(z0.shape[1])  # [2 * O]
    return F.cross_entropy(logits.flatten(0, 1), partner.repeat(len(z)))
