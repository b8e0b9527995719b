"""A decoder of pixels that also reads earlier layers of the encoder.

B samples, N patches of a view, n of them visible, L layers of the encoder, D their width.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Channels, Count, guarded
from ssl_framework.models.fusion import FusionBlock
from ssl_framework.models.patch_heads import Decoder, positions
from ssl_framework.models.patches import spread


@guarded
class SkipDecoder(nn.Module):
    """Pixels of every patch of a view from the visible ones, as MAE's decoder; after its own attention every block
    looks at what an earlier layer of the encoder has made of these, the last but one first, then the one before it
    (HiCMAE, arXiv:2401.05698, section 3.3: skip connections by cross-attention).

    Args:
        dim: D.
        width, depth, num_heads: of the decoder; the width is a multiple of four and of the heads.
        channels, patch: of the view, and the side of a patch in pixels.
        skips: whether blocks look at earlier layers; else they are MAE's.

    Raises:
        ValueError: a width that heads or positions do not fit.
    """

    def __init__(
        self, dim: Count, width: Count, depth: Count, num_heads: Count, channels: Channels, patch: Count, skips: bool
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))  # [width]
        self.decoder = Decoder(dim, width, 0 if skips else depth, num_heads, patch**2 * channels)
        self.blocks = nn.ModuleList(FusionBlock(width, num_heads, False) for _ in range(depth * skips))
        self.look = nn.ModuleList(nn.Linear(dim, width) for _ in range(depth * skips))

    def forward(self, patches: Tensor, layers: Tensor, mask: Tensor) -> Tensor:
        """Visible patches [B, n, D], layers of the encoder [B, L, n, D] and what is hidden [B, N] bool -> [B, N, M]

        Raises:
            ValueError: there are not more layers than blocks that look at one.
        """
        if len(self.blocks) >= layers.shape[1]:
            raise ValueError(
                f"a decoder of {len(self.blocks)} blocks looks at as many layers in front of the last one, but "
                f"backbone.last_layers is {layers.shape[1]}: raise that, or lower objective.decoder.depth"
            )
        x = spread(self.decoder.read(patches), mask, self.token)  # [B, N, width]
        x = x + positions(x.shape[1], x.shape[2], x)
        for number, (block, look) in enumerate(zip(self.blocks, self.look, strict=True)):
            x = block(x, None, None, look(layers[:, -2 - number]))
        return self.decoder(x)
