"""MixedAE: Chen et al., Mixed Autoencoder for Self-supervised Visual Representation Learning, CVPR 2023
(arXiv:2303.17152), sections 3.2 and 3.3.

The student sees patches of two images in one and tells of which each is, so that a decoder can say the pixels of either
where it was not shown. Tokens of one image are drawn together, those of the other are their negatives.

B samples, N patches, D features, M numbers of a patch.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import mean_of
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.mae import normalised, patches_of
from ssl_framework.types import Batch, Clock, Outputs


def homologous(tokens: Tensor, owner: Tensor, temperature: float) -> Tensor:
    """Supervised contrast among the tokens of each mixture, positives those of the same image.

    Args:
        tokens: [B, N, D], of any length.
        owner: [B, N], equal where two tokens are of one image.
        temperature: tau.

    Returns:
        Scalar, the mean over tokens; one that is alone of its image counts 0.
    """
    z = unit(tokens)  # [B, N, D]
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)  # [N, N]
    logits = (z @ z.transpose(1, 2) / temperature).masked_fill(itself, float("-inf"))  # [B, N, N]
    positive = (owner[:, :, None] == owner[:, None]) & ~itself  # [B, N, N]
    log_p = (logits - logits.logsumexp(dim=2, keepdim=True)).masked_fill(~positive, 0.0)  # [B, N, N]
    return -(log_p.sum(dim=2) / positive.sum(dim=2).clamp(min=1)).mean()


@guarded
class MixedAE(Objective):
    """Mean squared error of both images' patches that were not shown, and the contrast of homologous tokens.

    Args:
        norm_pix: targets are normalised patch by patch; leave that off where a patch has few numbers.
        temperature: of the contrast.
        weight: of the contrast.
        head: name of the student's output that predicts pixels of both images, [B, 2, N, M].
    """

    requires = frozenset({"masks", "masked_tokens=mark"})
    num_views = (1, None)

    def __init__(
        self, norm_pix: bool, temperature: Positive, weight: NonNegative, head: str = "mixture_decoder"
    ) -> None:
        super().__init__()
        self.norm_pix, self.temperature, self.weight, self.head = norm_pix, temperature, weight, head
        self.reads = (head, "patches", "mask")
        self.token_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.mix is not None
        errors, contrasts = [], []
        for view, mix in zip(student, batch.mix, strict=True):
            if view is None or mix is None:
                continue
            mask = view["mask"]  # [B, N], True where the other image is shown
            whole = patches_of(mix.clean, mask.shape[1])  # [B, N, M]
            whole = normalised(whole) if self.norm_pix else whole
            for image, hidden in ((0, mask), (1, ~mask)):
                error = (view[self.head][:, image] - whole[mix.source[:, image]]).square().mean(dim=2)  # [B, N]
                errors.append(mean_of(error, hidden))
            contrasts.append(homologous(view["patches"], mask, self.temperature))
        pixels, contrast = torch.stack(errors).mean(), torch.stack(contrasts).mean()
        loss = pixels + self.weight * contrast
        return {"loss": loss, "pixel_loss": pixels.detach(), "homologous_loss": contrast.detach()}
