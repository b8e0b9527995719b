"""Words that look at a picture, and two modalities that look at each other: transformer blocks with cross-attention,
which objectives of several modalities own."""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, Several, guarded


class FusionBlock(nn.Module):
    """Self-attention of words, their cross-attention to a picture and a perceptron, each behind a norm and added.

    Args:
        dim, num_heads, gated: as in ``Fusion``.
    """

    def __init__(self, dim: int, num_heads: int, gated: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.own = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.other = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.gate = nn.Parameter(torch.zeros(())) if gated else None

    def forward(self, words: Tensor, padding: Tensor | None, later: Tensor | None, picture: Tensor) -> Tensor:
        """[B, L, D], [B, L] bool or ``None``, [L, L] bool or ``None``, [B, N, D] -> [B, L, D]"""
        x = self.norms[0](words)  # [B, L, D]
        words = words + self.own(x, x, x, key_padding_mask=padding, attn_mask=later, need_weights=False)[0]
        seen = self.other(self.norms[1](words), picture, picture, need_weights=False)[0]  # [B, L, D]
        words = words + (seen if self.gate is None else self.gate.tanh() * seen)
        return words + self.perceptron(self.norms[2](words))


@guarded
class AttentionPool(nn.Module):
    """Learnt queries that each take up what they look for in a picture (CoCa, arXiv:2205.01917, section 3.2).

    Args:
        dim: D, of tokens and queries.
        number: Q, of the queries.
        num_heads: of the attention; they divide D.
    """

    def __init__(self, dim: Count, number: Count, num_heads: Count) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(number, dim) / dim**0.5)  # [Q, D]
        self.look = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, picture: Tensor) -> Tensor:
        """[B, N, D] -> [B, Q, D]"""
        queries = self.queries.expand(len(picture), -1, -1)  # [B, Q, D]
        return self.norm(self.look(queries, picture, picture, need_weights=False)[0])


@guarded
class Fusion(nn.Module):
    """Blocks of words that look at tokens of a picture: ALBEF's multimodal encoder (arXiv:2107.07651, section 3.1), or,
    where no word sees a later one, CoCa's multimodal decoder (arXiv:2205.01917, section 3.2).

    Args:
        dim: D, of both.
        depth: blocks.
        num_heads: of every attention; they divide D.
        causal: whether a word sees only those before it.
        gated: whether what is seen of the picture comes in through a learnt gate, closed at first (Flamingo,
            arXiv:2204.14198, section 2.2; CosMo).
        vocabulary: V, words are numbers below it; ``None``: no words are named.

    Raises:
        ValueError: the heads do not divide D.
    """

    def __init__(
        self, dim: Count, depth: Count, num_heads: Count, causal: bool, gated: bool, vocabulary: Several | None
    ) -> None:
        super().__init__()
        refuse_heads(dim, num_heads)
        self.dim = dim
        self.causal = causal
        self.blocks = nn.ModuleList(FusionBlock(dim, num_heads, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.words = None if vocabulary is None else nn.Linear(dim, vocabulary)

    def forward(self, words: Tensor, there: Tensor, picture: Tensor) -> Tensor:
        """What words are once they have seen the picture.

        Args:
            words: [B, L, D].
            there: [B, L] bool, false at padding, which nobody looks at; true at the first word of every text.
            picture: [B, N, D] tokens.

        Returns:
            [B, L, D]; ``logits`` makes words of them.
        """
        length = words.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=words.device).triu(1) if self.causal else None
        for block in self.blocks:
            words = block(words, ~there, later, picture)
        return self.norm(words)

    def logits(self, words: Tensor, there: Tensor, picture: Tensor) -> Tensor:
        """Scores of every word at every place, of what ``forward`` takes: [B, L, V]."""
        assert self.words is not None
        return self.words(self(words, there, picture))


@guarded
class MutualFusion(nn.Module):
    """Tokens of two modalities that look at each other: in every layer each has a block of its own, and looks at what
    the other was in front of that layer (HiCMAE, arXiv:2401.05698, section 3.3).

    Args:
        dim: D, of both.
        depth: layers.
        num_heads: of every attention; they divide D.

    Raises:
        ValueError: the heads do not divide D.
    """

    def __init__(self, dim: Count, depth: Count, num_heads: Count) -> None:
        super().__init__()
        refuse_heads(dim, num_heads)
        self.first = nn.ModuleList(FusionBlock(dim, num_heads, False) for _ in range(depth))
        self.second = nn.ModuleList(FusionBlock(dim, num_heads, False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D] and [B, M, D] -> the same shapes"""
        for first, second in zip(self.first, self.second, strict=True):
            one, other = first(one, None, None, other), second(other, None, None, one)
        return self.norms[0](one), self.norms[1](other)


def refuse_heads(dim: int, num_heads: int) -> None:
    """Raises ValueError unless the heads divide the width."""
    if dim % num_heads:
        raise ValueError(f"num_heads of a fusion is {num_heads}, which does not divide the width {dim}")
