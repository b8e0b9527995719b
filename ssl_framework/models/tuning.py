"""How a trained backbone is tuned: its network stays as it is, and what is learnt lies beside it.

LoRA: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022 (arXiv:2106.09685), section 4.1.
Prefixes: Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL 2021 (arXiv:2101.00190).

The network keeps its names, so that weights load into it as into any other; what is learnt comes in for each pass and
goes again. B samples, N tokens, D their width, P tokens of a prefix, r the rank.
"""

import contextlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.models.layers import batch_norms


class Tuning(nn.Module, ABC):
    """Base: what is learnt beside the network of a backbone, of which it is the part ``tuning``."""

    def __init__(self) -> None:
        super().__init__()
        self.open = contextlib.ExitStack()  # during a pass

    def attach(self, backbone: Any) -> None:
        """Takes a backbone out of training and makes what is learnt in its place. Changes both.

        Args:
            backbone: see ``BackboneProtocol``.

        Raises:
            ValueError: its network has nothing to tune, or its passes are repeated.
        """
        if getattr(backbone, "checkpoint_activations", False):
            raise ValueError(
                "student.tuning changes a backbone for the time of a pass, but backbone.checkpoint_activations=true "
                "repeats parts of it later: set that to false, or choose tuning=none"
            )
        backbone.requires_grad_(False)
        self.build(backbone.net, backbone.name)
        backbone.tuning = self
        backbone.register_forward_pre_hook(enter)
        backbone.register_forward_hook(leave, always_call=True)

    @abstractmethod
    def build(self, net: nn.Module, name: str) -> None:
        """Makes the parameters for a network that is called so. Changes the tuning.

        Raises:
            ValueError: the network has nothing to tune.
        """

    @abstractmethod
    def inside(self, net: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Meanwhile passes of the network are tuned."""

    def settle(self, net: nn.Module) -> None:
        """Before a pass in training: statistics of batches stay as they are."""
        for norm in batch_norms(net).values():
            norm.eval()


def enter(backbone: Any, inputs: Any) -> None:
    """Before a pass of a tuned backbone."""
    if backbone.tuning is not None:
        if backbone.training:
            backbone.tuning.settle(backbone.net)
        backbone.tuning.open.enter_context(backbone.tuning.inside(backbone.net))


def leave(backbone: Any, inputs: Any, outputs: Any) -> None:
    """After it, also where it was broken off."""
    if backbone.tuning is not None:
        backbone.tuning.open.close()


@guarded
class Frozen(Tuning):
    """Nothing of the backbone is learnt; it stays in eval mode, and the heads train."""

    def build(self, net: nn.Module, name: str) -> None:
        """There is nothing to make."""

    def inside(self, net: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Passes are as they were."""
        return contextlib.nullcontext()

    def settle(self, net: nn.Module) -> None:
        """Dropout is off, too."""
        net.eval()


@guarded
class LoRA(Tuning):
    """``W + alpha / r B A`` in the place of chosen matrices; B begins at zero, so that the first pass is the network's.

    Args:
        rank: r.
        alpha: of the product, over r.
        weights: pattern that is searched in the names of the network's matrices; those that have it are tuned.
    """

    scale: Tensor  # [], alpha / r

    def __init__(self, rank: Count, alpha: Positive, weights: str) -> None:
        super().__init__()
        self.rank = rank
        self.weights = weights
        self.register_buffer("scale", torch.tensor(alpha / rank))

    def build(self, net: nn.Module, name: str) -> None:
        matrices = {key: weight for key, weight in net.named_parameters() if weight.ndim == 2}
        chosen = {key: weight for key, weight in matrices.items() if re.search(self.weights, key)}
        if not chosen:
            there = ", ".join(list(matrices)[:4]) or "none"
            raise ValueError(
                f"student.tuning.weights is {self.weights}, but no matrix of {name} is called so; it has {there}: name "
                "some of its matrices, or choose another backbone, such as text_tiny or vit_nano"
            )
        bound = {key: 1 / math.sqrt(weight.shape[1]) for key, weight in chosen.items()}  # as of the authors' code
        down = {key: torch.empty(self.rank, w.shape[1]).uniform_(-bound[key], bound[key]) for key, w in chosen.items()}
        self.down = by_path(down)  # [r, in] each
        self.up = by_path({key: torch.zeros(len(weight), self.rank) for key, weight in chosen.items()})  # [out, r]

    @property
    def names(self) -> list[str]:
        """Of the matrices."""
        return [path.replace("/", ".") for path in self.down]

    def added(self) -> dict[str, Tensor]:
        """Name of a matrix -> what is added to it, [out, in]."""
        return {path.replace("/", "."): self.scale * self.up[path] @ down for path, down in self.down.items()}

    @contextlib.contextmanager
    def inside(self, net: nn.Module) -> Iterator[None]:
        """Meanwhile the sums stand where the matrices are, with gradient to B and A."""
        kept = {key: net.get_parameter(key) for key in self.names}
        try:
            for key, more in self.added().items():
                put(net, key, kept[key] + more)
            yield
        finally:
            for key, weight in kept.items():
                put(net, key, weight)


def put(net: nn.Module, key: str, x: Any) -> None:
    """Has a network read this tensor where the parameter of that name stands."""
    owner, _, name = key.rpartition(".")
    net.get_submodule(owner)._parameters[name] = x


@guarded
class Prefix(Tuning):
    """P learnt keys and values before those of the tokens, in every attention layer of torch or timm.

    torch's layer makes keys and values of any tokens: there the prefix is what it makes them of, one token for the key
    and another for the value. timm's makes them of the layer's own tokens: there it is the keys and values themselves.

    Args:
        length: P.
        std: standard deviation of what it begins with.
    """

    def __init__(self, length: Count, std: NonNegative) -> None:
        super().__init__()
        self.length = length
        self.std = std

    def build(self, net: nn.Module, name: str) -> None:
        widths = {path: width_of(layer) for path, layer in net.named_modules() if attends(layer)}
        if not widths:
            raise ValueError(
                f"tuning=prefix needs attention layers of torch or timm, which {name} has not: choose another "
                "backbone, such as text_tiny or vit_nano, or tuning=lora"
            )
        drawn = {path: self.std * torch.randn(2, self.length, width) for path, width in widths.items()}
        self.key = by_path({path: x[0] for path, x in drawn.items()})  # [P, D] each
        self.value = by_path({path: x[1] for path, x in drawn.items()})  # [P, D] each

    @contextlib.contextmanager
    def inside(self, net: nn.Module) -> Iterator[None]:
        """Meanwhile every attention layer sees the prefix."""
        with contextlib.ExitStack() as hooks:
            for path, key in self.key.items():
                layer = net.get_submodule(path.replace("/", "."))
                hang = before_torch if isinstance(layer, nn.MultiheadAttention) else before_timm
                for handle in hang(layer, key, self.value[path]):
                    hooks.callback(handle.remove)
            yield


def attends(layer: nn.Module) -> bool:
    """Whether it is an attention layer that can have a prefix."""
    return (isinstance(layer, nn.MultiheadAttention) and layer.batch_first) or type(layer) is Attention


def width_of(layer: Any) -> int:
    """D of a layer's keys."""
    return layer.embed_dim if isinstance(layer, nn.MultiheadAttention) else layer.attn_dim


def before_torch(layer: Any, key: Tensor, value: Tensor) -> list[Any]:
    """Has torch's layer make further keys and values, of tokens [P, D] each; the handles of what does."""

    def widen(module: nn.Module, args: Any, kwargs: Any) -> Any:
        query, *own = args  # [B, N, D] each
        longer = [
            torch.cat([x.to(old.dtype).expand(len(old), -1, -1), old], dim=1)  # [B, P + N, D]
            for x, old in zip((key, value), own, strict=True)
        ]
        for name in ("attn_mask", "key_padding_mask"):
            if (mask := kwargs.get(name)) is not None:
                kwargs[name] = F.pad(mask, (len(key), 0))  # [..., P + N], nothing of the prefix hidden
        return (query, *longer), {**kwargs, "is_causal": False}

    return [layer.register_forward_pre_hook(widen, with_kwargs=True)]


def before_timm(layer: Any, key: Tensor, value: Tensor) -> list[Any]:
    """Gives timm's layer further keys and values [P, D] each, behind its own; the handles of what does."""
    count = len(key)
    rows = torch.cat([torch.zeros_like(key), key, value], dim=1)  # [P, 3 D]: queries that nobody reads, keys, values

    def lengthen(module: nn.Module, args: Any) -> Any:
        return (F.pad(args[0], (0, 0, 0, count)), *args[1:])  # [B, N + P, D]

    def replace(module: nn.Module, args: Any, made: Tensor) -> Tensor:
        return torch.cat([made[:, :-count], rows.to(made.dtype).expand(len(made), -1, -1)], dim=1)  # [B, N + P, 3 D]

    return [
        layer.register_forward_pre_hook(lengthen),
        layer.qkv.register_forward_hook(replace),
        layer.register_forward_hook(lambda module, args, x: x[:, :-count]),  # [B, N, D]
    ]


def by_path(tensors: Mapping[str, Tensor]) -> nn.ParameterDict:
    """Parameters by the places in the network they belong to, with a slash for every dot, which no name may have."""
    return nn.ParameterDict({name.replace(".", "/"): nn.Parameter(x) for name, x in tensors.items()})


def fold(backbone: Any) -> None:
    """Makes a tuned backbone a plain one that gives the same, all of which can be trained again. Changes it.

    Raises:
        ValueError: what was learnt is no part of any weight.
    """
    if (tuning := getattr(backbone, "tuning", None)) is None:
        return
    backbone.net.load_state_dict(folded(backbone.net.state_dict(), tuning.state_dict()))
    backbone.tuning = None
    backbone.requires_grad_(True)


@torch.no_grad()
def folded(net: dict[str, Tensor], tuning: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a plain network that gives what the tuned one does.

    Args:
        net: names and tensors of the network.
        tuning: those of what was learnt beside it; empty where it was trained itself.

    Raises:
        ValueError: what was learnt is no part of any weight.
    """
    if any(name.startswith("key.") for name in tuning):
        raise ValueError(
            "the backbone was tuned by prefixes, which no weight of its network can hold: load the whole run, or train "
            "one with tuning=lora"
        )
    found = dict(net)
    for name, down in tuning.items():
        if name.startswith("down."):
            key = name.removeprefix("down.").replace("/", ".")
            up = tuning[name.replace("down.", "up.", 1)]  # [out, r]
            found[key] = found[key] + tuning["scale"] * up @ down  # [out, in]
    return found
