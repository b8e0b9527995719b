"""CoDiEmb: Zhang et al., CoDiEmb: A Collaborative yet Distinct Framework for Unified Representation Learning in
Information Retrieval and Semantic Textual Similarity, 2025 (arXiv:2508.11442), its losses as in the authors' code.

A batch is of one task. Pairs without a score are of retrieval: a text looks for its answers among all answers and hard
negatives of the global batch. Pairs with one are of similarity: their cosines have to go with the scores, by Pearson's
correlation, by a divergence of ranks, and by an order of each pair above all that score less; alike pairs may find each
other in the middle of the net, too.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, mean_of, rank
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

ALIKE = 1.0
"""Score from which on the texts of a pair look for each other in the middle (the authors)."""


@guarded
class CoDiEmb(Objective):
    """The loss of retrieval over samples whose label is below 0, and that of similarity over all others; in a batch of
    both it is their sum. Views are a text, its answers, and hard negatives; of scored pairs the first two are read.

    Args:
        temperature: tau of retrieval.
        positives: P, answers of a text.
        similarity_temperature: tau of the two losses of order.
        pearson, order, divergence: weights of the three losses of similarity.
        middle: weight of InfoNCE of scored pairs on what stands behind the middle layer, a feature of text backbones.
        head: name of the student's head whose outputs are compared.
    """

    requires = frozenset({"number"})
    num_views = (2, None)

    def __init__(
        self,
        temperature: Positive,
        positives: Count,
        similarity_temperature: Positive,
        pearson: NonNegative,
        order: NonNegative,
        divergence: NonNegative,
        middle: NonNegative,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.positives = positives
        self.similarity_temperature = similarity_temperature
        self.weights = (pearson, order, divergence, middle)
        self.head = head
        self.reads = (head, "middle") if middle else (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: there are fewer views than a text and its answers."""
        assert batch.label is not None
        z = [unit(each) for each in outputs_of(student, self.head)]  # V x [B, D]
        if len(z) <= self.positives:
            raise ValueError(
                f"objective.positives is {self.positives}, but a sample has {len(z)} views: lower it, or raise "
                "views.num_views"
            )
        label, asks = gather(batch.label), batch.label < 0  # [W * B], [B]
        cosine = gather_with_grad((z[0] * z[1]).sum(dim=1))  # [W * B]
        terms = [*similarity_terms(cosine, label.to(cosine.dtype), label >= 0, self.similarity_temperature)]
        if "middle" in self.reads:
            pair = [unit(each) for each in outputs_of(student, "middle")[:2]]  # 2 x [B, D]
            terms.append(retrieval(pair, batch.label >= ALIKE, ~asks, 1, self.temperature))
        similarity = torch.stack([w * term for w, term in zip(self.weights, terms, strict=False)]).sum()
        found = retrieval(z, asks, asks, self.positives, self.temperature)
        return {"loss": found + similarity, "retrieval": found.detach(), "similarity": similarity.detach()}


def retrieval(z: list[Tensor], asks: Tensor, there: Tensor, positives: int, temperature: float) -> Tensor:
    """Mean cross-entropy of texts and their answers, a scalar; each answer is told from the answers of the same place
    and from all negatives of the global batch. 0 where nobody asks.

    Args:
        z: unit rows V x [B, D]: texts, P answers, and negatives.
        asks, there: [B] bool; who looks for its answers, and whose texts are candidates.
        positives, temperature: P, tau.
    """
    own = rank() * len(asks) + torch.arange(len(asks), device=asks.device)  # [B]
    negatives = [gather_with_grad(each) for each in z[1 + positives :]]  # H x [W * B, D]
    absent = (~gather(there)).repeat(1 + len(negatives)).expand(len(asks), -1)  # [B, (1 + H) * W * B]
    answers = [torch.cat([gather_with_grad(each), *negatives]) for each in z[1 : 1 + positives]]
    losses = [nce(z[0], keys, own, temperature, absent) for keys in answers]  # P x [B]
    return mean_of(torch.stack(losses).mean(dim=0).masked_fill(~asks, 0.0), asks)


def similarity_terms(cosine: Tensor, score: Tensor, there: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """What cosines [N] of pairs cost beside their scores [N]: one minus Pearson's correlation, PRO, and the divergence
    of softmax over cosines from softmax over ranks; without waiting for the device.

    Equal scores have the mean of their places. Only pairs where ``there`` [N] bool count; without any, all is 0.
    """
    some = there.any()
    there = there | ~some  # or no softmax is defined, whose value nobody reads
    count = there.sum()
    share = there.to(cosine.dtype) / count  # [N]
    x, y = (each - (share * each).sum() for each in (cosine, score))  # [N] each
    spread = (share * x.square()).sum() * (share * y.square()).sum()
    varies = spread > 1e-12
    correlation = (share * x * y).sum() / spread.where(varies, 1.0).sqrt()

    above = score[:, None] < score  # [N, N]: whether pair j scores more than pair i
    ties = (score[:, None] == score) & there  # [N, N]
    place = (above & there).sum(dim=1) + (ties.sum(dim=1).to(cosine.dtype) - 1) / 2  # [N]: 0 the highest score
    height = 1 - place / (count - 1).clamp(min=1)  # [N]
    low = float("-inf")
    target = (height / tau).masked_fill(~there, low).softmax(dim=0)  # [N]
    logs = (cosine / tau).masked_fill(~there, low).log_softmax(dim=0).masked_fill(~there, 0.0)  # [N]
    divergence = (torch.xlogy(target, target) - target * logs).sum() / count

    gap = (score[:, None] - score).masked_fill(~there, 0.0).clamp(min=0)  # [N, N]: how much less pair j scores
    ahead = there & (gap > 0).any(dim=1)  # [N]
    own = cosine * gap.amax(dim=1) / tau  # [N]
    others = (cosine * gap / tau).masked_fill((gap <= 0) & ahead[:, None], low).logsumexp(dim=1)  # [N]
    order = ((torch.logaddexp(own, others) - own) * ahead).sum() / ahead.sum().clamp(min=1)
    return (1 - correlation).where(varies, 1.0).where(some, 0.0), order.where(some, 0.0), divergence.where(some, 0.0)
