"""ViLLA: Varma et al., ViLLA: Fine-Grained Vision-Language Representation Learning from Real-World Data, ICCV 2023
(arXiv:2308.11194), section 3: its first stage.

Which region of a picture shows what its text names is not known, only that some region does. An attribute has to be
nearer to the best region of a picture that has it than to that of any picture that has not.

B samples of this rank, M of all ranks, R regions of a picture, A attributes, D their width.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, Several, guarded
from ssl_framework.distributed import gather, gather_with_grad, mean_of
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs

LAST_SPECIAL = 4
"""Tokens up to this one are no words (``views.text``)."""


@guarded
class ViLLA(Objective):
    """CLIP's loss, and that of attributes: here every word of a text is one, and every place of a picture a region.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        weight: of the loss of attributes.
        attribute_temperature: tau of its cosines.
        vocabulary: A, words are numbers below it.
        dim: D, width of the head.
        head: name of the head, the same in every tower, through which regions go, too.
    """

    requires = frozenset({"heads", "inputs"})

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        weight: NonNegative,
        attribute_temperature: Positive,
        vocabulary: Several,
        dim: Count,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.weight = weight
        self.attribute_temperature = attribute_temperature
        self.attributes = nn.Parameter(torch.randn(vocabulary, dim))  # [A, D]
        self.head = head
        self.reads = (head, "places")
        self.token_reads = ("places",)
        self.modality = {0: "image", 1: "text"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        assert self.through_heads is not None
        self.clip.bound()
        z0, z1 = rows_of(student, self.head)  # [B, D] each
        pairs = self.clip.both_ways(z0, z1).mean()
        places = outputs_of(student, "places")[0]  # [B, R, D']
        regions = self.through_heads(places.flatten(0, 1))[self.head].unflatten(0, places.shape[:2])  # [B, R, D]
        scores = self.word_scores(regions)  # [B, R, A]
        named = attribute_loss(scores.amax(dim=1), words_of(batch.views[1], len(self.attributes)))
        logged = {"clip_loss": pairs.detach(), "attribute_loss": named.detach()}
        return {"loss": pairs + self.weight * named, **logged, "scale": self.clip.log_scale.detach().exp()}

    def word_scores(self, regions: Tensor) -> Tensor:
        """How much regions behind the head look like each word: [B, R, D] -> [B, R, A]."""
        return region_scores(regions, self.attributes, self.attribute_temperature)


def words_of(ids: Tensor, vocabulary: int) -> Tensor:
    """Which words a text has: [B, L] int64 -> [B, A] bool."""
    has = torch.zeros(len(ids), vocabulary, dtype=torch.bool, device=ids.device).scatter_(1, ids, True)  # [B, A]
    has[:, : LAST_SPECIAL + 1] = False
    return has


def region_scores(regions: Tensor, attributes: Tensor, temperature: float) -> Tensor:
    """Cosines over the temperature: [B, R, D] and [A, D] -> [B, R, A]. A picture's score is that of its best region."""
    return unit(regions) @ unit(attributes).T / temperature


def attribute_loss(scores: Tensor, has: Tensor) -> Tensor:
    """``-log(e^s / (e^s + sum of e^s' over pictures without the attribute))``, the mean over all true pairs.

    The authors' code adds 1 to the sum for each further picture that has the attribute; here it counts nothing.

    Args:
        scores: [B, A] of this rank's pictures, which are compared with those of all ranks.
        has: [B, A] bool, which attributes hold.
    """
    without = gather_with_grad(scores).masked_fill(gather(has), -1e9)  # [M, A]
    return mean_of(torch.logaddexp(scores, without.logsumexp(dim=0)) - scores, has)


def mapping(scores: Tensor, has: Tensor, epsilon: float) -> Tensor:
    """Which region shows which attribute, the input of the second stage: those within ``epsilon`` of the best.

    Args:
        scores: [B, R, A].
        has: [B, A] bool.
        epsilon: of a score, at least 0.

    Returns:
        [B, R, A] bool
    """
    return has[:, None] & (scores >= scores.amax(dim=1, keepdim=True) - epsilon)
