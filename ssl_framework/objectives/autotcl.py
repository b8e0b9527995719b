"""AutoTCL: Zheng et al., Parametric Augmentation for Time Series Contrastive Learning, ICLR 2024 (arXiv:2402.10434),
section 3.

A series and a learned view of it have to find each other, as wholes and part by part. The network that makes the views
keeps the distribution of their features near that of the series, while it may let only so many values through.

B samples of this rank, C channels, T points, D features, P parts of a series.
"""

from torch import Tensor

from ssl_framework.arguments import Count, Fraction, NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.infonce import nt_xent
from ssl_framework.objectives.learned_views import LearnedViews, discrepancy, roughness
from ssl_framework.objectives.ts2vec import temporal_contrast
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class AutoTCL(Objective):
    """Contrast of series and learned views for the encoder, and a loss of their own for the views.

    A learned view is made of the last view of the batch: of the series itself where there is one, as in the paper, or
    of a random view of it that the student does not encode.

    Args:
        views: makes the views.
        temperature: tau of both contrasts, of cosines.
        local_weight: of the contrast of parts.
        parts: P.
        kept: share of values above which a mask costs.
        regulariser: weight of that cost.
        smoothness: weight of a mask's changes from point to point.
        head: name of the student's output that is compared, [B, T, D], a vector a point.
    """

    requires = frozenset({"inputs", "encoder", "maps"})
    num_views = (1, 1)

    def __init__(
        self,
        views: LearnedViews,
        temperature: Positive,
        local_weight: NonNegative,
        parts: Count,
        kept: Fraction,
        regulariser: NonNegative,
        smoothness: NonNegative,
        head: str = "points",
    ) -> None:
        super().__init__()
        self.views = views
        self.temperature = temperature
        self.local_weight, self.parts = local_weight, parts
        self.kept, self.regulariser, self.smoothness = kept, regulariser, smoothness
        self.head = head
        self.reads = self.token_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (seen,) = [view for view in student if view is not None]
        assert self.through_encoder is not None
        view, mask = self.views(batch.views[-1], clock)  # [B, C, T] each
        z, y = seen[self.head], self.through_encoder(view.detach(), False)[self.head]  # [B, T, D] each
        whole = nt_xent(unit(z.amax(dim=1)), unit(y.amax(dim=1)), self.temperature)
        local = local_contrast(z, y, self.parts, self.temperature)
        own = self.loss_of_views(z.detach(), self.through_encoder(view, True)[self.head], mask)
        loss = whole + self.local_weight * local + (own - own.detach())  # each as if the other were constant
        logged = {"whole": whole, "local": local, "view_loss": own, "passed": mask.mean()}
        return {"loss": loss, **{name: value.detach() for name, value in logged.items()}}

    def loss_of_views(self, z: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """What the views learn by, of the global batch.

        Args:
            z, y: [B, T, D], points of series and of views.
            mask: [B, C, T].
        """
        far = discrepancy(*(gather_with_grad(unit(each.amax(dim=1))) for each in (z, y)))
        passed = gather_with_grad(mask.mean(dim=(1, 2))).mean()
        rough = gather_with_grad(roughness(mask)).mean()
        return far + self.regulariser * (passed - self.kept).relu() + self.smoothness * rough


def local_contrast(z: Tensor, y: Tensor, parts: int, temperature: float) -> Tensor:
    """Each part of a series finds itself in the view, among all parts of both.

    Args:
        z, y: [B, T, D].
        parts: P, of T // P points each, of which the greatest features count; the rest is left out.
        temperature: tau.

    Raises:
        ValueError: there are fewer points than parts.
    """
    size = z.shape[1] // parts
    if size == 0:
        raise ValueError(f"objective.parts is {parts}, but a series has {z.shape[1]} points: set it to fewer")
    pieces = [each[:, : size * parts].unflatten(1, (parts, size)).amax(dim=2) for each in (z, y)]  # 2 x [B, P, D]
    first, second = (unit(each) / temperature**0.5 for each in pieces)
    return temporal_contrast(first, second)
