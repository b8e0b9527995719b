"""SIRL: Bobu et al., SIRL: Similarity-based Implicit Representation Learning, HRI 2023 (arXiv:2301.00810), section 3.

A person sees three paths of a robot and says which two are most alike. Features are learnt in which these two are
nearer to each other than either is to the third.

Here the person is a number that the data have of every sample: the two of three whose numbers are nearest are the
answer. B samples of this rank, M of all ranks, D features.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, mean_of, rank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

PAIRS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""Which two of three are alike, and the third."""


@guarded
class SIRL(Objective):
    """Both triplet losses of the similar pair, by squared distances, the mean over questions that have an answer.

    Each sample makes a question with the two that follow it in the global batch. Logs the share of questions whose
    answer the features give, too.

    Args:
        margin: by how much the third has to be further away.
        head: name of the student's output, not normalised.
    """

    requires = frozenset({"number"})
    num_views = (1, 1)

    def __init__(self, margin: Positive, head: str = "projector") -> None:
        super().__init__()
        self.margin = margin
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: there are no three samples."""
        assert batch.label is not None
        (own,) = outputs_of(student, self.head)  # [B, D]
        z, number = gather_with_grad(own), gather(batch.label.to(own.dtype))  # [M, D], [M]
        if len(z) < 3:
            raise ValueError(f"SIRL asks about three samples, but the batch has {len(z)}: raise data.batch_size")
        first = rank() * len(own) + torch.arange(len(own), device=own.device)  # [B]
        three = [(first + k) % len(z) for k in range(3)]  # 3 x [B]
        apart = torch.stack([(number[three[a]] - number[three[b]]).abs() for a, b, _ in PAIRS], dim=1)  # [B, 3]
        away = torch.stack([(z[three[a]] - z[three[b]]).square().sum(dim=1) for a, b, _ in PAIRS], dim=1)  # [B, 3]
        nearest = apart.topk(2, dim=1, largest=False).values  # [B, 2]
        answered, answer = nearest[:, 0] < nearest[:, 1], apart.argmin(dim=1, keepdim=True)  # [B], [B, 1]
        right = (away.argmin(dim=1, keepdim=True) == answer)[:, 0].float()  # [B]
        loss = mean_of(similar_pair(away, answer, self.margin), answered)
        return {"loss": loss, "agreement": mean_of(right, answered)}


def similar_pair(away: Tensor, answer: Tensor, margin: float) -> Tensor:
    """``max(0, d_ab - d_ac + margin) + max(0, d_ab - d_bc + margin)`` of a similar pair a, b and a third c.

    Args:
        away: [B, 3], squared distances of the three pairs.
        answer: [B, 1] int64, which pair is the similar one.
        margin: above 0.

    Returns:
        [B]
    """
    alike = away.gather(1, answer)  # [B, 1]
    cost = (alike - away + margin).relu()  # [B, 3]
    return cost.sum(dim=1) - margin  # the pair itself costs the margin
