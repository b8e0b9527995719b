"""A small transformer over tokens, of torch alone: for closed vocabularies of some hundred words and short texts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Count, Natural, guarded
from ssl_framework.models.experts import ExpertBlock
from ssl_framework.types import Outputs

PADDING = 0
"""The token behind the end of a text; a text's first token is never one."""


class TextNet(nn.Module):
    """Embedded tokens and learnt places through pre-norm encoder blocks (Vaswani et al., arXiv:1706.03762; the norm
    before each part as in CLIP's text tower). Attention is in both directions, or backwards alone, and never looks at
    padding.

    Args:
        vocabulary, length, width, depth, num_heads, dropout, causal, experts, expert_layers: as in ``TextTransformer``.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        num_heads: int,
        dropout: float = 0.0,
        causal: bool = False,
        experts: int = 0,
        expert_layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.length = length
        self.causal = causal
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
        self.first_domain = vocabulary - experts
        for layer in (range(depth) if expert_layers is None else expert_layers) if experts else ():
            self.blocks[layer] = ExpertBlock(self.blocks[layer], experts)  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, both: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """[B, L'] int64 with L' up to L -> [B, L', D], zero at padding; or, if both are asked for, the tokens behind
        the middle block, of three the second, and these.

        Raises:
            ValueError: what comes in is no text, or too long a one.
        """
        if x.ndim != 2 or x.is_floating_point() or x.shape[1] > self.length:
            raise ValueError(
                f"a text backbone takes up to {self.length} tokens a text, but the views have {x.dtype} samples of "
                f"{' x '.join(map(str, x.shape[1:]))}: choose another backbone, or raise its length"
            )
        padding = x == PADDING  # [B, L']
        tokens = self.tokens(x) + self.places[: x.shape[1]]  # [B, L', D]
        later = padding.new_ones(x.shape[1], x.shape[1]).triu(1) if self.causal else None  # [L', L']
        domain = (x[:, 0] - self.first_domain).clamp(min=0)  # [B]
        between = []
        for block in self.blocks:
            routed = {"expert": domain} if isinstance(block, ExpertBlock) else {}
            tokens = block(tokens, src_mask=later, src_key_padding_mask=padding, **routed)  # [B, L', D]
            between.append(tokens)
        last = self.norm(tokens).masked_fill(padding[..., None], 0.0)  # [B, L', D]
        if not both:
            return last
        return between[(len(between) - 1) // 2].masked_fill(padding[..., None], 0.0), last


@guarded
class TextTransformer(nn.Module):
    """``TextNet`` as a backbone: its tokens, and one vector a text.

    Args:
        vocabulary: tokens are numbers below it; 0 is padding.
        length: L, the most tokens a text has.
        width: D.
        depth: blocks.
        num_heads: of attention; they divide the width.
        pool: "mean" over the tokens that are no padding, or the "first" or "last" one of them.
        dropout: share of activations set to zero in training.
        weights: run folder or .safetensors file that a new run begins with (see ``weights``); ``None``: random ones.
        causal: whether a token sees only those before it, as a captioner's must.
        experts: E, feed-forward parts of a block, of which a text takes that of its domain: its first token is one of
            the E last of the vocabulary, or else the first expert serves it. 0: one part for all texts.
        expert_layers: blocks that have several, by number; ``None``: all.

    Raises:
        ValueError: sizes that do not fit together, no such pooling or block, or a single expert.
    """

    def __init__(
        self,
        vocabulary: Count,
        length: Count,
        width: Count,
        depth: Count,
        num_heads: Count,
        pool: str = "mean",
        dropout: BelowOne = 0.0,
        weights: str | None = None,
        causal: bool = False,
        experts: Natural = 0,
        expert_layers: Sequence[Natural] | None = None,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "vocabulary": vocabulary, "length": length, "width": width, "depth": depth, "num_heads": num_heads
        }  # fmt: skip
        if causal:
            self.settings["causal"] = True
        if width % num_heads:
            raise ValueError(f"num_heads of a text backbone is {num_heads}, which does not divide the width {width}")
        if pool not in POOLS:
            raise ValueError(f"pool of a text backbone is {pool}: choose one of {', '.join(POOLS)}")
        if experts == 1:
            raise ValueError(
                "experts of a text backbone is 1, for data without domains: choose data whose texts begin with one of "
                "several, such as data=caption_domains, or backbone=text_tiny"
            )
        if experts:
            self.settings |= {"experts": experts, "expert_layers": expert_layers and list(expert_layers)}
        if too_deep := [layer for layer in expert_layers or () if layer >= depth]:
            raise ValueError(f"expert_layers names {too_deep[0]}, but the blocks are numbered 0 to {depth - 1}")
        self.net = TextNet(**self.settings, dropout=dropout)
        self.dim = width
        self.dense_dims = {"tokens": width, "middle": width}
        self.pool = POOLS[pool]
        self.causal = causal
        self.weights = weights
        self.name = f"text_transformer_{depth}x{width}"

    def forward(self, x: Tensor) -> Outputs:
        """[B, L'] int64 with L' up to L -> "tokens" [B, L', D], zero at padding, "pooled" [B, D], and "middle" [B, D],
        pooled behind the middle block.

        How many places of padding stand behind the end of a text changes none of them.
        """
        middle, tokens = self.net(x, both=True)  # [B, L', D] each
        there = x != PADDING  # [B, L']
        return {"tokens": tokens, "pooled": self.pool(tokens, there), "middle": self.pool(middle, there)}

    def about(self) -> dict[str, str]:
        """The class and its settings."""
        return {"network": "ssl_framework.models.text.TextNet", "settings": self._arguments()}

    def load_line(self, path: Path) -> str:
        """Builds the network and reads its weights."""
        return (
            "from safetensors.torch import load_file\n"
            "from ssl_framework.models.text import TextNet\n"
            f"net = TextNet({self._arguments()})\n"
            f"net.load_state_dict(load_file({str(path)!r}))"
        )

    def _arguments(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


def checkpoint_filter_fn(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Weights of a net of one feed-forward part a block as those of one of several, each of which begins with a copy
    (``weights`` asks for it by this name, which is timm's)."""
    own = net.state_dict()
    several = {
        key for key, x in state.items() if key in own and own[key].ndim > x.ndim and own[key][0].shape == x.shape
    }
    return {key: x.expand_as(own[key]).clone() if key in several else x for key, x in state.items()}


def mean_of_tokens(tokens: Tensor, there: Tensor) -> Tensor:
    """[B, L, D], zero where ``there`` [B, L] is false -> [B, D]"""
    return tokens.sum(dim=1) / there.sum(dim=1, keepdim=True).to(tokens.dtype)


def first_token(tokens: Tensor, there: Tensor) -> Tensor:
    """[B, L, D] -> [B, D]"""
    return tokens[:, 0]


def last_token(tokens: Tensor, there: Tensor) -> Tensor:
    """[B, L, D], [B, L] bool -> [B, D]"""
    last = there.sum(dim=1)[:, None, None].expand(-1, 1, tokens.shape[2]) - 1  # [B, 1, D]
    return tokens.gather(1, last)[:, 0]


POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"mean": mean_of_tokens, "first": first_token, "last": last_token}
)
