"""Whether a classifier on the last layer gains from a contrast with one on an earlier layer, as decoding does in LOL
(arXiv:2408.08769) and AdaCAD (arXiv:2409.07394): see ``evaluation.contrast``."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, NonNegative, guarded
from ssl_framework.evaluation.contrast import adaptive_contrast, plausible_contrast
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, moments, right
from ssl_framework.evaluation.probes.linear import LinearProbe


@guarded
class LayerContrast:
    """Logistic regression on each layer of the train split; the last layer is the expert, each other one an amateur.

    Args:
        alpha: share of the highest probability that an answer needs to be plausible.
        weight_decay: as in ``LinearProbe``.
        max_iter: likewise.
    """

    def __init__(self, alpha: Fraction, weight_decay: NonNegative, max_iter: Count) -> None:
        self.alpha = alpha
        self.classifier = LinearProbe(weight_decay, max_iter)

    def __call__(self, train: Sequence[Frozen], test: Sequence[Frozen]) -> dict[str, float]:
        """Top-1 in percent: ``layer_contrast[layer=1]/top1`` of every layer by itself, and of the last one against each
        other one ``layer_contrast[amateur=1,alpha=0.1]/top1`` (LOL) and ``layer_contrast[amateur=1,adaptive]/top1``
        (AdaCAD). Nothing for labels that are numbers."""
        if not are_classes(train[0].y, "layer_contrast"):
            return {}
        logits = [self.logits(bank, asked.x) for bank, asked in zip(train, test, strict=True)]  # L x [M, classes]
        answers = {f"layer={number}": each for number, each in enumerate(logits, start=1)}
        for number, amateur in enumerate(logits[:-1], start=1):
            answers[f"amateur={number},alpha={self.alpha:g}"] = plausible_contrast(logits[-1], amateur, self.alpha)
            answers[f"amateur={number},adaptive"] = adaptive_contrast(logits[-1], amateur)
        y = test[0].y
        return {f"layer_contrast[{what}]/top1": right(each.argmax(dim=1), y) for what, each in answers.items()}

    def logits(self, train: Frozen, x: Tensor) -> Tensor:
        """Class scores [M, classes] of rows [M, D]."""
        mean, std = moments(train.x)
        weight, bias = self.classifier.fit((train.x.float() - mean) / std, train.y)
        return F.linear((x.float() - mean) / std, weight, bias)
