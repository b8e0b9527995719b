"""ALBEF: Li et al., Align before Fuse: Vision and Language Representation Learning with Momentum Distillation, NeurIPS
2021 (arXiv:2107.07651), eq. 1 to 7, and the authors' code.

Pictures and texts find each other among a moving average's embeddings and two queues; a fused encoder then says whether
a picture and a text belong together, the wrong ones drawn by how alike they look, and which words of a text are hidden.

B samples of this rank, M of all ranks, K rows of a queue, L tokens of a text, N of a picture.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Fraction, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, mean_of, own_rows, rank
from ssl_framework.functional import drawn
from ssl_framework.memory import Queue
from ssl_framework.models.fusion import Fusion
from ssl_framework.models.text import PADDING
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.objectives.msd import distilled, ramped
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class ALBEF(Objective):
    """ITC + ITM + MLM of a picture, its text, and the text with words hidden: the views 0, 1 and 2.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        queue: makes the memory of one modality, K rows; called twice.
        alpha, ramp: as in ``MSD``, of the targets of ITC and MLM.
        matching, masked: weights of ITM and MLM.
        momentum: share of the old fused encoder that its moving average keeps at each step.
        fusion: the fused encoder, as wide as the tokens.
        head, token_head: names of the heads, the same in every tower: what is compared, and tokens of one width.
    """

    requires = frozenset({"teacher", "inputs"})
    num_views = (3, 3)

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        queue: Callable[[], Queue],
        alpha: Fraction,
        ramp: Fraction,
        matching: NonNegative,
        masked: NonNegative,
        momentum: Fraction,
        fusion: Fusion,
        head: str = "projector",
        token_head: str = "token_projector",
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.pictures, self.texts = queue(), queue()
        self.alpha, self.ramp, self.matching, self.masked = alpha, ramp, matching, masked
        self.momentum = momentum
        self.fusion, self.match = fusion, nn.Linear(fusion.dim, 2)
        self.average = copy.deepcopy(fusion).requires_grad_(False)
        self.head, self.token_head = head, token_head
        self.reads = self.teacher_reads = (head, token_head)
        self.token_reads = (token_head,)
        self.modality = {1: "text", 2: "text"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Changes the queues and the moving average. Raises ValueError: the towers give embeddings of two widths."""
        with torch.no_grad():  # the fused encoder's moving average moves towards it before it is used
            torch._foreach_lerp_([*self.average.parameters()], [*self.fusion.parameters()], 1 - self.momentum)
        self.clip.bound()
        z, k = rows_of(student, self.head)[:2], rows_of(teacher or [], self.head)[:2]  # 2 x [B, D] each
        alpha, temperature = ramped(self.alpha, self.ramp, clock), self.clip.temperature.to(z[0].dtype)
        own = rank() * len(z[0]) + torch.arange(len(z[0]), device=z[0].device)  # [B]
        every = [gather(x) for x in k]  # 2 x [M, D]
        memories = zip(every, (self.pictures, self.texts), strict=True)
        keys = [torch.cat([x, queue.read().to(x.dtype)]) for x, queue in memories]  # 2 x [M + K, D]
        aligned = torch.cat([distilled(z[v], keys[1 - v], k[v], own, temperature, alpha) for v in range(2)]).mean()
        (pictures, texts, hidden), (ids, shown) = outputs_of(student, self.token_head), batch.views[1:3]  # [B, L] each
        logits = [(z[v] @ every[1 - v].T / temperature).detach() for v in range(2)]  # 2 x [B, M]
        matched, right = self.matches(logits, pictures, texts, ids, clock)
        known, _, guessed = outputs_of(teacher, self.token_head)  # [B, N, D'], [B, L, D'] of the same hidden words
        soft = self.average.logits(guessed, shown != PADDING, known).softmax(dim=2)  # [B, L, vocabulary]
        logs = self.fusion.logits(hidden, shown != PADDING, pictures).log_softmax(dim=2)  # [B, L, vocabulary]
        each = (1 - alpha) * logs.gather(2, ids[..., None])[..., 0] + alpha * (soft * logs).sum(dim=2)  # [B, L]
        named = mean_of(-each, ids != shown)
        self.pictures.push(k[0])
        self.texts.push(k[1])
        loss = aligned + self.matching * matched + self.masked * named
        logged = {"itc_loss": aligned.detach(), "itm_loss": matched.detach(), "mlm_loss": named.detach()}
        return {"loss": loss, **logged, "match_accuracy": right, "scale": self.clip.log_scale.detach().exp()}

    def matches(
        self, logits: list[Tensor], pictures: Tensor, texts: Tensor, ids: Tensor, clock: Clock
    ) -> tuple[Tensor, Tensor]:
        """ITM over pairs, pairs with a wrong text and pairs with a wrong picture, and the share of right answers.

        Args:
            logits: 2 x [B, M], how alike pictures and texts, and texts and pictures, look.
            pictures, texts: [B, N, D'] and [B, L, D'] tokens.
            ids, clock: [B, L] the words, of which equal ones are not drawn; what seeds the draws.
        """
        everyone = gather(ids)  # [M, L]
        same = (ids[:, None] == everyone).all(dim=2)  # [B, M]; its own among them
        draws = torch.rand(2, len(everyone), generator=clock.generator()).to(ids.device)  # [2, M]
        text, picture = (drawn(wrong(x, same), own_rows(u)) for x, u in zip(logits, draws, strict=True))  # [B] each
        seen = torch.cat([pictures, pictures, gather_with_grad(pictures)[picture]])  # [3 B, N, D']
        read = torch.cat([texts, gather_with_grad(texts)[text], texts])  # [3 B, L, D']
        there = torch.cat([ids, everyone[text], ids]) != PADDING  # [3 B, L]
        answers = self.match(self.fusion(read, there, seen)[:, 0])  # [3 B, 2]
        right = torch.arange(3, device=ids.device).repeat_interleave(len(ids)) == 0  # [3 B]
        exists = ~same.all(dim=1).repeat(3) | right  # [3 B]: there is a wrong one to be drawn
        each = F.cross_entropy(answers, right.long(), reduction="none")  # [3 B]
        return mean_of(each, exists), mean_of((answers.argmax(dim=1) == right).to(each.dtype), exists)

    def pair_scores(self, pictures: Tensor, words: Tensor, there: Tensor) -> Tensor:
        """How far pairs belong together, of tokens [B, N, D'] and [B, L, D'] and where words are [B, L]: [B]."""
        answers = self.match(self.fusion(words, there, pictures)[:, 0])  # [B, 2]
        return answers[:, 1] - answers[:, 0]


def wrong(logits: Tensor, same: Tensor) -> Tensor:
    """The softmax of [B, M] logits without those that are the ``same`` [B, M]; even where all are."""
    return logits.masked_fill(same, -1e9).softmax(dim=1)  # [B, M]
