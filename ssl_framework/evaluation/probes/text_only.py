"""CLOSE: Gu, Clark and Kembhavi, I Can't Believe There's No Images! Learning Visual Tasks Using only Language
Supervision, ICCV 2023 (arXiv:2211.09778), section 3: a classifier that has seen texts alone is asked of pictures."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Seed, guarded
from ssl_framework.evaluation.cross_modal import Pairs
from ssl_framework.evaluation.probes.base import right
from ssl_framework.evaluation.probes.linear import LinearProbe
from ssl_framework.functional import unit


@guarded
class TextOnly:
    """Logistic regression on the text embeddings of half the samples, with noise so that a picture's would not be
    strange to it, scored on the pictures of the other half.

    Args:
        noise: deviations of the normal noise that is added to each coordinate before the length is one again (section
            3.2: 0.08 for CLIP's 512 numbers; 0: none); one score each.
        shift: whether texts are moved by the difference of the two modalities' means, as a further score (section 3.3).
        copies: of each text, each with noise of its own.
        weight_decay: as in ``LinearProbe``.
        max_iter: likewise.
        seed: of the halves and the noise.
    """

    def __init__(
        self,
        noise: Annotated[Sequence[NonNegative], Len(1)],
        shift: bool,
        copies: Count,
        weight_decay: NonNegative,
        max_iter: Count,
        seed: Seed,
    ) -> None:
        self.noise = list(noise)
        self.shift = shift
        self.copies = copies
        self.classifier = LinearProbe(weight_decay, max_iter)
        self.seed = seed

    def __call__(self, test: Pairs) -> dict[str, float]:
        """Top-1 of pictures in percent, ``text_only[shape,noise=0.08]/top1`` and, moved without noise,
        ``text_only[shape,shift]/top1``, for every factor that has prompts."""
        draws = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(test.main), generator=draws)  # [N]; data may lie in the order of their classes
        read, asked = order[: len(order) // 2], order[len(order) // 2 :]  # [n], [m]
        texts, pictures = test.other[read], test.main[asked]  # [n, D], [m, D]
        many = texts.repeat(self.copies, 1)  # [copies * n, D]
        n = torch.randn(many.shape, generator=draws)  # [copies * n, D]
        seen = {f"noise={scale:g}": noised(many, n, scale) for scale in self.noise}
        if self.shift:
            seen["shift"] = shifted(many, texts, test.main[read])
        scores: dict[str, float] = {}
        for factor in test.prompts:
            label = test.label[factor]
            for how, x in seen.items():
                weight, bias = self.classifier.fit(x, label[read].repeat(self.copies))
                answer = F.linear(pictures, weight, bias).argmax(dim=1)  # [m]
                scores[f"text_only[{factor},{how}]/top1"] = right(answer, label[asked])
        return scores

    def chance(self, test: Pairs) -> dict[str, float]:
        """100 / classes."""
        hows = [f"noise={scale:g}" for scale in self.noise] + ["shift"] * self.shift
        return {f"text_only[{f},{how}]/top1": 100 / len(x) for f, x in test.prompts.items() for how in hows}


def noised(rows: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Unit rows [N, D] with noise [N, D] of that deviation, of unit length again (section 3.2)."""
    return unit(rows + scale * noise)


def shifted(rows: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Unit rows [N, D] moved from the mean of their modality's rows [n, D] to the other's [m, D] (section 3.3)."""
    return unit(rows + other.mean(dim=0) - own.mean(dim=0))
