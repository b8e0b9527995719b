"""HiCMAE: Sun et al., HiCMAE: Hierarchical Contrastive Masked Autoencoder for Self-Supervised Audio-Visual Emotion
Recognition, Information Fusion 2024 (arXiv:2401.05698), eq. 9 to 11.

Two masked autoencoders, of a film and of its sound; what their encoders make of the visible patches has to agree not at
the end alone but at several layers.

B samples of this rank, L layers, N visible patches, D their width.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.mae import MAE
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class LayerContrast(Objective):
    """The sum over layers of the mean of both directions' InfoNCE, between the mean patches of two views.

    Args:
        temperature: tau; the paper: 0.07. The paper weighs the sum by 0.1 beside two reconstructions.
        layers: name of the output that has them, [B, L, N, D].
    """

    def __init__(self, temperature: Positive, layers: str = "layers") -> None:
        super().__init__()
        self.temperature = temperature
        self.layers = layers
        self.reads = (layers,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        one, other = (unit(x.mean(dim=2)) for x in outputs_of(student, self.layers))  # [B, L, D] each
        each = [layer_contrast(a, b, self.temperature) for a, b in zip(one.unbind(1), other.unbind(1), strict=True)]
        return {"loss": torch.stack(each).sum()}


def layer_contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The mean of both directions over all samples: two [B, D] of unit rows -> scalar."""
    own = rank() * len(a) + torch.arange(len(a), device=a.device)  # [B]
    ways = [nce(x, gather_with_grad(y), own, temperature) for x, y in ((a, b), (b, a))]  # 2 x [B]
    return torch.cat(ways).mean()


@guarded
class HiCMAE(Objective):
    """The sum of two reconstructions, of hidden patches of view 0 and of view 1, and the contrast of their layers.

    Args:
        norm_pix: as in ``MAE``.
        contrast: weight of the contrast.
        temperature, layers: as in ``LayerContrast``.
        head: name of the output that predicts pixels, the same in both towers.
    """

    requires = frozenset({"masks"})

    def __init__(
        self,
        norm_pix: bool,
        contrast: NonNegative,
        temperature: Positive,
        head: str = "decoder",
        layers: str = "layers",
    ) -> None:
        super().__init__()
        self.mae, self.agree = MAE(norm_pix, head), LayerContrast(temperature, layers)
        self.contrast = contrast
        self.reads = (*self.mae.reads, layers)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        drawn = 2 * self.mae(student, teacher, batch, clock)["loss"]  # which is the mean over the two
        agreed = self.agree(student, teacher, batch, clock)["loss"]
        logged = {"reconstruction_loss": drawn.detach(), "contrast_loss": agreed.detach()}
        return {"loss": drawn + self.contrast * agreed, **logged}
