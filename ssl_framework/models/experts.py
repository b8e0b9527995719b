"""Experts: several feed-forward parts in a transformer's block, of which a text takes the one of its domain
(Hallee et al., arXiv:2401.15713), or a token or text those that a router chooses (Shazeer et al., arXiv:1701.06538).
Attention is shared.

B texts of L tokens, E experts, k of which a router chooses.
"""

import torch
from torch import Tensor, nn

from ssl_framework.functional import full_precision
from ssl_framework.models.pools import POOLS, mean_of_tokens

ROUTINGS = ("domain", "token", *POOLS)
"""By what an expert is chosen: the domain that the first token names, or what a router makes of a token or a text."""


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

    def each(self, x: Tensor) -> Tensor:
        """[B, L, D] -> what every expert makes of it, [B, L, E, F]."""
        wide = nn.functional.linear(x, self.weight.flatten(0, 1), self.bias.flatten())  # [B, L, E * F]
        return wide.unflatten(-1, self.bias.shape)  # [B, L, E, F]

    def mixed(self, x: Tensor, weight: Tensor) -> Tensor:
        """What comes to every expert [B, L, E, D], weights [B, L, E] or [B, 1, E] -> their weighted sum, [B, L, F]."""
        weighed = (x * weight[..., None]).flatten(-2)  # [B, L, E * D]
        return nn.functional.linear(weighed, self.weight.transpose(0, 1).flatten(1)) + weight @ self.bias  # [B, L, F]


class Router(nn.Module):
    """A linear map whose softmax says how good each expert is; the k best are taken, with these weights. They are not
    brought to a sum of one: a single one would always weigh 1, and the router would have no gradient (Fedus et al.,
    arXiv:2101.03961, eq. 2).

    Args:
        width: D.
        experts: E.
        top_k: k.
        routing: one of ``ROUTINGS`` that is learnt: each "token" chooses for itself, or a text by its pooled tokens.
    """

    def __init__(self, width: int, experts: int, top_k: int, routing: str) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.top_k = top_k
        self.pool = POOLS.get(routing)

    def forward(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, D], and which of them are no padding, [B, L] bool -> weights of the experts, zero but for k of
        them, [B, L, E] or, of whole texts, [B, 1, E]; and how likely a text was to go to each, [B, E], rows sum to
        one. Both float32, or float64 as the tokens."""
        x = x.masked_fill(~there[..., None], 0.0)  # [B, L, D]
        seen = x if self.pool is None else self.pool(x, there)[:, None]  # [B, L or 1, D]
        likely = full_precision(self.gate(seen)).softmax(dim=-1)  # [B, L or 1, E]
        best = torch.zeros_like(likely).scatter(-1, likely.topk(self.top_k, dim=-1).indices, 1.0)  # [B, L or 1, E]
        if self.pool is not None:
            return likely * best, likely[:, 0]
        return likely * best, mean_of_tokens(likely.masked_fill(~there[..., None], 0.0), there)  # [B, L, E], [B, E]


class ExpertBlock(nn.Module):
    """A pre-norm encoder block whose feed-forward part is one of several; its names are those of the block that it was
    made of.

    With a router every expert sees every token, as one part E times as wide, and those that are not chosen weigh
    nothing: no token waits for the host to count those of its expert, at E times the cost of one part.

    Args:
        block: whose parts it takes; every expert begins as its feed-forward part.
        experts: E.
        routing: one of ``ROUTINGS``.
        top_k: k.
    """

    def __init__(
        self, block: nn.TransformerEncoderLayer, experts: int, routing: str = "domain", top_k: int = 1
    ) -> None:
        super().__init__()
        self.self_attn, self.norm1, self.norm2 = block.self_attn, block.norm1, block.norm2
        self.linear1, self.linear2 = Experts(block.linear1, experts), Experts(block.linear2, experts)
        self.dropout, self.dropout1, self.dropout2 = block.dropout, block.dropout1, block.dropout2
        width = block.linear1.in_features
        self.router = None if routing == "domain" else Router(width, experts, top_k, routing)

    def forward(
        self, src: Tensor, src_mask: Tensor | None, src_key_padding_mask: Tensor, expert: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """As the block, and the expert of each text [B] int64, unless a router chooses: [B, L, D] -> [B, L, D], and how
        likely a text was to go to each expert [B, E]; None without a router."""
        x = self.norm1(src)  # [B, L, D]
        seen = self.self_attn(
            x, x, x, attn_mask=src_mask, key_padding_mask=src_key_padding_mask, need_weights=False, is_causal=False
        )[0]  # [B, L, D]
        src = src + self.dropout1(seen)
        x, routes = self.norm2(src), None
        if self.router is None:
            inner = self.dropout(nn.functional.gelu(self.linear1(x, expert)))  # [B, L, F]
            found = self.linear2(inner, expert)  # [B, L, D]
        else:
            weight, routes = self.router(x, ~src_key_padding_mask)  # [B, L or 1, E], [B, E]
            inner = self.dropout(nn.functional.gelu(self.linear1.each(x)))  # [B, L, E, F]
            found = self.linear2.mixed(inner, weight)  # [B, L, D]
        return src + self.dropout2(found), routes
