"""Reranking by a cross-encoder: Dai et al., Supervised Fine-Tuning or Contrastive Learning? Towards Better Multimodal
LLM Reranking, 2025 (arXiv:2510.14824), known by its abstract: the two losses that it compares.

CLIP's loss finds candidates; words of a candidate then look at the picture, and the fused first token says yes or no.
Both losses push along the same directions, those of the scores; they differ in how much each candidate weighs.

B samples of this rank, M of all ranks, K wrong texts a picture.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, own_rows
from ssl_framework.functional import drawn
from ssl_framework.models.fusion import Fusion
from ssl_framework.models.text import PADDING
from ssl_framework.objectives.albef import wrong
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class Reranker(Objective):
    """CLIP's loss, and the losses of lists: a picture's own text and K others, drawn by how alike CLIP finds them.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        wrong: K.
        contrastive: weight of InfoNCE over each list.
        classification: weight of the cross-entropy of yes and no over all pairs, which the paper finds better.
        fusion: the cross-encoder, as wide as the tokens.
        head: name of the head, the same in every tower, whose outputs are compared.
        token_head: name of the head that gives tokens of one width.
    """

    requires = frozenset({"inputs"})

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        wrong: Count,
        contrastive: NonNegative,
        classification: NonNegative,
        fusion: Fusion,
        head: str = "projector",
        token_head: str = "token_projector",
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.wrong = wrong
        self.contrastive, self.classification = contrastive, classification
        self.fusion, self.answer = fusion, nn.Linear(fusion.dim, 2)
        self.head, self.token_head = head, token_head
        self.reads = (head, token_head)
        self.token_reads = (token_head,)
        self.modality = {1: "text"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        self.clip.bound()
        z0, z1 = rows_of(student, self.head)  # [B, D] each
        pairs = self.clip.both_ways(z0, z1).mean()
        alike = (z0 @ gather(z1).T / self.clip.temperature).detach()  # [B, M]
        pictures, texts = outputs_of(student, self.token_head)  # [B, N, D'], [B, L, D']
        scores = self.scores(alike, pictures, texts, batch.views[1], clock)  # [B, 1 + K]
        listed, answered = contrastive(scores).mean(), classification(scores).mean()
        right = (scores[:, :1] > scores[:, 1:]).all(dim=1).float().mean()
        loss = pairs + self.contrastive * listed + self.classification * answered
        logged = {"clip_loss": pairs.detach(), "list_loss": listed.detach(), "answer_loss": answered.detach()}
        return {"loss": loss, **logged, "first": right, "scale": self.clip.log_scale.detach().exp()}

    def scores(self, alike: Tensor, pictures: Tensor, texts: Tensor, ids: Tensor, clock: Clock) -> Tensor:
        """The logit of yes less that of no of each picture's own text and, behind it, of K drawn wrong ones.

        Args:
            alike: [B, M] logits, by which they are drawn; equal texts never are, unless there are no others.
            pictures, texts: [B, N, D'] and [B, L, D'] tokens.
            ids: [B, L] the words.
            clock: seeds the draws.

        Returns:
            [B, 1 + K]
        """
        everyone, own = gather(ids), torch.arange(len(ids), device=ids.device)  # [M, L], [B]
        shares = wrong(alike, (ids[:, None] == everyone).all(dim=2))  # [B, M]
        draws = torch.rand(len(everyone), self.wrong, generator=clock.generator()).to(ids.device)  # [M, K]
        other = torch.stack([drawn(shares, u) for u in own_rows(draws).unbind(1)], dim=1)  # [B, K]
        words = torch.cat([texts[:, None], gather_with_grad(texts)[other]], dim=1).flatten(0, 1)  # [B (1 + K), L, D']
        there = torch.cat([ids[:, None], everyone[other]], dim=1).flatten(0, 1) != PADDING  # [B (1 + K), L]
        seen = pictures[own.repeat_interleave(1 + self.wrong)]  # [B (1 + K), N, D']
        return self.pair_scores(seen, words, there).unflatten(0, (len(ids), -1))  # [B, 1 + K]

    def pair_scores(self, pictures: Tensor, words: Tensor, there: Tensor) -> Tensor:
        """The logit of yes less that of no, of tokens [B, N, D'] and [B, L, D'] and where words are [B, L]: [B]."""
        answers = self.answer(self.fusion(words, there, pictures)[:, 0])  # [B, 2]
        return answers[:, 1] - answers[:, 0]


def contrastive(scores: Tensor) -> Tensor:
    """InfoNCE of lists: the first of the scores [B, 1 + K] is the right one -> [B]."""
    return scores.logsumexp(dim=1) - scores[:, 0]


def classification(scores: Tensor) -> Tensor:
    """Cross-entropy of yes for the first of the scores [B, 1 + K] and no for the others -> [B, 1 + K]."""
    return torch.cat([F.softplus(-scores[:, :1]), F.softplus(scores[:, 1:])], dim=1)
