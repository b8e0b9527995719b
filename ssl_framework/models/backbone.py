"""Backbones: any timm model, ResNets with a small-image stem, and a tiny net for CPUs.

The small ones are registered with timm, so that exported weights load through ``timm.create_model`` as well, once
``ssl_framework.models.backbone`` has been imported.
"""

import contextlib
import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssl_framework.arguments import Channels, Natural, Pixels, guarded
from ssl_framework.models import scattering, small_nets  # noqa: F401  register their networks with timm
from ssl_framework.models.base import Block
from ssl_framework.models.layers import depths_of, freeze
from ssl_framework.models.patches import grid_of, hiding, noting, refuse_without_patches
from ssl_framework.models.pretrained import fetched, tag_of
from ssl_framework.models.sizes import for_further_sizes, sized
from ssl_framework.runs.paths import leads_elsewhere

SMALL_IMAGE = 64
"""Up to this side in pixels the first convolution is 3x3 with stride 1 and there is no max-pooling."""


@guarded
class Backbone(nn.Module):
    """A timm model without its classifier.

    Args:
        name: timm's name of the model.
        small_name: the model to take instead for images up to 64 px, where the name's own stem would shrink them too
            early; ``None`` if there is none.
        image_size: side of the views in pixels.
        channels: of the views.
        options: passed to ``timm.create_model`` (``{drop_path_rate: 0.1}`` ...). A model that has to be told the size
            of its images (``img_size``) is told it, unless the options do; they then have it, too (see ``sizes``).
        channels_last: device types ("cpu", "cuda") on which images and weights lie with the channels innermost: the
            same numbers, faster for some nets on some devices.
        pretrained: whether a new run begins with the weights that timm has for the name (see ``weights``).
        weights: run folder or file of weights that a new run begins with; ``None``: random ones, or timm's.
        frozen_stages: first stages that stay as they begin, batch statistics included: 1 the stem, 2 it and the first
            stage of a convolutional net or block of a transformer, and so on; 0: all of it trains.
        checkpoint_activations: keeps only what goes from block to block for the backward pass, which computes the rest
            once more: the same gradients in less memory, for a third more time a step.
        masked_tokens: what becomes of a transformer's patches that a masker hides: "drop" leaves them out, "replace"
            puts one learned token in their place, "mark" adds it to what a masker shows there; ``None`` where nothing
            is hidden.
        last_layers: L, so many last blocks of a transformer whose patches come as "layers".

    Attributes:
        patch_dim: D' of a transformer's patches; ``None`` of other nets.
        patch_pixels: numbers of one patch in pixels and channels; 0 of other nets.

    Raises:
        ValueError: timm has no such model, it cannot take these images, an option says where weights are, it has fewer
            stages or blocks, no patches, or it cannot checkpoint activations.
    """

    sample_dims = 3

    def __init__(
        self,
        name: str,
        small_name: str | None,
        image_size: Pixels,
        channels: Channels,
        options: dict[str, Any] | None = None,
        channels_last: Sequence[str] = (),
        pretrained: bool = False,
        weights: str | None = None,
        frozen_stages: Natural = 0,
        checkpoint_activations: bool = False,
        masked_tokens: Literal["drop", "replace", "mark"] | None = None,
        last_layers: Natural = 0,
    ) -> None:
        super().__init__()
        if isinstance(channels_last, str) or not set(channels_last) <= {"cpu", "cuda"}:
            raise ValueError(f"backbone.channels_last is {channels_last!r}: give a list of cpu and cuda, or []")
        self.channels = channels
        self.channels_last = tuple(channels_last)
        self.pretrained = pretrained
        self.weights = weights
        self.full_name = name
        self.name = small_name if small_name is not None and image_size <= SMALL_IMAGE else name
        if not timm.is_model(self.name):
            known = timm.list_models()
            near = timm.list_models(f"{self.name}*") or difflib.get_close_matches(self.name, known, n=6)
            near = near or timm.list_models(f"*{self.name[:8]}*")
            raise ValueError(
                f"backbone.name is {self.name}, which timm does not know; it has, for example: "
                f"{', '.join(near[:6] or known[:6])}"
            )
        refuse_places(options or {})
        if masked_tokens is not None or last_layers:
            asked = (
                f"backbone.masked_tokens={masked_tokens}" if masked_tokens else f"backbone.last_layers={last_layers}"
            )
            refuse_without_patches(self.name, asked)
        made = sized(self.name, channels, image_size, options or {})
        self.net: Any = made.net
        self.dim = made.dim
        self.dense_dims = self._dense_dims(made.shape)
        self.options = {**(options or {}), **made.told}
        self.frozen_stages = frozen_stages
        self._freeze()
        self.checkpoint_activations = checkpoint_activations
        if checkpoint_activations:
            self._checkpoint_activations()
        self.patch_dim: int | None = None
        self.patch_pixels = 0
        if isinstance(self.net, VisionTransformer):
            self.patch_dim = self.net.embed_dim
            self.patch_pixels = math.prod(self.net.patch_embed.patch_size) * channels
        self.masked_tokens = masked_tokens
        self.last_layers = last_layers
        if self.patch_dim is not None:
            self.dense_dims |= dict.fromkeys(("patches", *["layers"] * (last_layers > 0)), self.patch_dim)
        if last_layers and (checkpoint_activations or last_layers > len(self.net.blocks)):
            raise ValueError(
                f"backbone.last_layers is {last_layers}: it goes up to {len(self.net.blocks)}, the blocks of "
                f"{self.name}, and needs backbone.checkpoint_activations=false"
            )
        self.mask_token: nn.Parameter | None = None  # [D']; beside the net, whose names are those of exports
        if masked_tokens in ("replace", "mark"):
            self.mask_token = nn.Parameter(0.02 * torch.randn(self.net.embed_dim))  # BEiT's deviation
        self._apply(lambda weight: weight)  # lays the weights out for the CPU

    def take_sizes(self, sizes: Sequence[int]) -> None:
        """Makes sure that images of some sides in pixels can come; the weights stay. Changes ``net`` where it must be
        told of several sizes.

        Raises:
            ValueError: it takes one size only.
        """
        told = for_further_sizes(self.net, self.name, self.channels, sizes, self.options)
        if not told:
            return
        self.options |= told
        weights, trains = self.net.state_dict(), [p.requires_grad for p in self.net.parameters()]
        with torch.random.fork_rng(devices=[]):
            self.net = timm.create_model(self.name, num_classes=0, in_chans=self.channels, **self.options)
        self.net.load_state_dict(weights)
        for parameter, own in zip(self.net.parameters(), trains, strict=True):
            parameter.requires_grad_(own)
        self._freeze()
        if self.checkpoint_activations:
            self._checkpoint_activations()
        self._apply(lambda weight: weight)

    def _freeze(self) -> None:
        self.still = freeze(self.net, self.frozen_stages, self.name) if self.frozen_stages else []
        self.train()

    def _checkpoint_activations(self) -> None:
        try:
            self.net.set_grad_checkpointing(True)
        except (AttributeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"backbone.checkpoint_activations is true, but {self.name} cannot checkpoint its activations: set it "
                "to false or choose another backbone, such as resnet18 or vit_tiny"
            ) from error
        for part in self.net.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.register_forward_pre_hook(keep_statistics)
                part.register_forward_hook(partial(move_statistics, momentum=part.momentum), always_call=True)

    def train(self, mode: bool = True) -> "Backbone":
        """As of every module; the batch norms of frozen stages stay in eval mode."""
        super().train(mode)
        for norm in self.still:
            norm.eval()
        return self

    def _layout(self, device: torch.device) -> torch.memory_format:
        return torch.channels_last if device.type in self.channels_last else torch.contiguous_format

    def _apply(self, fn: Any, recurse: bool = True) -> "Backbone":
        """Also lays the weights out anew, since every way of moving a module comes through here."""
        super()._apply(fn, recurse)
        self.net.to(memory_format=self._layout(next(self.net.parameters()).device))
        return self

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """[B, C, H, W] -> "pooled" [B, D] and "map" [B, D', h, w] or "tokens" [B, N, D'].

        Of the few models that have features of several scales, such as CoaT, "pooled" alone. Of timm's plain
        transformers also "patches" [B, n, D'], the tokens without the class token, and "layers" [B, L, n, D'] where
        ``last_layers`` asks for them.

        Args:
            x: the images.
            mask: [B, N] bool, True where a patch is hidden; ``None``: all are seen. Needs ``masked_tokens``.
        """
        with (
            hiding(self.net, mask, self.mask_token, self.masked_tokens == "mark"),
            noting(self.net, self.last_layers) as layers,
        ):
            features = self.net.forward_features(x.contiguous(memory_format=self._layout(x.device)))
        pooled = self.net.forward_head(features, pre_logits=True)  # [B, D]
        if not isinstance(features, Tensor):
            return {"pooled": pooled}
        if features.ndim == 4:
            return {"pooled": pooled, "map": self._upright(features)}
        found = {"pooled": pooled, "tokens": features}
        if self.patch_dim is not None:
            found["patches"] = features[:, self.net.num_prefix_tokens :]  # [B, n, D']
        if layers:
            found["layers"] = torch.stack(layers, dim=1)[:, :, self.net.num_prefix_tokens :]  # [B, L, n, D']
        return found

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of a transformer's patches of such images; ``None`` of other nets."""
        return None if self.patch_dim is None else grid_of(self.net, height, width)

    def about(self) -> dict[str, str]:
        """timm's name and the channels."""
        return {"timm_name": self.name, "in_chans": str(self.channels)}

    def public(self) -> tuple[dict[str, Tensor], str]:
        """timm's weights of this name, from its cache or the network, and what messages call them.

        Raises:
            ValueError: ``weights`` names others, or timm has none or cannot get them.
        """
        if self.weights is not None:
            raise ValueError(f"backbone.pretrained is true, and backbone.weights={self.weights}: choose one of them")
        if self.name != self.full_name and not timm.is_model_pretrained(self.name):
            raise ValueError(
                f"timm has no pretrained weights of {self.name}, which takes the place of {self.full_name} up to "
                f"{SMALL_IMAGE} px: leave data.image_size out, which is then that of the weights, or set "
                "backbone.small_name=null"
            )
        instead = f"set backbone.pretrained=false, or backbone.weights=<a file of weights of {self.name}>"
        return fetched(self.name, instead), f"backbone.pretrained=true: timm's {self.name}, {tag_of(self.name)}"

    def load_line(self, path: Path) -> str:
        """The call of timm, and before it, for one of our own networks, the import that makes timm know it."""
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        imported = "import ssl_framework.models.backbone  # registers the small nets with timm\n"
        return (
            (imported if self.name.startswith("ssl_") else "")
            + f"timm.create_model({self.name!r}, num_classes=0, in_chans={self.channels}{options}, "
            + f"checkpoint_path={str(path)!r})"
        )

    def spatial(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D', h, w]: the last map before pooling, or a transformer's patch tokens on their grid.

        Raises:
            ValueError: the patches make no square, or timm does not say where they lie.
        """
        outputs = self(x)
        if "map" in outputs:
            return outputs["map"]
        if "tokens" not in outputs or not hasattr(self.net, "num_prefix_tokens"):
            return self._last_map(x)  # timm counts prefix tokens of plain transformers only
        return self.map_of(outputs["tokens"])

    def map_of(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D'] as the map of their patches on the grid, [B, D', h, w], without the class token and others
        that stand before them.

        Raises:
            ValueError: the patches make no square.
        """
        tokens = tokens[:, self.net.num_prefix_tokens :]  # [B, h * w, D']
        side = math.isqrt(tokens.shape[1])
        if side**2 != tokens.shape[1]:
            raise ValueError(
                f"backbone.name is {self.name}, which gives {tokens.shape[1]} tokens that make no square map: "
                "choose another backbone, or neither a dense method nor evaluation=dense"
            )
        return tokens.transpose(1, 2).unflatten(2, (side, side))  # [B, D', h, w]

    def _last_map(self, x: Tensor) -> Tensor:
        """The map behind the last block as timm's ``forward_intermediates`` makes it: [B, C, H, W] -> [B, D', h, w]."""
        x = x.contiguous(memory_format=self._layout(x.device))
        try:
            how: dict[str, Any] = {"indices": 1, "output_fmt": "NCHW", "intermediates_only": True}
            return self.net.forward_intermediates(x, **how)[-1]
        except (AttributeError, AssertionError, TypeError) as error:
            raise ValueError(
                f"backbone.name is {self.name}, and timm does not say where in the picture its features lie: choose "
                "another backbone, or an evaluation other than dense"
            ) from error

    def _upright(self, found: Tensor) -> Tensor:
        """A map as [B, D', h, w], also of a model, such as Swin, that has its channels last."""
        dim = self.net.num_features
        return found.permute(0, 3, 1, 2) if found.shape[1] != dim and found.shape[3] == dim else found

    def _dense_dims(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Widths of what keeps places apart, from the shape of an image's features: "tokens", and "map" where there are
        several positions."""
        if len(shape) == 3:
            width, *grid = self._upright(torch.empty(1, *shape, device="meta")).shape[1:]
            return {"map": width} if math.prod(grid) > 1 else {}
        if len(shape) != 2:
            return {}
        places = shape[0] - getattr(self.net, "num_prefix_tokens", shape[0])
        square = places > 1 and math.isqrt(places) ** 2 == places
        return {"tokens": shape[1], **({"map": shape[1]} if square else {})}

    def depths(self) -> tuple[dict[str, int], int]:
        """How deep every parameter lies: its name -> 0 for the first layer, and so on; and the number of layers (see
        ``layers.depths_of``).

        Raises:
            ValueError: timm does not say for this model.
        """
        try:
            found, number = depths_of(self.net, coarse=False)
        except AttributeError as error:
            raise ValueError(
                f"backbone.name is {self.name}, and timm does not say how deep its parameters lie: set "
                "evaluation.layer_decay=1 (or optimizer.layer_decay=1, where that asks for it), or choose another "
                "backbone"
            ) from error
        return {name: found[name] for name, _ in self.net.named_parameters()}, number

    @property
    def blocks(self) -> list[Block]:
        """Stages of a convolutional net or blocks of a transformer, first to last, as timm's ``feature_info`` has them.

        Raises:
            ValueError: timm does not say for this model.
        """
        try:
            found = [Block(self.net.get_submodule(s["module"]), s["num_chs"]) for s in self.net.feature_info]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"backbone.name is {self.name}, and timm does not say what its blocks are, which the mixer has to "
                "know: choose another backbone or mixer"
            ) from error
        return found[1:] if isinstance(self.net, ResNet) else found  # a ResNet's first entry is its stem

    def stack(self) -> list[nn.Module]:
        """The modules of ``blocks``; none where timm does not say."""
        try:
            return [block.module for block in self.blocks]
        except ValueError:
            return []

    def block(self, layer: int, key: str) -> Block | None:
        """The block that a config names by its position: 1 is the first, -1 the last, 0 the images themselves.

        Args:
            layer: the position.
            key: where the config names it.

        Raises:
            ValueError: there is no such block, or its pass is repeated for the backward pass, when ``changed_at`` is
                over.
        """
        if layer != 0 and self.checkpoint_activations:
            raise ValueError(
                f"{key} names a block of {self.name}, but backbone.checkpoint_activations is true, which repeats its "
                "pass without the mixer: set that to false, or choose a mixer of images"
            )
        blocks = self.blocks
        if not -len(blocks) <= layer <= len(blocks):
            raise ValueError(
                f"{key} names {layer}, but {self.name} has the blocks 1 to {len(blocks)} (0: the images, -1: the "
                "last block)"
            )
        return [None, *blocks][layer] if layer >= 0 else blocks[layer]

    @contextlib.contextmanager
    def changed_at(self, block: Block | None, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Meanwhile every pass goes on with what ``change`` makes of the map behind a block.

        Args:
            block: one of ``blocks``; ``None``: the images before the first.
            change: the map [B, ...] -> one of the same shape, or ``None`` to leave it.
        """
        if block is None:
            handle = self.register_forward_pre_hook(lambda module, inputs: change(inputs[0]))
        else:
            handle = block.module.register_forward_hook(lambda module, inputs, output: change(output))
        try:
            yield
        finally:
            handle.remove()


def refuse_places(options: dict[str, Any]) -> None:
    """Raises ValueError for an option that says which weights there are: no run that is loaded would take it."""
    if found := [name for name in options if leads_elsewhere(name)]:
        raise ValueError(
            f"backbone.options has {found[0]}, which is said elsewhere: weights by backbone.pretrained=true or "
            "backbone.weights=<file>, channels by data.channels"
        )


def keep_statistics(norm: nn.Module, inputs: Any) -> None:
    """Before batch normalisation's pass: one that the backward pass repeats must not count a second time.

    The running averages stay where they are, but are there: the pass has to save for the backward pass what it saved.
    """
    if norm.training and torch._C._current_graph_task_id() != -1:  # as torch's own checkpointing tells
        norm.momentum = 0.0  # type: ignore[assignment]


def move_statistics(norm: nn.Module, inputs: Any, output: Any, momentum: float | None) -> None:
    """After it, also where it was broken off: the next one counts."""
    if norm.momentum != momentum:
        norm.momentum = momentum  # type: ignore[assignment]
        norm.get_buffer("num_batches_tracked").sub_(1)
