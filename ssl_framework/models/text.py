"""A small transformer over tokens, of torch alone: for closed vocabularies of some hundred words and short texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Count, Natural, guarded
from ssl_framework.models.experts import ROUTINGS, ExpertBlock
from ssl_framework.models.pools import POOLS
from ssl_framework.types import Outputs

PADDING = 0
"""The token behind the end of a text; a text's first token is never one."""


class TextNet(nn.Module):
    """Embedded tokens and learnt places through pre-norm encoder blocks (Vaswani et al., arXiv:1706.03762; the norm
    before each part as in CLIP's text tower). Attention is in both directions, or backwards alone, and never looks at
    padding.

    Args:
        vocabulary, length, width, depth, num_heads, dropout, causal, experts, expert_layers, routing, top_k: as in
            ``TextTransformer``.
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
        routing: str = "domain",
        top_k: int = 1,
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
            self.blocks[layer] = ExpertBlock(self.blocks[layer], experts, routing, top_k)  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, inner: bool = False) -> Tensor | tuple[Tensor, Tensor, Tensor | None]:
        """[B, L'] int64 with L' up to L -> [B, L', D], zero at padding; or, if what is inside is asked for, the tokens
        behind the middle block, of three the second, these, and how likely a text was to go to each expert, [B, E], the
        mean over the blocks that have a router; None: none has.

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
        between, routes = [], []
        for block in self.blocks:
            if isinstance(block, ExpertBlock):
                tokens, chosen = block(tokens, later, padding, domain)  # [B, L', D], [B, E]
                routes += [] if chosen is None else [chosen]
            else:
                tokens = block(tokens, src_mask=later, src_key_padding_mask=padding)  # [B, L', D]
            between.append(tokens)
        last = self.norm(tokens).masked_fill(padding[..., None], 0.0)  # [B, L', D]
        if not inner:
            return last
        middle = between[(len(between) - 1) // 2].masked_fill(padding[..., None], 0.0)  # [B, L', D]
        return middle, last, torch.stack(routes).mean(dim=0) if routes else None


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
        experts: E, feed-forward parts of a block; 0: one part for all texts.
        expert_layers: blocks that have several, by number; ``None``: all.
        routing: "domain": a text takes the expert of its domain: its first token is one of the E last of the
            vocabulary, or else the first expert serves it. Or a router learns which (see ``experts.Router``): for each
            "token" of its own, or for a text from the "mean" of its tokens, the "first" or the "last" one.
        top_k: k, of the experts that a router chooses.

    Raises:
        ValueError: sizes that do not fit together, no such pooling, block or routing, or a single expert.
    """

    sample_dims = 1

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
        routing: str = "domain",
        top_k: Count = 1,
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
        refuse_routing(routing, experts, top_k)
        if experts == 1:
            raise ValueError(
                "experts of a text backbone is 1, for data without domains: choose data whose texts begin with one of "
                "several, such as data=caption_domains, or backbone=text_tiny"
            )
        if experts:
            self.settings |= {"experts": experts, "expert_layers": expert_layers and list(expert_layers)}
        if routing != "domain":
            self.settings |= {"routing": routing, "top_k": top_k}
        if too_deep := [layer for layer in expert_layers or () if layer >= depth]:
            raise ValueError(f"expert_layers names {too_deep[0]}, but the blocks are numbered 0 to {depth - 1}")
        self.net = TextNet(**self.settings, dropout=dropout)
        self.dim = width
        self.dense_dims = {"tokens": width, "middle": width}
        if routing != "domain" and expert_layers != []:
            self.dense_dims["routes"] = experts
        self.pool = POOLS[pool]
        self.causal = causal
        self.weights = weights
        self.name = f"text_transformer_{depth}x{width}"

    def forward(self, x: Tensor) -> Outputs:
        """[B, L'] int64 with L' up to L -> "tokens" [B, L', D], zero at padding, "pooled" [B, D], and "middle" [B, D],
        pooled behind the middle block; with a router "routes" [B, E] float32, how likely a text was to go to each
        expert.

        How many places of padding stand behind the end of a text changes none of them.
        """
        middle, tokens, routes = self.net(x, inner=True)  # [B, L', D] twice, [B, E]
        there = x != PADDING  # [B, L']
        found = {"tokens": tokens, "pooled": self.pool(tokens, there), "middle": self.pool(middle, there)}
        return found if routes is None else {**found, "routes": routes}

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
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())


def refuse_routing(routing: str, experts: int, top_k: int) -> None:
    """Raises ValueError where there is no such routing, or nothing to choose of."""
    if routing not in ROUTINGS:
        raise ValueError(f"routing of a text backbone is {routing}: choose one of {', '.join(ROUTINGS)}")
    if routing == "domain" and top_k > 1:
        raise ValueError(
            f"top_k of a text backbone is {top_k}, but routing=domain gives a text one expert: set top_k=1, or choose "
            "backbone=text_routed"
        )
    if routing != "domain" and experts < 2:
        raise ValueError(
            f"routing of a text backbone is {routing}, but experts is {experts}: set it to 2 or more, or routing=domain"
        )
    if routing != "domain" and top_k > experts:
        raise ValueError(f"top_k of a text backbone is {top_k}, but experts is {experts}: set top_k to that or less")


def checkpoint_filter_fn(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Weights of a net of one feed-forward part a block as those of one of several, each of which begins with a copy,
    and a router, which begins at random (``weights`` asks for it by this name, which is timm's)."""
    own = net.state_dict()
    several = {
        key for key, x in state.items() if key in own and own[key].ndim > x.ndim and own[key][0].shape == x.shape
    }
    anew = {key: x for key, x in own.items() if ".router." in key} if several else {}
    return anew | {key: x.expand_as(own[key]).clone() if key in several else x for key, x in state.items()}
