"""SimCSE: Gao et al., SimCSE: Simple Contrastive Learning of Sentence Embeddings, EMNLP 2021 (arXiv:2104.08821), eq. 4.

A sentence goes through the encoder twice, and dropout makes its two embeddings differ. The first has to find the second
among those of the global batch. With further versions of a sentence each of them is a term of its own (WhitenedCSE).
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SimCSE(Objective):
    """The first view finds each of the others, in one direction.

    Args:
        temperature: tau.
        head: name of the student's head whose outputs are compared, by their cosine.
    """

    num_views = (2, None)

    def __init__(self, temperature: Positive, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        first, *others = map(unit, outputs_of(student, self.head))  # [B, D] each
        return {"loss": found(first, others, self.temperature).mean()}


def found(anchors: Tensor, others: list[Tensor], temperature: float) -> Tensor:
    """Cross-entropies of each anchor [B, D] finding its own row of every one of ``others``, summed over these: [B]."""
    own = rank() * len(anchors) + torch.arange(len(anchors), device=anchors.device)  # [B]
    return torch.stack([nce(anchors, gather_with_grad(z), own, temperature) for z in others]).sum(dim=0)
