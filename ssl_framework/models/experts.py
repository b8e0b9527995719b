"""Experts: several feed-forward parts in a transformer's block, of which a text takes the one of its domain
(Hallee et al., arXiv:2401.15713; Shazeer et al., arXiv:1701.06538, where the choice is learnt). Attention is shared."""

import torch
from torch import Tensor, nn


class Experts(nn.Module):
    """E linear maps that begin as copies of one.

    Args:
        linear: D -> F.
        experts: E.
    """

    def __init__(self, linear: nn.Linear, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().repeat(experts, 1, 1))  # [E, F, D]
        self.bias = nn.Parameter(linear.bias.detach().repeat(experts, 1))  # [E, F]

    def forward(self, x: Tensor, expert: Tensor) -> Tensor:
        """[B, L, D] and the expert of each text [B] int64 -> [B, L, F].

        Every text gets its own copy of its expert's weights, [B, F, D] in all: no text waits for the host to count
        those of its expert, and each expert has a gradient, if zero, in every step.
        """
        weight, bias = self.weight.index_select(0, expert), self.bias.index_select(0, expert)  # [B, F, D], [B, F]
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))  # [B, L, F]


class ExpertBlock(nn.Module):
    """A pre-norm encoder block whose feed-forward part is one of several; its names are those of the block that it was
    made of.

    Args:
        block: whose parts it takes; every expert begins as its feed-forward part.
        experts: E.
    """

    def __init__(self, block: nn.TransformerEncoderLayer, experts: int) -> None:
        super().__init__()
        self.self_attn, self.norm1, self.norm2 = block.self_attn, block.norm1, block.norm2
        self.linear1, self.linear2 = Experts(block.linear1, experts), Experts(block.linear2, experts)
        self.dropout, self.dropout1, self.dropout2 = block.dropout, block.dropout1, block.dropout2

    def forward(self, src: Tensor, src_mask: Tensor | None, src_key_padding_mask: Tensor, expert: Tensor) -> Tensor:
        """As the block, and the expert of each text [B] int64: [B, L, D] -> [B, L, D]."""
        x = self.norm1(src)  # [B, L, D]
        seen = self.self_attn(
            x, x, x, attn_mask=src_mask, key_padding_mask=src_key_padding_mask, need_weights=False, is_causal=False
        )[0]  # [B, L, D]
        src = src + self.dropout1(seen)
        inner = nn.functional.gelu(self.linear1(self.norm2(src), expert))  # [B, L, F]
        return src + self.dropout2(self.linear2(self.dropout(inner), expert))
