"""Heads of patches: what a masked model predicts with.

Each reads one token a patch and works with a mask, where hidden patches were left out, and without one, as evaluators
encode. B samples, N patches of a view, n of them visible, D features.
"""

import math
from collections.abc import Mapping

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_framework.arguments import Count, Natural, guarded
from ssl_framework.models.base import BackboneProtocol, patched
from ssl_framework.models.heads import Head
from ssl_framework.models.patches import spread


class Decoder(nn.Module):
    """A narrow transformer on patches with fixed positions: linear in, blocks, layer normalisation, linear out.

    Args:
        dim: D of what comes in.
        width: of the blocks.
        depth: blocks.
        heads: of attention; they divide the width.
        out: width of what comes out.

    Raises:
        ValueError: ``heads`` does not divide ``width``, or that is no multiple of four, which positions need.
    """

    def __init__(self, dim: int, width: int, depth: int, heads: int, out: int) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"a decoder's width is {width}: make it a multiple of 4 and of its heads, {heads}")
        self.width = width
        self.read = nn.Linear(dim, width)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.write = nn.Linear(width, out)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)  # MAE's and I-JEPA's code
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens that have their positions, [B, M, width] -> [B, M, out]"""
        return self.write(self.norm(self.blocks(x)))


def positions(count: int, width: int, like: Tensor) -> Tensor:
    """Fixed sine and cosine positions of the patches of a square grid (MAE's code): [N, width].

    A quarter of the width each for sine and cosine of the column, and of the row.

    Args:
        count: N.
        width: a multiple of four.
        like: tells device and dtype.

    Raises:
        ValueError: the grid is no square.
    """
    side = math.isqrt(count)
    if side**2 != count:
        raise ValueError(f"a decoder needs a square grid of patches, but a view has {count}: choose other views")
    rate = 10000.0 ** -(torch.arange(width // 4, device=like.device) / (width // 4))  # [width / 4]
    angle = torch.arange(side, device=like.device)[:, None] * rate  # [side, width / 4]
    line = torch.cat([angle.sin(), angle.cos()], dim=1)  # [side, width / 2]
    across, down = line.repeat(side, 1), line.repeat_interleave(side, dim=0)  # [N, width / 2] each
    return torch.cat([across, down], dim=1).to(like.dtype)  # [N, width]


@guarded
class PatchDecoder(Head):
    """Pixels of every patch from the visible ones (MAE, He et al., CVPR 2022, arXiv:2111.06377, section 3).

    Where hidden patches were left out, one learned token stands at their places. Differs: the class token, from which
    the authors decode, too, is left out.

    Args:
        source: which patches it reads.
        width, depth, num_heads: of the transformer.
    """

    def __init__(self, source: str, width: Count, depth: Natural, num_heads: Count) -> None:
        super().__init__(source)
        self.width = width
        self.depth = depth
        self.num_heads = num_heads
        self.token: nn.Parameter | None = None  # [width]

    def meet(self, backbone: BackboneProtocol) -> None:
        with_patches = patched(backbone, "a head that decodes pixels")
        self.out = with_patches.patch_pixels
        self.drops = with_patches.masked_tokens == "drop"

    def build(self, width: int) -> None:
        self.decoder = Decoder(width, self.width, self.depth, self.num_heads, self.out)
        if self.drops:  # a token that nothing is replaced by would have no gradient
            self.token = nn.Parameter(0.02 * torch.randn(self.width))

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, n, D] and, where it is there, "mask" [B, N] -> [B, N, pixels of a patch]"""
        x = self.decoder.read(outputs[self.source])  # [B, n, width]
        if self.token is not None and "mask" in outputs:
            x = spread(x, outputs["mask"], self.token)  # [B, N, width]
        return self.decoder(x + positions(x.shape[1], self.width, x))  # [B, N, out]


@guarded
class PixelHead(Head):
    """Pixels of every patch, linear in its token (SimMIM, Xie et al., CVPR 2022, arXiv:2111.09886, section 3).

    Args:
        source: which patches it reads.
    """

    def meet(self, backbone: BackboneProtocol) -> None:
        self.out = patched(backbone, "a head that decodes pixels").patch_pixels

    def build(self, width: int) -> None:
        self.linear = nn.Linear(width, self.out)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, N, D] -> [B, N, pixels of a patch]"""
        return self.linear(outputs[self.source])


@guarded
class PatchPredictor(Head):
    """Features as wide as those it reads, linear in them: data2vec's head (arXiv:2202.03555, section 3.3).

    Args:
        source: which patches it reads.
    """

    def build(self, width: int) -> None:
        self.out = width
        self.linear = nn.Linear(width, width)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, N, D] -> [B, N, D]"""
        return self.linear(outputs[self.source])
