"""A small transformer over tokens, of torch alone: for closed vocabularies of some hundred words and short texts."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ssl_framework.types import Outputs

PADDING = 0
"""The token behind the end of a text; a text's first token is never one."""


class TextTransformer(nn.Module):
    """Embedded tokens and learnt positions through pre-norm encoder blocks (Vaswani et al., arXiv:1706.03762; norm before
    each part as in GPT-2 and CLIP's text tower). Attention is in both directions and never looks at padding.

    Args:
        vocabulary: tokens are numbers below it; 0 is padding.
        length: L, the most tokens a text has.
        width: D.
        depth: blocks.
        num_heads: of attention; they divide the width.
        pool: "mean" over the tokens that are no padding, or the "first" one.
        dropout: share of activations set to zero in training.

    Raises:
        ValueError: sizes that do not fit together, or no such pooling.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 64,
        depth: int = 2,
        num_heads: int = 4,
        pool: str = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(vocabulary - 1, length, width, depth, num_heads) < 1:
            raise ValueError(
                f"a text backbone has vocabulary={vocabulary}, length={length}, width={width}, depth={depth}, "
                f"num_heads={num_heads}: each must be at least 1, the vocabulary 2"
            )
        if width % num_heads:
            raise ValueError(f"a text backbone has num_heads={num_heads}, which does not divide its width={width}")
        if pool not in POOLS:
            raise ValueError(f"a text backbone has pool={pool}: choose one of {', '.join(POOLS)}")
        self.vocabulary = vocabulary
        self.length = length
        self.dim = width
        self.pool = POOLS[pool]
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.places = nn.Parameter(torch.empty(length, width))  # [L, D]
        nn.init.normal_(self.tokens.weight, std=0.02)  # as CLIP's
        nn.init.normal_(self.places, std=0.01)
        with torch.no_grad():
            self.tokens.weight[PADDING].zero_()
        self.blocks = nn.ModuleList(  # not nn.TransformerEncoder, whose blocks all begin alike
            nn.TransformerEncoderLayer(width, num_heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Outputs:
        """[B, L'] int64 with L' up to L -> "tokens" [B, L', D], zero at padding, and "pooled" [B, D].

        What stands behind the end of a text, and how many places of padding, changes neither.
        """
        if x.shape[1] > self.length:
            raise ValueError(
                f"a text has {x.shape[1]} tokens, but the text backbone has length={self.length}: raise it, or set "
                "data.tokens to at most that"
            )
        padding = x == PADDING  # [B, L']
        tokens = self.tokens(x) + self.places[: x.shape[1]]  # [B, L', D]
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=padding)  # [B, L', D]
        tokens = self.norm(tokens).masked_fill(padding[..., None], 0.0)  # [B, L', D]
        return {"tokens": tokens, "pooled": self.pool(tokens, ~padding)}


def mean_of_tokens(tokens: Tensor, there: Tensor) -> Tensor:
    """[B, L, D], zero where ``there`` [B, L] is false -> [B, D]"""
    return tokens.sum(dim=1) / there.sum(dim=1, keepdim=True).to(tokens.dtype)


def first_token(tokens: Tensor, there: Tensor) -> Tensor:
    """[B, L, D] -> [B, D]"""
    return tokens[:, 0]


POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"mean": mean_of_tokens, "first": first_token}
)
