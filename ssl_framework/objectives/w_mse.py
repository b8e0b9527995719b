"""W-MSE: Ermolov et al., Whitening for Self-Supervised Representation Learning, ICML 2021 (arXiv:2007.06346):
``mean over pairs of views of 2 - 2 cos(W z, W z')``.

The embeddings of each view are whitened by the Cholesky factor of their covariance, so that they cannot be all alike,
and the whitened views of a sample are drawn together on the sphere. No negatives, no teacher.
"""

from itertools import combinations

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Repeats, Several, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import full_precision, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

SMALLEST = 1e-12  # mean variance of a sub-batch that has collapsed


@guarded
class WMSE(Objective):
    """``2 - 2 cos`` of whitened embeddings, the mean over pairs of views; the gradient reaches both sides.

    Args:
        sub_batch: samples whitened together, drawn anew at every step from the global batch; a rest is shared out. A
            batch smaller than that is one sub-batch.
        iterations: divisions into sub-batches that the loss is averaged over.
        eps: share of the identity, times the mean variance, in the covariance; 0: the paper's, which takes more samples
            than dimensions in a sub-batch.
        head: name of the student's head whose output is whitened.
    """

    num_views = (2, None)

    def __init__(self, sub_batch: Several, iterations: Repeats, eps: BelowOne, head: str = "projector") -> None:
        super().__init__()
        self.sub_batch = sub_batch
        self.iterations = iterations
        self.eps = eps
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = [full_precision(gather_with_grad(x)) for x in outputs_of(student, self.head)]  # V x [W * B, D]
        generator = clock.generator(z[0].device)  # alike on all ranks, which compute the same loss
        losses = []
        for _ in range(self.iterations):
            order = torch.randperm(len(z[0]), generator=generator, device=z[0].device)  # [W * B]
            parts = order.tensor_split(max(1, len(order) // self.sub_batch))
            white = [unit(torch.cat([self.whitened(x[part]) for part in parts])) for x in z]  # V x [W * B, D]
            losses += [2 - 2 * (a * b).sum(dim=1).mean() for a, b in combinations(white, 2)]
        return {"loss": torch.stack(losses).mean()}

    def whitened(self, z: Tensor) -> Tensor:
        """Rows with mean zero and covariance one, up to ``eps``: [N, D] -> [N, D].

        Where the covariance has no inverse all are NaN, which the watch over the loss reports; with ``eps`` it always
        has one, up to rounding, and the device is not asked.

        Raises:
            ValueError: it has none because ``eps`` is 0.
        """
        count, dim = z.shape
        if count <= dim and self.eps == 0:
            raise ValueError(
                f"a sub-batch has {count} samples, not more than the {dim} dimensions that are whitened: raise "
                "data.batch_size and objective.sub_batch, narrow the head, or set objective.eps=1e-3"
            )
        centred = z - z.mean(dim=0)  # [N, D]
        covariance = centred.T @ centred / max(1, count - 1)  # [D, D]
        floor = self.eps * covariance.diagonal().mean().clamp(min=SMALLEST)
        covariance = (1 - self.eps) * covariance + floor * torch.eye(dim, dtype=z.dtype, device=z.device)  # [D, D]
        factor, failed = torch.linalg.cholesky_ex(covariance)  # [D, D]
        if self.eps == 0 and failed and bool(z.isfinite().all()):  # what is not finite goes on into the loss
            raise ValueError(f"the covariance of {count} embeddings has no inverse: set objective.eps=1e-3")
        factor = factor.masked_fill(failed > 0, torch.nan)  # [D, D]
        return torch.linalg.solve_triangular(factor, centred.T, upper=False).T  # [N, D]
