"""O3's detector: Gao et al., Practical Unlearning for Large Language Models, ICLR 2025 (arXiv:2407.10223): a text of
which words are hidden has to be sure which whole text it is alike, layer by layer. What is far from all texts that were
seen is told by the features of all layers together (``evaluation=layers``).

B samples of this rank, W ranks.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

EPSILON = 1e-5
"""In the logarithm; the authors' code."""


@guarded
class ContrastiveEntropy(Objective):
    """The entropy with which each sample's second view chooses among the first views of the global batch, the mean over
    samples and the sum over layers. No sample is named as the right one.

    Args:
        layers: outputs of the student that are compared, by dot products without a temperature: vectors, tokens or
            maps, of which the mean over places is taken.
    """

    def __init__(self, layers: Annotated[Sequence[str], Len(1)]) -> None:
        super().__init__()
        self.reads = tuple(layers)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        losses = []
        for layer in self.reads:
            clean, masked = map(pooled, outputs_of(student, layer))  # [B, D] each
            losses.append(contrastive_entropy(masked, gather_with_grad(clean)))
        return {"loss": torch.stack(losses).sum()}


def contrastive_entropy(masked: Tensor, clean: Tensor) -> Tensor:
    """``mean_i -sum_j p_ij log(p_ij + epsilon)`` with p the softmax over j of ``masked_i . clean_j``: a scalar in
    [0, log M], about.

    Args:
        masked: [N, D].
        clean: [M, D].
    """
    p = (full_precision(masked) @ full_precision(clean).T).softmax(dim=1)  # [N, M]
    return -(p * (p + EPSILON).log()).sum(dim=1).mean()


def pooled(x: Tensor) -> Tensor:
    """[B, D], [B, N, D] or [B, D, h, w] -> [B, D], the mean over places; a token of zeros is padding."""
    x = full_precision(x)
    if x.ndim == 3:
        return x.sum(dim=1) / (x != 0).any(dim=2).sum(dim=1, keepdim=True).clamp(min=1)
    return x.mean(dim=(2, 3)) if x.ndim == 4 else x
