"""DGI: Velickovic et al., Deep Graph Infomax, ICLR 2019 (arXiv:1809.10341), eq. 1.

A bilinear discriminator tells the features of a graph's nodes from those of a corrupted graph, by the summary of the
former; the summary is the logistic function of their mean.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class DGI(Objective):
    """Binary cross-entropy of the discriminator, the mean over real and corrupted nodes.

    View 0 is real, view 1 corrupted. Where the batch is not all nodes, the summary is that of the batch.

    Args:
        dim: D, of the features.
        head: name of the student's output whose features are told apart.
    """

    def __init__(self, dim: Count, head: str = "projector") -> None:
        super().__init__()
        self.discriminator = nn.Parameter(torch.empty(dim, dim))  # [D, D]
        nn.init.xavier_uniform_(self.discriminator)  # the authors' code
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        real, corrupted = outputs_of(student, self.head)  # [B, D] each
        summary = gather_with_grad(real).mean(dim=0).sigmoid()  # [D], of the global batch
        logits = torch.stack([real, corrupted]) @ (self.discriminator @ summary)  # [2, B]: positive where real
        target = torch.tensor([1.0, 0.0], device=logits.device, dtype=logits.dtype)[:, None].expand_as(logits)  # [2, B]
        right = ((logits > 0) == (target > 0)).float().mean()
        return {"loss": F.binary_cross_entropy_with_logits(logits, target), "discriminator_accuracy": right}
