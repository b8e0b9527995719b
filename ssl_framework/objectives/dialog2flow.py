"""Dialog2Flow: Burdisso et al., Dialog2Flow: Pre-training Soft-Contrastive Action-Driven Sentence Embeddings for
Automatic Dialog Flow Extraction, EMNLP 2024 (arXiv:2410.18481), its soft contrastive loss.

As SupCon, but labels are words, and classes whose words are alike are positives to a degree: the target of an anchor is
a softmax over how alike its label is to those of the batch.
"""

import functools
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class Dialog2Flow(Objective):
    """Cross-entropy of two views with targets of labels, the mean of both directions.

    Args:
        temperature: tau.
        label_temperature: tau of the targets.
        labels: what each class is called, in the order of the classes; how alike two are is the cosine of their bags of
            words (the paper: of a sentence encoder's embeddings of them).
        head: name of the student's head whose outputs are compared.
    """

    requires = frozenset({"label"})
    kernel: Tensor  # [classes, classes]

    def __init__(
        self,
        temperature: Positive,
        label_temperature: Positive,
        labels: Annotated[Sequence[str], Len(2)],
        head: str = "projector",
    ) -> None:
        super().__init__()
        if empty := [number for number, label in enumerate(labels) if not label.split()]:
            raise ValueError(f"objective.labels has no words for class {empty[0]}: say what it is called")
        self.temperature = temperature
        self.label_temperature = label_temperature
        self.num_classes = len(labels)
        self.register_buffer("kernel", kernel_of(labels), persistent=False)
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        alike = self.kernel[batch.label][:, gather(batch.label)]  # [B, W * B]
        target = (alike / self.label_temperature).softmax(dim=1)  # [B, W * B]
        return {"loss": soft(z0, z1, target, self.temperature).mean()}


def soft(z0: Tensor, z1: Tensor, target: Tensor, temperature: float) -> Tensor:
    """The mean of both directions for each sample: two [B, D] of unit rows, targets [B, W * B] -> [B]."""
    find = functools.partial(nce, targets=target, temperature=temperature)
    return (find(z0, gather_with_grad(z1)) + find(z1, gather_with_grad(z0))) / 2  # [B]


def kernel_of(labels: Sequence[str]) -> Tensor:
    """Cosines of bags of words of the labels: [classes, classes] float32."""
    words = sorted({word for label in labels for word in label.lower().split()})
    counts = torch.tensor([[label.lower().split().count(word) for word in words] for label in labels])  # [classes, w]
    bags = unit(counts.float())  # [classes, w]
    return bags @ bags.T
