"""SimCLR: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020
(arXiv:2002.05709), eq. 1 (NT-Xent).

Every view is an anchor; its positive is the other view of the same sample, its negatives are both views of all other
samples of the global batch, and what a feature mixer makes of them.
"""

from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.feature_mixers.base import in_batch
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.infonce import contrast, pairs
from ssl_framework.objectives.siamese import Siamese, unit_rows
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SimCLR(Objective):
    """NT-Xent over two views. Where a mixer has mixed one of them, that view alone asks and the clean one answers (the
    N-pair form of i-Mix).

    Args:
        temperature: tau.
        head: name of the student's head whose output is compared.
    """

    accepts = frozenset({"mixer", "terms of mixtures", "positive pairs", "negatives", "queries of both views"})

    def __init__(self, temperature: Positive, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        features = self.mixed(pairs(z0, z1, batch.mix), clock)
        found = contrast(features, self.temperature, positive_in_denominator=True)
        return {"loss": found.loss.mean(), **found.logged()}

    def siamese(self, student: list[Outputs | None], teacher: list[Outputs | None] | None) -> Siamese:
        """The other view answers; a pair costs the mean of both directions."""
        return Siamese(self.head, unit_rows(student, self.head), None, self.pair)

    def pair(self, z0: Tensor, z1: Tensor) -> Tensor:
        """NT-Xent of each pair of the global batch, the mean of its two anchors: two [B, D] of unit rows -> [B]."""
        loss = contrast(in_batch(z0, z1), self.temperature, positive_in_denominator=True).loss  # [2B], sample by sample
        return loss.view(-1, 2).mean(dim=1)  # [B]
