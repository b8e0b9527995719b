"""CoCoSoDa: Shi et al., CoCoSoDa: Effective Contrastive Learning for Code Search, ICSE 2023 (arXiv:2204.03293), the
six terms of its multimodal momentum contrast.

A text and its code have to find each other, as they are and with tokens hidden, and each its own hidden form.
Candidates are those of the batch and of four queues, one a kind, all embedded by a moving average of the encoder.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, rank
from ssl_framework.functional import nce, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

INTER = ((0, 1), (0, 3), (1, 0), (1, 2))
"""Who looks for whom across the two wordings: text for code and for hidden code, code for text and for hidden text."""

INTRA = ((0, 2), (1, 3))
"""Each for its own hidden form."""


@guarded
class CoCoSoDa(Objective):
    """Views are a text, its code, and both again with tokens hidden; six cross-entropies, all of one weight.

    Args:
        temperature: tau.
        queue: makes the memory of one view, K rows; called four times.
        head: name of the head of student and teacher whose outputs are compared, by their cosine.
    """

    requires = frozenset({"teacher"})
    num_views = (2, 4)  # the student sees what looks, the teacher everything

    def __init__(self, temperature: Positive, queue: Callable[[], Queue], head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.queues = nn.ModuleList(queue() for _ in range(4))
        self.head = head
        self.reads = self.teacher_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = [unit(each) for each in outputs_of(student, self.head)]  # 2 x [B, D]
        k = [unit(each) for each in outputs_of(teacher, self.head)]  # 4 x [B, D]
        own = rank() * len(k[0]) + torch.arange(len(k[0]), device=k[0].device)  # [B]
        memories = [self.memory(v).read().to(k[v].dtype) for v in range(4)]  # 4 x [K, D]
        candidates = [torch.cat([gather(k[v]), memories[v]]) for v in range(4)]  # 4 x [W * B + K, D]

        def mean(terms: tuple[tuple[int, int], ...]) -> Tensor:
            return torch.stack([nce(z[a], candidates[b], own, self.temperature).mean() for a, b in terms]).mean()

        inter, intra = mean(INTER), mean(INTRA)
        for v in range(4):
            self.memory(v).push(k[v])
        loss = (len(INTER) * inter + len(INTRA) * intra) / (len(INTER) + len(INTRA))
        return {"loss": loss, "inter": inter.detach(), "intra": intra.detach()}

    def memory(self, view: int) -> Queue:
        """Of a view."""
        found = self.queues[view]
        assert isinstance(found, Queue)
        return found
