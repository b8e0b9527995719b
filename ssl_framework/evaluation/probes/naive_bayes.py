"""A generative and a discriminative classifier on the same features, over training sizes.

Ng and Jordan, On Discriminative vs. Generative Classifiers: A Comparison of Logistic Regression and Naive Bayes,
NeurIPS 2001; on features of pretrained networks: Zheng et al., Revisiting Discriminative vs. Generative Classifiers:
Theory and Implications, ICML 2023 (arXiv:2302.02334). Both are linear in the features; naive Bayes comes near its best
accuracy with fewer samples, logistic regression ends higher.

n samples a class, N of them in all, M samples of the test split, D features, C classes.
"""

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Positive, Seed, guarded
from ssl_framework.evaluation.features import Accuracy, Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite
from ssl_framework.evaluation.probes.few_labels import drawn_by_class
from ssl_framework.evaluation.probes.linear import LinearProbe


@guarded
class NaiveBayes:
    """Gaussian naive Bayes and logistic regression, fitted on the same n rows of every class of the train split.

    A smaller n is a part of the larger ones; each is drawn once. Cost for each n: naive Bayes N D + M C D, logistic
    regression that of the linear probe.

    Args:
        sizes: n, samples a class.
        floor: least variance of a feature, as a share of the mean variance of all features over the N rows. With n=1
            every variance is this floor, and naive Bayes is the nearest mean.
        linear: the logistic regression.
        seed: of the draw.
    """

    def __init__(
        self, sizes: Annotated[Sequence[Count], Len(1)], floor: Positive, linear: LinearProbe, seed: Seed
    ) -> None:
        self.sizes = list(sizes)
        self.floor = floor
        self.linear = linear
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent for each n, named ``naive_bayes[n=16]/top1`` and ``logistic[n=16,l2=0.0001]/top1``.

        An n larger than the smallest class is left out, with one warning that says so.
        """
        if not (are_classes(train.y, "naive Bayes") and are_finite("naive Bayes", train, test)):
            return {}
        classes = drawn_by_class(train.y, self.seed)
        if len(classes) < 2:
            warnings.warn("naive Bayes skipped: the train split has only one class")
            return {}
        least = min(len(rows) for rows in classes)
        if left_out := [n for n in self.sizes if n > least]:
            warnings.warn(f"naive Bayes with n={left_out} skipped: the smallest class has only {least} samples")
        found: dict[str, float] = {}
        for n in self.sizes:
            if n > least:
                continue
            kept = torch.cat([rows[:n] for rows in classes])  # [N]
            part = Frozen(train.x[kept], train.y[kept])
            known, score = naive_bayes(part, test.x, self.floor)
            right = known[score.argmax(dim=1)] == test.y  # [M]
            found[f"naive_bayes[n={n}]/top1"] = Accuracy(int(right.sum()), len(right))
            (found[f"logistic[n={n},l2={self.linear.weight_decay:g}]/top1"],) = self.linear(part, test).values()
        return found


def naive_bayes(train: Frozen, at: Tensor, floor: float, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Gaussian naive Bayes with one variance a feature, the same for all classes, in closed form and float64.

    Args:
        train: N rows.
        at: [M, D] rows to score.
        floor: least variance, as a share of the mean variance of all features of ``train``.
        chunk: rows scored at once.

    Returns:
        [C] the classes that occur; [M, C] float64 ``log(share of c) - sum over d of (x_d - mean_cd)^2 / (2 var_d)``.
    """
    classes, index, count = train.y.unique(return_inverse=True, return_counts=True)  # [C], [N], [C]
    centre = train.x.double().mean(dim=0)  # [D]
    x = train.x.double() - centre  # [N, D]
    mean = torch.zeros(len(classes), x.shape[1], dtype=x.dtype).index_add_(0, index, x) / count[:, None]  # [C, D]
    least = (floor * x.square().mean()).clamp(min=1e-12)
    scale = (x - mean[index]).square().mean(dim=0).clamp(min=least).rsqrt()  # [D], 1 / standard deviation
    prior = (count / count.sum()).double().log()  # [C]
    mean = mean * scale  # [C, D]
    parts = [
        prior - torch.cdist((part.double() - centre) * scale, mean).square() / 2 for part in at.split(chunk)
    ]  # [m, C] each
    return classes, torch.cat(parts)  # [M, C]
