"""PatchMix: Shen et al., Inter-Instance Similarity Modeling for Contrastive Learning, 2023 (arXiv:2306.12243), on MoCo
v3.

Beside the clean views a mixture of each is encoded, made of the patches of m images. Its targets are the m images, 1/m
each, and of the other view's mixtures the 2m - 1 with which it has images in common, in proportion to how many.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.functional import nce
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.mixture_pairs import costs, mixture_pairs
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class PatchMix(Objective):
    """Cross-entropy between images (both directions), from mixtures to images and from mixtures to mixtures.

    Args:
        temperature: tau.
        student_head: the predictor's name.
        teacher_head: the projector's name.
    """

    requires = frozenset({"teacher", "added mixtures", "keys of mixtures"})

    def __init__(self, temperature: Positive, student_head: str = "predictor", teacher_head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.student_head = student_head
        self.teacher_head = teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        pairs = mixture_pairs(student, teacher, batch, self.student_head, self.teacher_head)
        terms = costs(pairs, lambda pair: nce(pair.q, pair.keys, pair.share, self.temperature))
        loss = torch.stack(list(terms.values())).sum()
        return {"loss": loss, **{f"{kind}_loss": term for kind, term in terms.items()}}
