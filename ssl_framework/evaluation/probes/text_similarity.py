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
    x, y = (ranks(each) - (len(each) - 1) / 2 for each in (a, b))  # [P] each, of mean 0
    scale = x.square().sum().sqrt() * y.square().sum().sqrt()
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def ranks(values: Tensor) -> Tensor:
    """The place of each value in their order, from 0; equal ones have the mean of their places: [P] -> [P] float64."""
    _, inverse, count = values.unique(return_inverse=True, return_counts=True)  # sorted
    before = count.cumsum(0) - count  # [u]
    return (before.double() + (count.double() - 1) / 2)[inverse]  # [P]


def below(a: Tensor, b: Tensor) -> float:
    """The share of pairs (x of a, y of b) in which x is below y, equal ones by half: [n], [m] -> a number in [0, 1]."""
    place = ranks(torch.cat([b, a]))[: len(b)]  # [m], among all
    return float((place.sum() - len(b) * (len(b) - 1) / 2) / (len(a) * len(b)))
