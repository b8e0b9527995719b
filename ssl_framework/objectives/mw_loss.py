"""MW loss: Sheikholeslami et al., Optimizing What Matters: AUC-Driven Learning for Robust Neural Retrieval
(arXiv:2510.00137).

The similarity of every pair is held against that of every wrong pair of the batch, of whatever query, by a logistic
loss of their difference: the Mann-Whitney statistic, smoothed. So one threshold has to separate right from wrong for
all queries, where InfoNCE is content with an order for each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import by_tiles, full_precision, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MWLoss(Objective):
    """View 0 asks, view 1 answers: ``mean over pairs i and wrong pairs (j, k) of softplus((s_jk - s_ii) / tau)``.

    Args:
        temperature: tau.
        pooled: whether the wrong pairs are those of all queries, as in the paper; ``False``: of the query alone.
        head: name of the student's head whose outputs are compared, by their cosine.
    """

    def __init__(self, temperature: Positive, pooled: bool, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.pooled = pooled
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = (full_precision(unit(z)) for z in outputs_of(student, self.head))  # [B, D] each
        right, answers = (z0 * z1).sum(dim=1), gather_with_grad(z1)  # [B], [N, D]
        if len(answers) < 2:
            raise ValueError("the global batch has one pair, so there is no wrong one: raise data.batch_size")
        if self.pooled:
            wrong = off_diagonal(gather_with_grad(z0) @ answers.T, 0).flatten()[:, None]  # [N (N - 1), 1]
            (each,) = by_tiles(self.against_all, wrong, right)  # [B]
        else:
            wrong = off_diagonal(z0 @ answers.T, rank() * len(z0))  # [B, N - 1]
            each = F.softplus((wrong - right[:, None]) / self.temperature).mean(dim=1)  # [B]
        return {"loss": each.mean(), "right": right.detach().mean(), "wrong": wrong.detach().mean()}

    def against_all(self, wrong: Tensor, right: Tensor) -> tuple[Tensor]:
        """Similarities of wrong pairs [W, 1] and of R right ones -> the mean loss of each right one, [R]."""
        return (F.softplus((wrong.T - right[:, None]) / self.temperature).mean(dim=1),)


def off_diagonal(scores: Tensor, first: int) -> Tensor:
    """Rows of similarities [n, N] without the right answers, which begin in column ``first``: [n, N - 1]."""
    own = first + torch.arange(len(scores), device=scores.device)[:, None]  # [n, 1]
    columns = torch.arange(scores.shape[1] - 1, device=scores.device)  # [N - 1]
    return scores.gather(1, columns + (columns >= own))
