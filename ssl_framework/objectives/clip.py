"""CLIP: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021
(arXiv:2103.00020), section 2.3 and figure 3.

The two views of a sample are of two modalities, a picture and a text, say. Each has to find the other among those of
the global batch, in both directions, by cosine similarity times a scale that is learnt. ALIGN (Jia et al., ICML 2021,
arXiv:2102.05918) is the same with label smoothing 0.1.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CLIP(Objective):
    """Mean of the cross-entropies of both directions: view 0 finds view 1 and the other way round.

    Args:
        temperature: 1 / scale in the first step; the logarithm of the scale is trained (figure 3: t).
        largest_scale: what the scale may grow to (section 2.5: 100).
        label_smoothing: share of the target that is spread over all candidates, in [0, 1).
        gather: where the candidates are from: "global" (the batches of all ranks) or "none" (this rank's).
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        label_smoothing: BelowOne = 0.0,
        gather: str = "global",
        head: str = "projector",
    ) -> None:
        super().__init__()
        if not largest_scale * temperature >= 1:
            raise ValueError(
                f"objective.largest_scale is {largest_scale}, less than the scale at the beginning, 1 / "
                f"objective.temperature = {1 / temperature:g}: raise one of the two"
            )
        if gather not in CANDIDATES:
            raise ValueError(f"objective.gather is {gather}: choose one of {', '.join(CANDIDATES)}")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))  # no dimensions: no weight decay
        self.largest = math.log(largest_scale)
        self.label_smoothing = label_smoothing
        self.candidates = CANDIDATES[gather]
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Changes ``log_scale`` where it has grown beyond its bound.

        Raises:
            ValueError: the outputs of the two towers are of different widths.
        """
        with torch.no_grad():  # the parameter itself: behind a clamp in the graph it would stay for ever
            self.log_scale.clamp_(max=self.largest)
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        if z0.shape[1] != z1.shape[1]:
            raise ValueError(
                f"CLIP compares {self.head} of both towers, but one has {z0.shape[1]} values and the other "
                f"{z1.shape[1]}: choose a head that gives both one width (head=linear)"
            )
        loss = (self.one_way(z0, z1) + self.one_way(z1, z0)) / 2  # [B]
        return {"loss": loss.mean(), "scale": self.log_scale.detach().exp()}

    def one_way(self, anchors: Tensor, others: Tensor) -> Tensor:
        """Cross-entropy of each anchor finding its own other view: two [B, D] of unit rows -> [B]."""
        keys, own = self.candidates(others)  # [M, D], [B]
        temperature = (-self.log_scale).to(anchors.dtype).exp()
        loss = nce(anchors, keys, own, temperature)  # [B]
        if self.label_smoothing:
            # The smoothed target is linear in the keys: its similarity is that to the mean of all of them.
            advantage = (anchors * (keys[own] - keys.mean(dim=0))).sum(dim=1) / temperature  # [B]
            loss = loss + self.label_smoothing * advantage
        return loss


def of_all_ranks(z: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, D] -> those of the global batch [W * B, D], with gradient, and where this rank's are among them [B]."""
    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [B]
    return gather_with_grad(z), own


def of_this_rank(z: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, D] -> the same, and their positions [B]."""
    return z, torch.arange(len(z), device=z.device)


CANDIDATES: Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = MappingProxyType(
    {"global": of_all_ranks, "none": of_this_rank}
)
"""``objective.gather`` -> what makes candidates and own columns of a rank's rows."""
