"""TiCo: Zhu et al., TiCo: Transformation Invariance and Covariance Contrast for Self-Supervised Visual Representation
Learning, 2022 (arXiv:2206.10698): ``1 - mean z . z' + rho * mean z^T C z``.

A view is drawn to the teacher's other view, and pushed out of the directions that a moving average of the covariance of
all embeddings has much of: the covariance stands for the negatives of many earlier batches.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Count, NonNegative, guarded
from ssl_framework.distributed import gather
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class TiCo(Objective):
    """``1 - mean z . z' + rho * mean z^T C z``, the mean of both directions; C is updated before each of them.

    Args:
        rho: weight of the covariance contrast.
        beta: share of the old covariance that an update keeps; there are two a step.
        dim: D, width of the head's output.
        head: name of the head of student and teacher whose outputs are compared.

    The covariance, of unit rows and not centred, starts at zero and gets no gradient.
    """

    requires = frozenset({"teacher"})
    against_collapse = ("rho",)

    covariance: Tensor  # [D, D], alike on every rank

    def __init__(self, rho: NonNegative, beta: BelowOne, dim: Count, head: str = "projector") -> None:
        super().__init__()
        self.rho = rho
        self.beta = beta
        self.head = head
        self.reads = self.teacher_reads = (head,)
        self.register_buffer("covariance", torch.zeros(dim, dim))  # [D, D]

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        k0, k1 = map(unit, outputs_of(teacher, self.head))  # [B, D] each
        loss = (self.direction(z0, k1) + self.direction(z1, k0)) / 2
        # A trace of one, that of unit rows, is spread over so many dimensions; 1: all rows lie on one line.
        spectrum = self.covariance.square().sum() / self.covariance.trace().square()
        return {"loss": loss, "dimensions": 1 / spectrum}

    def direction(self, z: Tensor, k: Tensor) -> Tensor:
        """The loss of one view's rows against the teacher's other view: two [B, D] -> scalar. Changes C."""
        c = self.updated(z.detach()).to(z.dtype)  # [D, D]
        return 1 - (z * k).sum(dim=1).mean() + self.rho * ((z @ c) * z).sum(dim=1).mean()

    @torch.no_grad()
    def updated(self, z: Tensor) -> Tensor:
        """C after the rows [B, D] of this and all other ranks: a copy [D, D]. Changes C."""
        rows = gather(z)  # [W * B, D]
        self.covariance.lerp_((rows.T @ rows / len(rows)).to(self.covariance.dtype), 1 - self.beta)
        return self.covariance.clone()
