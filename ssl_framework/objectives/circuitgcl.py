"""CircuitGCL: Shen et al., Transferable Parasitic Estimation via Graph Contrastive Learning and Label Rebalancing in
AMS Circuits, 2025 (arXiv:2507.06535), the part without labels.

The teacher scatters the nodes: it moves them away from their common centre on the sphere. The student predicts where
the teacher has put each node, and the teacher follows the student; there are no negatives and no random views.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CircuitGCL(Objective):
    """``-mean_i cos(p_i, sg t_i) - weight * mean_i ||u_i - mean_j u_j||^2``, u the unit rows of the teacher's t.

    The first term trains the student alone, the second one the teacher alone.

    Args:
        scatter_weight: of the second term.
        student_head: the predictor's name.
        teacher_head: the projector's name.

    Logs both terms without weight; the scatter lies in [0, 1], 0 where all vectors are the same.
    """

    requires = frozenset({"teacher", "trained teacher"})
    num_views = (1, 1)
    against_collapse = ("scatter_weight",)

    def __init__(
        self, scatter_weight: NonNegative, student_head: str = "predictor", teacher_head: str = "projector"
    ) -> None:
        super().__init__()
        self.scatter_weight = scatter_weight
        self.student_head, self.teacher_head = student_head, teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (p,) = map(unit, outputs_of(student, self.student_head))  # [B, D]
        (u,) = map(unit, outputs_of(teacher, self.teacher_head))  # [B, D]
        prediction = -torch.einsum("bd,bd->b", p, u.detach()).mean()
        spread = scatter(u)
        loss = prediction - self.scatter_weight * spread
        return {"loss": loss, "prediction_loss": prediction.detach(), "scatter": spread.detach()}


def scatter(u: Tensor) -> Tensor:
    """Mean squared distance of own rows [B, D] from the mean of all ranks' rows, which is not normalised: a scalar."""
    return (u - gather_with_grad(u).mean(dim=0)).square().sum(dim=1).mean()
