"""The linear probe with a penalty that is chosen on a part of the train split.

N samples of the train split, of which H are held out, M of the test split, D features, C classes, L penalties.
"""

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Len

from ssl_framework.arguments import Count, OpenFraction, Positive, Seed, guarded
from ssl_framework.data.base import holdout
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite, moments, right
from ssl_framework.evaluation.probes.linear import LinearProbe

TOLERANCE = 1e-6
"""A tenth of that of ``LinearProbe``, so that the choice depends on the penalty and not on where the fit stops."""


@guarded
class LinearAuto:
    """Multinomial logistic regression on standardised frozen features, whose penalty no one has to know.

    Logistic regression with a penalty swept on held-out data is the linear evaluation of Kornblith et al., Do Better
    ImageNet Models Transfer Better?, CVPR 2019 (arXiv:1805.08974). A part of every class is held out, and the penalty
    of the best accuracy there is taken, of equally good ones the strongest. The probe is then fitted once more on all
    of the train split, and the test split is scored once.

    Cost: L + 1 fits of about ``max_iter`` passes or fewer, each 4 N D C multiplications. A fit starts where that of the
    next stronger penalty ended, the last one where that of the chosen penalty did. Strong penalties take a fifth of 100
    iterations and weak ones all: six penalties took six times as long as ``LinearProbe``.

    Args:
        penalties: to choose from, lambda of ``mean cross-entropy + lambda |weight|^2 / 2``; a mean, so that one value
            means the same for a part of the train split and for all of it.
        max_iter: L-BFGS iterations of each fit.
        held_out: share of every class of the train split the penalty is chosen on, in (0, 1).
        seed: of the held-out part.
    """

    def __init__(
        self, penalties: Annotated[Sequence[Positive], Len(1)], max_iter: Count, held_out: OpenFraction, seed: Seed
    ) -> None:
        self.penalties = sorted((float(penalty) for penalty in penalties), reverse=True)
        self.max_iter = max_iter
        self.held_out = held_out
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent, named ``linear[l2=auto]/top1``, and the penalty chosen, ``linear[l2=auto]/l2``."""
        if not (are_classes(train.y, "the linear probe") and are_finite("the linear probe", train, test)):
            return {}
        held = holdout(train.y, len(train.y), self.held_out, self.seed)  # [N]
        if len(train.y.unique()) < 2 or not held.any():
            why = "only one class" if held.any() else "no class with two samples, of which one could be held out"
            warnings.warn(f"the linear probe with l2=auto skipped: the train split has {why}")
            return {}
        mean, std = moments(train.x[~held])
        rest, part = ((train.x[rows].float() - mean) / std for rows in (~held, held))  # [N - H, D], [H, D]
        found, start = [], None
        for penalty in self.penalties:
            start = LinearProbe(penalty, self.max_iter).fit(rest, train.y[~held], start, TOLERANCE)
            found.append((right(F.linear(part, *start).argmax(dim=1), train.y[held]), penalty, start))
        _, chosen, start = max(found, key=lambda one: one[:2])
        mean, std = moments(train.x)
        weight, bias = LinearProbe(chosen, self.max_iter).fit((train.x.float() - mean) / std, train.y, start, TOLERANCE)
        answer = F.linear((test.x.float() - mean) / std, weight, bias).argmax(dim=1)  # [M]
        return {"linear[l2=auto]/top1": right(answer, test.y), "linear[l2=auto]/l2": chosen}
