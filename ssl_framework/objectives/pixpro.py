"""PixPro: Xie et al., Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation
Learning, CVPR 2021 (arXiv:2011.10043), eq. 1, 3 and 4.

Every position of the student's map, after it has taken up what similar positions hold (``PixelPropagation``), shall
equal the teacher's positions of the other view that show the same place of the image; no negatives.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.functional import positions, unit
from ssl_framework.objectives.base import Objective, geometry_of, outputs_of
from ssl_framework.types import Batch, Clock, Geometry, Outputs
from ssl_framework.views.places import cell_sides, centres


@guarded
class PixPro(Objective):
    """Consistency of near positions, in [-4, 4]: both directions added, each times 2, as the authors' code.

    Args:
        threshold: distance in the image below which two positions are near, in diagonals of the larger cell.
        student_head: name of the head that propagates.
        teacher_head: name of the projector.

    Logs the share of the student's positions that have a near one in the other view, and the deviation of the targets
    over the batch, which is near zero after collapse.
    """

    requires = frozenset({"teacher", "geometry", "maps"})
    against_collapse = ("student_head",)

    def __init__(
        self, threshold: Positive, student_head: str = "propagation", teacher_head: str = "dense_projector"
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.student_head = student_head
        self.teacher_head = teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        maps, targets = outputs_of(student, self.student_head), outputs_of(teacher, self.teacher_head)
        p0, p1 = (unit(positions(x)) for x in maps)  # [B, P, D] each
        k0, k1 = (unit(positions(x)) for x in targets)  # [B, P, D] each
        first, second = geometry_of(student, batch)
        size, other = [(x.shape[2], x.shape[3]) for x in maps]
        close = near(first, second, size, other, self.threshold).to(p0.dtype)  # [B, P, Q]
        loss = consistency(p0, k1, close) + consistency(p1, k0, close.transpose(1, 2))
        spread = torch.stack([k.mean(dim=1).std(dim=0).mean() for k in (k0, k1)]).mean()
        return {"loss": loss, "near_positions": close.amax(dim=2).mean(), "target_std": spread}


def near(first: Geometry, second: Geometry, size: tuple[int, int], other: tuple[int, int], threshold: float) -> Tensor:
    """Which positions of two views of the same images show nearly the same place (eq. 1).

    Args:
        first, second: where B views were cut.
        size, other: h, w of their maps.
        threshold: in diagonals of the larger of both cells.

    Returns:
        [B, h * w of the first, h * w of the second] bool.
    """
    apart = (centres(first, *size)[:, :, None] - centres(second, *other)[:, None]).norm(dim=3)  # [B, P, Q]
    diagonal = torch.maximum(cell_sides(first, *size).norm(dim=1), cell_sides(second, *other).norm(dim=1))  # [B]
    return apart < threshold * diagonal[:, None, None]


def consistency(p: Tensor, k: Tensor, close: Tensor) -> Tensor:
    """Minus twice the mean cosine of near positions (eq. 4), averaged over the images; one without any counts 0.

    Args:
        p, k: unit rows [B, P, D] and [B, Q, D].
        close: [B, P, Q] 1 where two are near, else 0.
    """
    total = (close * (p @ k.transpose(1, 2))).sum(dim=(1, 2))  # [B]
    return -2 * (total / (close.sum(dim=(1, 2)) + 1e-6)).mean()
