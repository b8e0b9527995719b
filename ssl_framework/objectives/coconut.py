"""COCONUT: Cappellazzo et al., Continual Contrastive Spoken Language Understanding, ACL Findings 2024
(arXiv:2310.02699), its two contrastive terms.

A network that learns new classes draws the few samples of earlier ones towards where the network of before, a frozen
teacher, had put samples of their class, and away from where it puts all others itself. And the sounds of new classes
and their texts find each other.

B samples of this rank, W ranks, D dimensions of the features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Classes, Natural, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, mean_of, rank
from ssl_framework.functional import full_precision, nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.partial import told_accuracy
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class COCONUT(Objective):
    """``CE + weight NSPT + pairs MM``, the second over samples of classes below ``old``: negative student, positive
    teacher; the third over all others: view 0, a sound, and view 1, its text.

    Args:
        num_classes: of the classifier, old and new together.
        old: classes that the teacher has learnt, the first so many.
        temperature: tau.
        weight: of the second term.
        head: name of the student's classifier.
        pairs: weight of the third term; at 0 there are no texts, and one view.
        pair_head: name of the output of both towers that it compares.

    Logs the terms and the accuracy.
    """

    requires = frozenset({"teacher", "label"})
    num_views = (1, 1)

    def __init__(
        self,
        num_classes: Classes,
        old: Natural,
        temperature: Positive,
        weight: NonNegative,
        head: str = "classifier",
        pairs: NonNegative = 0.0,
        pair_head: str = "projector",
    ) -> None:
        super().__init__()
        self.num_classes, self.old, self.temperature, self.weight = num_classes, old, temperature, weight
        self.head, self.pairs, self.pair_head = head, pairs, pair_head
        self.reads, self.teacher_reads = (head, "pooled", *[pair_head] * (pairs > 0)), ("pooled",)
        self.main_reads = (head, "pooled")
        self.num_views = (1, 2 if pairs else 1)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the features of student and teacher are not equally wide, or there is no text."""
        assert student[0] is not None
        logits, z = student[0][self.head], unit(student[0]["pooled"])  # [B, C], [B, D]
        (before,) = map(unit, outputs_of(teacher, "pooled"))  # [B, D]
        assert batch.label is not None
        if z.shape != before.shape:
            raise ValueError(
                f"COCONUT compares features of the student, of {z.shape[1]} numbers, with the teacher's, of "
                f"{before.shape[1]}: choose the same backbone for both (backbone@teacher.backbone=<name>)"
            )
        classes = F.cross_entropy(logits, batch.label)
        each, counts = nspt(z, before, batch.label, self.temperature)  # [B] each
        rehearsal = mean_of(each, counts & (batch.label < self.old))
        logged = {"classes": classes.detach(), "rehearsal": rehearsal.detach()}
        logged["accuracy"] = told_accuracy(logits, batch.label)
        loss = classes + self.weight * rehearsal
        if not self.pairs:
            return {"loss": loss, **logged}
        if len(rows := outputs_of(student, self.pair_head)) != 2:
            raise ValueError(
                f"objective.pairs is {self.pairs}, but the student sees no text: choose method=coconut_text, or set "
                "objective.pairs=0"
            )
        pairs = text_pairs(unit(rows[0]), unit(rows[1]), batch.label, self.old, self.temperature)
        return {"loss": loss + self.pairs * pairs, **logged, "pairs": pairs.detach()}


def nspt(z: Tensor, before: Tensor, label: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """``-mean over p of log( e^{z_k . t_p / tau} / sum over a != k of e^{z_k . z_a / tau} )``, p the other samples of
    k's class, of all ranks. The positive is no part of the denominator, so the term can be negative.

    Args:
        z: [B, D] unit rows of the student.
        before: [B, D] unit rows t of the teacher, of the same samples and as wide.
        label: [B] int64.
        temperature: tau.

    Returns:
        [B] the term of each sample, 0 without a positive; and [B] bool, whether it has one.
    """
    z = full_precision(z)
    keys, targets, classes = gather_with_grad(z), gather(before).to(z.dtype), gather(label)  # 2 x [W * B, D], [W * B]
    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [B]
    itself = own[:, None] == torch.arange(len(keys), device=z.device)  # [B, W * B]
    positive = (label[:, None] == classes) & ~itself  # [B, W * B]
    count = positive.sum(dim=1)  # [B]
    pull = (z @ targets.T / temperature * positive).sum(dim=1) / count.clamp(min=1)  # [B]
    push = (z @ keys.T / temperature).masked_fill(itself, float("-inf")).logsumexp(dim=1)  # [B]
    return torch.where(count > 0, push - pull, 0.0), count > 0


def text_pairs(z: Tensor, t: Tensor, label: Tensor, old: int, temperature: float) -> Tensor:
    """Symmetric InfoNCE of sounds and their texts among the samples of new classes of all ranks; the other texts and
    sounds of its class, which say the same, are no negatives of a sample. 0 without a new sample.

    Args:
        z, t: [B, D] unit rows of sounds and of texts.
        label: [B] int64; those from ``old`` on are new.
        old: classes that are not.
        temperature: tau.
    """
    classes = gather(label)  # [W * B]
    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [B]
    left_out = (classes < old) | (label[:, None] == classes)  # [B, W * B]
    left_out[torch.arange(len(z), device=z.device), own] = False
    each = [nce(a, gather_with_grad(b), own, temperature, left_out) for a, b in ((z, t), (t, z))]  # 2 x [B]
    return mean_of(torch.stack(each).mean(dim=0), label >= old)
