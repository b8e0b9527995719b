"""DCL and DCLW: Yeh et al., Decoupled Contrastive Learning, ECCV 2022 (arXiv:2110.06848), eq. 6 and 7.

NT-Xent without the positive in the denominator, which removes the coupling that weakens the gradient of small batches;
DCLW also weighs each positive by how far apart its two views are.
"""

import torch
from torch import Tensor

from ssl_framework.distributed import gather, gather_with_grad, own_rows, rank
from ssl_framework.functional import log_sum_exp, unit
from ssl_framework.objectives.base import Objective, outputs_of, positive_temperature
from ssl_framework.types import Batch, Clock, Outputs


class DCL(Objective):
    """Decoupled contrastive loss over two views; it can be negative.

    Args:
        temperature: tau.
        weight_sigma: sigma of DCLW's von Mises-Fisher weight; ``None`` is DCL.
        head: name of the student's head whose output is compared.
    """

    def __init__(self, temperature: float, weight_sigma: float | None, head: str = "projector") -> None:
        super().__init__()
        if weight_sigma is not None and not weight_sigma > 0:
            raise ValueError(f"objective.weight_sigma is {weight_sigma}: it must be above 0, or null for plain DCL")
        self.temperature = positive_temperature(temperature)
        self.weight_sigma = weight_sigma
        self.head = head

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        weight = 1.0 if self.weight_sigma is None else dclw_weight(z0, z1, self.weight_sigma)
        keys = gather_with_grad(torch.stack([z0, z1], dim=1))  # [W * B, 2, D]
        one_way = [dcl(a, b, keys, self.temperature, weight) for a, b in ((z0, z1), (z1, z0))]
        losses, multipliers = zip(*one_way, strict=True)
        return {"loss": torch.stack(losses).mean(), "npc_multiplier": multipliers[0]}


def dcl(
    anchor: Tensor, positive: Tensor, keys: Tensor, temperature: float, weight: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """One direction of DCL, the mean over anchors.

    Args:
        anchor, positive: [B, D] unit rows of this rank.
        keys: [W * B, 2, D] both views of all samples; those of the anchor's own sample do not count.
        temperature: tau.
        weight: of the positive, [B] or 1.

    Returns:
        The loss, and the mean factor that multiplies every InfoNCE gradient and that DCL sets to one (NPC multiplier:
        one minus the positive's softmax probability), without gradient.
    """
    similarity = (anchor * positive).sum(dim=1) / temperature  # [B]
    sample = rank() * len(anchor) + torch.arange(len(anchor), device=anchor.device)  # [B]
    own = 2 * sample[:, None] + torch.arange(2, device=anchor.device)  # [B, 2]
    negatives, _ = log_sum_exp(anchor, keys.flatten(0, 1), temperature, [own])  # [B]
    multiplier = torch.sigmoid(negatives - similarity).detach()  # [B]
    return (negatives - weight * similarity).mean(), multiplier.mean()


def dclw_weight(z0: Tensor, z1: Tensor, sigma: float) -> Tensor:
    """``2 - exp(s_i / sigma) / mean_j exp(s_j / sigma)`` over the global batch, without gradient: [B], mean one."""
    similarity = gather((z0 * z1).sum(dim=1))  # [W * B]
    return own_rows(2 - len(similarity) * (similarity / sigma).softmax(dim=0))  # [B]
