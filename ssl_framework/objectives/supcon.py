"""SupCon: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020 (arXiv:2004.11362), eq. 2 (L_out).

Every view of every sample of the same class is a positive; the mean over positives stands outside the logarithm.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, rank
from ssl_framework.functional import SameClass, class_sums, nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SupCon(Objective):
    """Supervised contrastive loss over any number of views.

    Args:
        temperature: tau.
        base_temperature: the loss is multiplied by temperature / base_temperature, as in the authors' code.
        head: name of the student's head whose output is compared.
    """

    requires = frozenset({"label"})
    num_views = (1, None)

    def __init__(self, temperature: Positive, base_temperature: Positive, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.base_temperature = base_temperature
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        views = [unit(z) for z in outputs_of(student, self.head)]  # V x [B, D]
        assert batch.label is not None
        loss = supcon(torch.cat(views), batch.label.repeat(len(views)), self.temperature)
        return {"loss": self.temperature / self.base_temperature * loss}


def supcon(z: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Mean over this rank's anchors that have a positive anywhere in the global batch.

    Args:
        z: [N, D] unit rows of this rank, all views.
        label: [N] int64 class of each row.
        temperature: tau.

    Returns:
        Scalar; 0 if no row of any rank has a positive.
    """
    keys, classes = gather_with_grad(z), gather(label)  # [W * N, D], [W * N]
    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [N]
    count = class_sums(torch.empty(len(keys), 0, device=z.device), classes, label)[1] - 1  # [N] positives
    per_anchor = nce(z, keys, SameClass(label, classes, own), temperature, exclude=own)  # [N]
    has_positive = (count > 0).to(per_anchor.dtype)  # [N]
    # Divided by the mean share over all ranks, so that W ranks still equal one when some rows have no positive.
    share = gather(has_positive).mean().clamp(min=1 / len(keys))
    return (has_positive * per_anchor).mean() / share
