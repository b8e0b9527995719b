"""An encoder of sequences of items without dependencies: SASRec (Kang and McAuley, arXiv:1808.09781)."""

import inspect
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Count, Several, guarded
from ssl_framework.types import Outputs

PADDING = 0
"""The number that stands in front of a shorter sequence."""


class CausalBlock(nn.Module):
    """Attention to what came before, then two layers at each place; each behind a layer norm and beside what came in
    (equations 2, 3 and 5; the norm in front as section 3.2 has it).

    Args:
        width: D.
        num_heads: of attention.
        dropout: share of activations set to zero in training.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """[B, L, D], who sees whom [B, 1, L, L] bool -> [B, L, D]"""
        normed = self.first_norm(x)
        q, k, v = (
            layer(normed).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, L, D / heads]
            for layer in (self.queries, self.keys, self.values)
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)  # [B, heads, L, D / heads]
        x = x + self.dropout(found.transpose(1, 2).flatten(2))  # [B, L, D]
        return x + self.dropout(self.outer(self.dropout(F.relu(self.inner(self.second_norm(x))))))


class SASRecNet(nn.Module):
    """Embedded items and learnt places through causal blocks.

    Args:
        items, length, width, depth, num_heads, dropout: as in ``SASRec``.
    """

    def __init__(self, items: int, length: int, width: int, depth: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 2, width, padding_idx=PADDING)  # padding, the items, and what hides one
        self.places = nn.Parameter(torch.empty(length, width))  # [L, D]; of the last item the last
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.places, std=0.02)
        with torch.no_grad():
            self.items.weight[PADDING].zero_()
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(width, num_heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L] int64 -> [B, L, D], zero at padding; a place knows nothing of those behind it."""
        length = x.shape[1]
        there = x != PADDING  # [B, L]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()  # [L, L]
        own = torch.eye(length, dtype=torch.bool, device=x.device)  # padding sees itself, or it would be NaN
        seen = (causal & there[:, None] | own)[:, None]  # [B, 1, L, L]
        z = self.dropout(self.items(x) + self.places)  # [B, L, D]
        for block in self.blocks:
            z = block(z, seen)  # [B, L, D]
        return self.norm(z).masked_fill(~there[..., None], 0.0)  # [B, L, D]


@guarded
class SASRec(nn.Module):
    """``SASRecNet`` as a backbone.

    Args:
        items: V; a sequence holds the numbers 1 to V, V + 1 for a hidden item, and 0 in front.
        length: L, places.
        width: D.
        depth: blocks.
        num_heads: of attention; they divide the width.
        dropout: share of activations set to zero in training.
        weights: run folder or .safetensors file that a new run begins with (see ``weights``); ``None``: random ones.

    Raises:
        ValueError: a number below its least, or heads that do not divide the width.
    """

    sample_dims = 1

    def __init__(
        self,
        items: Several,
        length: Several,
        width: Count,
        depth: Count,
        num_heads: Count = 1,
        dropout: BelowOne = 0.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"backbone.num_heads is {num_heads}, which does not divide the width {width}")
        self.settings = {"items": items, "length": length, "width": width, "depth": depth, "num_heads": num_heads}
        self.net = SASRecNet(**self.settings, dropout=dropout)
        self.length = length
        self.dim = width
        self.dense_dims = {"tokens": width}
        self.weights = weights
        self.name = f"sasrec_{depth}x{width}"

    def forward(self, x: Tensor) -> Outputs:
        """[B, L] int64 -> "tokens" [B, L, D], one an item, and "pooled" [B, D], that of the last (section 3.3).

        Raises:
            ValueError: what comes in is no sequence of this length.
        """
        if x.ndim != 2 or x.is_floating_point() or x.shape[1] != self.length:
            raise ValueError(
                f"backbone {self.name} takes sequences of {self.length} items, but the views have {x.dtype} samples of "
                f"{' x '.join(map(str, x.shape[1:]))}: choose another backbone, or data=item_markov"
            )
        tokens = self.net(x)  # [B, L, D]
        return {"tokens": tokens, "pooled": tokens[:, -1]}

    def about(self) -> dict[str, str]:
        """The class and its settings."""
        return {"network": "ssl_framework.models.sequence.SASRecNet", "settings": self._arguments()}

    def load_line(self, path: Path) -> str:
        """Builds the network and reads its weights."""
        return (
            "from safetensors.torch import load_file\n"
            "from ssl_framework.models.sequence import SASRecNet\n"
            f"net = SASRecNet({self._arguments()})\n"
            f"net.load_state_dict(load_file({str(path)!r}))"
        )

    def _arguments(self) -> str:
        names = [name for name in inspect.signature(SASRecNet).parameters if name in self.settings]
        return ", ".join(f"{name}={self.settings[name]}" for name in names)
