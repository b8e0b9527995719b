"""Which points of two contours lie on each other: those that choose each other, by their features.

N pairs, T points of a contour, D features.
"""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import Several, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun, clean, frozen_copy
from ssl_framework.evaluation.features import Bare, Splits, extract
from ssl_framework.functional import unit
from ssl_framework.module import SSLModule


@guarded
class PointsFound(AfterRun):
    """Every point of the first contour of a pair and the point of the second one that is nearest to it, by cosine of
    their features, if each is the other's nearest; nothing is fitted.

    Args:
        protocol: see ``AfterRun``.
        num_samples: N, the first so many pairs of the test split; ``None``: all.
        within: points along the contour by which a partner may be missed.
    """

    images_shown = "clean pairs of contours of the test split; nothing is fitted"
    at_the_end = True

    def __init__(
        self, protocol: str, num_samples: Several | None, within: Annotated[int, Interval(ge=0, le=100)]
    ) -> None:
        super().__init__(protocol)
        self.num_samples = num_samples
        self.within = within

    def check(self, module: SSLModule | Bare) -> None:
        if "tokens" not in module.student.dims:
            raise ValueError(
                f"evaluation={self.name} compares features of points, which {module.student.backbone.name} has not: "
                "choose backbone=series_tiny with data=fragments, or another evaluation"
            )

    def check_split(self, split: Split) -> None:
        if "partner" not in (split.beside or {}):
            raise ValueError(
                f"evaluation={self.name} asks which points of two contours lie on each other, which the data do not "
                "say: choose data=fragments, or another evaluation"
            )

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Percent: ``matching[n=500,within=1]/recall`` of the points that have a partner, ``/precision`` of those for
        which one was said. Without an interval: the points of a pair are no samples of their own.

        Raises:
            ValueError: the backbone gives no features of points, or the data do not say which lie on each other.
        """
        self.check(module)
        partner = self.partner(data)  # [N, T]
        student = frozen_copy(module)

        def said(pairs: Tensor) -> Tensor:
            """[B, 2, C, T] -> [B, T] int64"""
            a, b = (unit(student.features(clean(module, x))["tokens"]) for x in pairs.unbind(1))  # [B, T, D] each
            return mutual(a @ b.transpose(1, 2))

        rows = data.test.rows
        pairs = Split(chosen(rows, torch.arange(len(partner), device=rows.device)))
        found = extract(said, pairs, module.device, torch.int64)  # [N, T]
        right = self.right(found, partner)
        share = {"recall": right / int((partner >= 0).sum()), "precision": right / max(1, int((found >= 0).sum()))}
        return self.named(len(partner), share)

    def chance(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Of similarities drawn at random: of 2 T - 1 in a row and a column any may be the greatest."""
        partner = self.partner(data)
        points = partner.shape[1]
        near = min(2 * self.within + 1, points)
        true = (partner >= 0).double().mean().item()  # share of the points
        return self.named(len(partner), {"recall": near / (2 * points - 1), "precision": near * true / points})

    def partner(self, data: DataModule | Splits) -> Tensor:
        """[N, T] int64, -1: none, on the CPU."""
        self.check_split(data.test)
        assert data.test.beside is not None
        return data.test.beside["partner"][: self.num_samples].cpu().long()

    def right(self, found: Tensor, partner: Tensor) -> int:
        """How many of the points [N, T] have a partner and were given it, or one near it along the closed contour."""
        apart = (found - partner).abs()  # [N, T]
        near = torch.minimum(apart, partner.shape[1] - apart) <= self.within
        return int((near & (found >= 0) & (partner >= 0)).sum())

    def named(self, count: int, shares: dict[str, float]) -> dict[str, float]:
        """In percent, with the protocol in the names."""
        return {f"{self.name}[n={count},within={self.within}]/{name}": 100 * share for name, share in shares.items()}


def mutual(similarity: Tensor) -> Tensor:
    """The column that is greatest in each row and whose greatest row it is: [B, N, M] -> [B, N] int64, -1: none."""
    best = similarity.argmax(dim=2)  # [B, N]
    back = similarity.argmax(dim=1).gather(1, best)  # [B, N]
    own = torch.arange(similarity.shape[1], device=similarity.device)  # [N]
    return torch.where(back == own, best, -1)
