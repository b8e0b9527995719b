"""Semantic textual similarity: whether cosines order pairs of texts as their scores do (Reimers and Gurevych, EMNLP
2019, arXiv:1908.10084, section 4; Reimers, Beyer, Gurevych, COLING 2016, why Spearman and not Pearson)."""

import torch
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.evaluation.wordings import Wordings


@guarded
class TextSimilarity:
    """Spearman's correlation of cosines with the scores of graded pairs; equal values have their mean rank."""

    def __call__(self, test: Wordings) -> dict[str, float]:
        """``sts[pairs=P]/spearman``, times 100; nothing without graded pairs, or where all cosines are equal."""
        if test.graded is None:
            return {}
        texts = test.graded.pair  # [P, 2, 2]
        a, b = (test.z[texts[:, side, 0], texts[:, side, 1]] for side in (0, 1))  # [P, D] each
        return {self.name(test): 100 * spearman((a * b).sum(dim=1), test.graded.score)}

    def chance(self, test: Wordings) -> dict[str, float]:
        """No correlation."""
        return {} if test.graded is None else {self.name(test): 0.0}

    def name(self, test: Wordings) -> str:
        """With the number of pairs."""
        assert test.graded is not None
        return f"sts[pairs={len(test.graded.score)}]/spearman"


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of the ranks of two rows of numbers [P], in [-1, 1]; not a number where one of them is constant."""
    from scipy.stats import spearmanr  # slow to import

    if len(a) == 0 or bool((a == a[0]).all() | (b == b[0]).all()):
        return float("nan")
    return float(spearmanr(a.cpu().numpy(), b.cpu().numpy()).statistic)


def ranks(values: Tensor) -> Tensor:
    """The place of each value in their order, from 0; equal ones have the mean of their places: [P] -> [P] float64."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values.cpu().numpy()) - 1)  # [P]


def below(a: Tensor, b: Tensor) -> float:
    """The share of pairs (x of a, y of b) in which x is below y, equal ones by half: [n], [m] -> a number in [0, 1]."""
    place = ranks(torch.cat([b, a]))[: len(b)]  # [m], among all
    return float((place.sum() - len(b) * (len(b) - 1) / 2) / (len(a) * len(b)))
