"""HiCMAE: Sun et al., HiCMAE: Hierarchical Contrastive Masked Autoencoder for Self-Supervised Audio-Visual Emotion
Recognition, Information Fusion 2024 (arXiv:2401.05698), eq. 9 to 11.

Two masked autoencoders, of a film and of its sound; what their encoders make of the visible patches has to agree not at
the end alone but at several layers. What is visible of both is fused before either is decoded.

B samples of this rank, L layers, N visible patches, D their width.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import nce, unit
from ssl_framework.models.fusion import MutualFusion
from ssl_framework.models.skip_decoder import SkipDecoder
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
        decoder, other_decoder: of view 0 and of view 1.
        fusion: what both views' visible patches go through, looking at each other, before they are decoded; ``None``:
            each decoder has its own view alone.
        head: name of the output that is decoded, visible patches.
    """

    requires = frozenset({"masks", "masked_tokens=drop"})

    def __init__(
        self,
        norm_pix: bool,
        contrast: NonNegative,
        temperature: Positive,
        decoder: SkipDecoder,
        other_decoder: SkipDecoder,
        fusion: MutualFusion | None,
        head: str = "patch_features",
        layers: str = "layers",
    ) -> None:
        super().__init__()
        self.mae, self.agree = MAE(norm_pix), LayerContrast(temperature, layers)
        self.contrast = contrast
        self.decoders, self.fusion = nn.ModuleList([decoder, other_decoder]), fusion
        self.head = head
        self.reads = (head, layers, "mask")
        self.token_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the encoders give fewer layers than a decoder looks at."""
        layers, masks = outputs_of(student, self.agree.layers), outputs_of(student, "mask")
        parts = zip(self.decoders, self.fused(*outputs_of(student, self.head)), layers, masks, strict=True)
        said: list[Outputs | None] = [
            {"decoder": decoder(patches, earlier, mask), "mask": mask} for decoder, patches, earlier, mask in parts
        ]
        drawn = 2 * self.mae(said, teacher, batch, clock)["loss"]  # which is the mean over the two
        agreed = self.agree(student, teacher, batch, clock)["loss"]
        logged = {"reconstruction_loss": drawn.detach(), "contrast_loss": agreed.detach()}
        return {"loss": drawn + self.contrast * agreed, **logged}

    def fused(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Patches of both views [B, n, D] and [B, m, D] as they are decoded."""
        return (one, other) if self.fusion is None else self.fusion(one, other)
