"""DebCSE: Miao et al., DebCSE: Rethinking Unsupervised Contrastive Sentence Embedding Learning in the Debiasing
Perspective, CIKM 2023 (arXiv:2309.07396): pairs are drawn by inverse propensity.

Sentences that share words are alike on the surface, whatever they mean. So a further positive of a sentence is drawn
among those that a reference encoder finds near it, the more likely the fewer words they share, and negatives are drawn
the more likely the more words they share and the less they mean the same.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, own_rows, rank
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

LEAST = 0.05
"""Added to similarities before they divide or multiply: a share of words may be none."""


@guarded
class DebCSE(Objective):
    """The first view finds the second and, weighed, that of a drawn positive, among drawn negatives.

    Args:
        temperature: tau.
        num_candidates: nearest sentences by the teacher among which a positive is drawn.
        num_negatives: drawn for each sentence.
        weight: of the drawn positive's term; 0: only negatives are drawn.
        first_word: smallest token that is a word.
        head: name of the head of student and teacher whose outputs are compared, by their cosine.
    """

    requires = frozenset({"teacher", "inputs"})

    def __init__(
        self,
        temperature: Positive,
        num_candidates: Count,
        num_negatives: Count,
        weight: NonNegative,
        first_word: Count,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.num_candidates = num_candidates
        self.num_negatives = num_negatives
        self.weight = weight
        self.first_word = first_word
        self.head = head
        self.reads = self.teacher_reads = (head,)
        self.modality = {0: "text"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        k0, k1 = map(unit, outputs_of(teacher, self.head))  # [B, D] each
        k = gather(unit(k0 + k1))  # [N, D]
        surface = shared_words(gather(batch.views[0].long()), self.first_word)  # [N, N]
        positive, negative = self.drawn((1 + k @ k.T) / 2, surface, clock)  # [N], [N, M]
        keys = gather_with_grad(z1)  # [N, D]
        logits = z0 @ keys.T / self.temperature  # [B, N]
        own = rank() * len(z0) + torch.arange(len(z0), device=z0.device)  # [B]
        drawn = own_rows(positive)  # [B]
        others = logits.gather(1, own_rows(negative))  # [B, M]

        def found(column: Tensor) -> Tensor:
            right = logits.gather(1, column[:, None])  # [B, 1]
            return torch.cat([right, others], dim=1).logsumexp(dim=1) - right[:, 0]  # [B]

        loss = found(own) + self.weight * found(drawn)  # [B]
        at = surface[own.to(surface.device), drawn.to(surface.device)]  # [B]
        return {"loss": loss.mean(), "shared_words": at.mean()}

    def drawn(self, semantic: Tensor, surface: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """A positive and negatives of each sample, alike on all ranks.

        Args:
            semantic, surface: [N, N] in [0, 1], how alike two samples are.
            clock: for the draw.

        Returns:
            [N] int64 and [N, M] int64, M ``num_negatives`` or all that are left.
        """
        count = len(semantic)
        generator = clock.generator(semantic.device)
        noise = torch.rand(2, count, count, generator=generator, device=semantic.device)  # [2, N, N]
        gumbel = -(-noise.clamp(1e-9, 1 - 1e-7).log()).log()  # [2, N, N]
        itself = torch.eye(count, dtype=torch.bool, device=semantic.device)  # [N, N]
        near = semantic.masked_fill(itself, -1.0).topk(min(self.num_candidates, count - 1), dim=1).indices  # [N, C]
        likely = ((semantic + LEAST) / (surface + LEAST)).log() + gumbel[0]  # [N, N]
        positive = near.gather(1, likely.gather(1, near).argmax(dim=1, keepdim=True))  # [N, 1]
        wrong = ((1 - semantic).clamp(min=0) + LEAST).log() + (surface + LEAST).log() + gumbel[1]  # [N, N]
        wrong = wrong.masked_fill(itself, float("-inf")).scatter(1, positive, float("-inf"))  # [N, N]
        return positive[:, 0], wrong.topk(min(self.num_negatives, count - 2), dim=1).indices


def shared_words(tokens: Tensor, first_word: int) -> Tensor:
    """The share of the words of two texts that both have (Jaccard), 0 for texts without words: [N, L] -> [N, N]."""
    size = max(int(tokens.max()) + 1, first_word + 1)
    bags = torch.zeros(len(tokens), size, device=tokens.device).scatter_(1, tokens.clamp(min=0), 1.0)  # [N, size]
    bags[:, :first_word] = 0
    both, each = bags @ bags.T, bags.sum(dim=1)  # [N, N], [N]
    return both / (each[:, None] + each - both).clamp(min=1)
