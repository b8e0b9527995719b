"""AdaMEOW: Yu et al., Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative Samples,
SDM 2023 (arXiv:2212.13847).

As MEOW, a node by one relation has to find itself by another, but how much each candidate counts is learnt: a small
network tells it from the sum of both vectors. There are no clusterings and no prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class AdaMEOW(Objective):
    """``-log(e^{s_ii / tau} / sum_j w_ij e^{s_ij / tau})``, the mean over anchors, ``w_ij = sigmoid(MLP(z_i + z_j))``.

    View 0 asks, view 1 answers. The sum is over all nodes, the anchor's own included, and the weights learn by the same
    loss as the encoder.

    Args:
        temperature: tau.
        dim: D, width of the head's output.
        hidden: width inside the MLP, with tanh behind it.
        head: name of the student's output that is compared.

    Logs the mean weight, in (0, 1).
    """

    def __init__(self, temperature: Positive, dim: Count, hidden: Count, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.head = head
        self.reads = (head,)
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, 1)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        anchors, keys = map(unit, outputs_of(student, self.head))  # [B, D] each
        everyone = gather_with_grad(keys)  # [W * B, D]
        weight = F.logsigmoid(self.scores(anchors, everyone))  # [B, W * B] logarithms
        logits = anchors @ everyone.T / self.temperature + weight  # [B, W * B]
        positive = torch.einsum("bd,bd->b", anchors, keys) / self.temperature  # [B]
        return {"loss": (logits.logsumexp(dim=1) - positive).mean(), "mean_weight": weight.detach().exp().mean()}

    def scores(self, anchors: Tensor, everyone: Tensor) -> Tensor:
        """``MLP(z_i + z_j)`` of every pair, whose first layer takes both apart: [B, D], [W * B, D] -> [B, W * B]."""
        both = self.first(anchors)[:, None] + F.linear(everyone, self.first.weight)  # [B, W * B, hidden]
        return self.second(both.tanh())[:, :, 0]  # [B, W * B]
