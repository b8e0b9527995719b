"""VICReg: Bardes et al., VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning, ICLR 2022
(arXiv:2105.04906), eq. 1 to 6; and VIbCReg: Lee and Aune, Computer Vision Self-supervised Learning Methods on Time
Series, 2021 (arXiv:2109.00783).

Views of a sample are drawn together, while a hinge keeps the deviation of every dimension above one and the dimensions
are decorrelated, each view for itself over the global batch. No negatives, no teacher, no normalisation of vectors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class VICReg(Objective):
    """``lam * invariance + mu * mean over views of variance + nu * sum over views of covariance``.

    The invariance is the mean squared difference of the two views, over samples and dimensions.

    Args:
        invariance: lam.
        variance: mu.
        covariance: nu.
        eps: added to a variance before its root.
        head: name of the student's head whose output is compared, not normalised.
    """

    against_collapse = ("variance",)

    def __init__(
        self,
        invariance: NonNegative,
        variance: NonNegative,
        covariance: NonNegative,
        eps: Positive,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance
        self.eps = eps
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = [full_precision(x) for x in outputs_of(student, self.head)]  # 2 x [B, D]
        everyone = [gather_with_grad(x) for x in z]  # 2 x [W * B, D]
        invariance = (z[0] - z[1]).square().mean()  # of this rank's samples; the other terms are alike on all ranks
        variance = torch.stack([missing_deviation(x, self.eps) for x in everyone]).mean()
        covariance = torch.stack([self.redundancy(x) for x in everyone]).sum()
        loss = self.invariance * invariance + self.variance * variance + self.covariance * covariance
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def redundancy(self, z: Tensor) -> Tensor:
        """Sum of the squared covariances of different dimensions, over D: [N, D] -> scalar."""
        centred = z - z.mean(dim=0)  # [N, D]
        covariance = centred.T @ centred / max(1, len(z) - 1)  # [D, D]
        return off_diagonal(covariance).square().sum() / len(covariance)


@guarded
class VIbCReg(VICReg):
    """VICReg with correlations in the place of covariances, so that this term does not depend on scale.

    Arguments as of ``VICReg``. Its expander ends in an iterative normalisation, which is a head (``IterNorm``).
    """

    def redundancy(self, z: Tensor) -> Tensor:
        """Mean of the squared correlations, those of a dimension with itself counted as zero: [N, D] -> scalar."""
        columns = F.normalize(z - z.mean(dim=0), dim=0)  # [N, D]
        return off_diagonal(columns.T @ columns).square().mean()


def missing_deviation(z: Tensor, eps: float) -> Tensor:
    """How much the standard deviation of a dimension lacks of one, the mean over dimensions: [N, D] -> scalar."""
    deviation = (z.var(dim=0) + eps).sqrt()  # [D]; unbiased, as the authors' code
    return (1 - deviation).relu().mean()


def off_diagonal(x: Tensor) -> Tensor:
    """[D, D] with zeros on the diagonal."""
    return x - x.diagonal().diag()  # [D, D]
