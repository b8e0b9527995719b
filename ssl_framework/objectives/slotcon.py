"""SlotCon: Wen et al., Self-Supervised Visual Representation Learning with Semantic Grouping, NeurIPS 2022
(arXiv:2205.15288), eq. 1 to 6.

Positions are grouped by prototypes: the student predicts the teacher's grouping of the other view, place by place in
what both show. The groups of an image become slots, which are told from the slots of all images.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Fraction, Positive, guarded
from ssl_framework.distributed import gather, mean_of, rank
from ssl_framework.functional import nce, positions, unit
from ssl_framework.models.heads import Head, built
from ssl_framework.objectives.base import Objective, geometry_of, outputs_of
from ssl_framework.types import Batch, Clock, Outputs
from ssl_framework.views.places import read_at, shared


@guarded
class SlotCon(Objective):
    """Grouping and contrast of slots, both summed over the two directions, as the authors' code.

    Args:
        student_temperature, teacher_temperature: tau_s and tau_t of the groupings; slots are pooled at tau_t.
        slot_temperature: tau of the contrast, whose loss is multiplied by 2 tau.
        grouping_weight: share of the grouping's loss; the rest is that of the contrast.
        center_momentum: of the mean teacher cosine, which is taken off.
        predictor: head without layers for the student's slots, "slots" [R, D, 1, 1], as wide as these.
        head: name of the projector of student and teacher.
        prototypes: name of their cosines with the prototypes.

    Logs how many prototypes win a position of an image, and the share of images whose views have something in common.
    """

    requires = frozenset({"teacher", "geometry", "maps"})

    center: Tensor  # [K] mean cosine of the teacher's positions with each prototype

    def __init__(
        self,
        student_temperature: Positive,
        teacher_temperature: Positive,
        slot_temperature: Positive,
        grouping_weight: Fraction,
        center_momentum: BelowOne,
        predictor: Head,
        head: str = "dense_projector",
        prototypes: str = "prototypes",
    ) -> None:
        super().__init__()
        self.temperatures = student_temperature, teacher_temperature, slot_temperature
        self.grouping_weight = grouping_weight
        self.center_momentum = center_momentum
        self.predictor = predictor
        self.head = head
        self.prototypes = prototypes
        self.reads = self.teacher_reads = (head, prototypes)

    def meet(self, teacher: Mapping[str, int]) -> None:
        """Makes the centre, and the predictor's layers."""
        self.register_buffer("center", torch.zeros(teacher[self.prototypes]))  # [K]
        self.predictor = built(self.predictor, {"slots": teacher[self.head]})

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        cuts = geometry_of(student, batch)
        both = shared(*cuts)
        overlap = (both.box[:, 2:] > both.box[:, :2]).all(dim=1)  # [B]
        x, y = ([positions(z) for z in outputs_of(side, self.head)] for side in (student, teacher))  # 2 x [B, P, D]
        s, t = (outputs_of(side, self.prototypes) for side in (student, teacher))  # 2 x [B, K, h, w] each
        near_s, near_t = ([read_at(both, z, g) for z, g in zip(side, cuts, strict=True)] for side in (s, t))
        s, t = ([positions(z) for z in side] for side in (s, t))  # 2 x [B, P, K] each
        grouping = torch.stack([self.grouping(near_s[v], near_t[1 - v], overlap) for v in range(2)]).sum()
        q, k = ([slots(*z, self.temperatures[1]) for z in zip(*side, strict=True)] for side in ((x, s), (y, t)))
        contrast = torch.stack([self.contrast(q[v], k[1 - v], s[v], t[1 - v]) for v in range(2)]).sum()
        mean = torch.cat(t).mean(dim=(0, 1))  # [K]
        self.center.lerp_(gather(mean[None]).mean(dim=0), 1 - self.center_momentum)
        return {
            "loss": self.grouping_weight * grouping + (1 - self.grouping_weight) * contrast,
            "grouping_loss": grouping.detach(),
            "slot_loss": contrast.detach(),
            "slots_of_an_image": torch.cat([found(z) for z in t]).sum(dim=1, dtype=x[0].dtype).mean(),
            "overlapping": overlap.to(x[0].dtype).mean(),
        }

    def grouping(self, s: Tensor, t: Tensor, overlap: Tensor) -> Tensor:
        """Cross-entropy of the student's grouping against the teacher's (eq. 3): cosines [B, P, K] at the same places,
        and whether a view shows them [B] -> mean over the images of all ranks that have any."""
        target = ((t - self.center) / self.temperatures[1]).softmax(dim=2)  # [B, P, K]
        each = -(target * (s / self.temperatures[0]).log_softmax(dim=2)).sum(dim=2).mean(dim=1)  # [B]
        return mean_of(each, overlap)

    def contrast(self, q: Tensor, k: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """InfoNCE of slots (eq. 5): one that wins positions in both views, against the teacher's that win any; slots
        [B, K, D] of student and teacher, and their positions' cosines [B, P, K]."""
        asks, answers = found(s).flatten(), found(t).flatten()  # [B * K] each
        rows = asks.nonzero()[:, 0]  # [R]: at least one an image
        p = unit(self.predictor({"slots": q.flatten(0, 1)[rows, :, None, None]})[:, :, 0, 0])  # [R, D]
        everyone = gather(answers)  # [W * B * K]
        keys = gather(unit(k.flatten(0, 1)))[everyone]  # [M, D]
        column = everyone.cumsum(dim=0) - 1  # [W * B * K]
        target = column[rank() * len(answers) + rows].clamp(min=0)  # [R]
        tau = self.temperatures[2]
        return 2 * tau * mean_of(nce(p, keys, target, tau), answers[rows])


def slots(x: Tensor, cosine: Tensor, temperature: float) -> Tensor:
    """Mean position of each prototype, by its share in them (eq. 4).

    Args:
        x: positions [B, P, D], not of unit length.
        cosine: [B, P, K] with the prototypes.
        temperature: of the softmax over prototypes.

    Returns:
        [B, K, D]
    """
    share = (cosine / temperature).softmax(dim=2) + 1e-6  # [B, P, K]
    return (share / share.sum(dim=1, keepdim=True)).transpose(1, 2) @ x  # [B, K, D]


def found(cosine: Tensor) -> Tensor:
    """Which prototypes are the nearest of a position: [B, P, K] -> [B, K] bool."""
    return (cosine.argmax(dim=2, keepdim=True) == torch.arange(cosine.shape[2], device=cosine.device)).any(dim=1)
