"""Backbones: any timm model, ResNets with a small-image stem, and a tiny net for CPUs.

The small ones are registered with timm, so that exported weights load through ``timm.create_model`` as well, once
``ssl_framework.models.backbone`` has been imported.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import register_model
from timm.models.resnet import ResNet
from torch import Tensor, nn

SMALL_IMAGE = 64
"""Up to this side in pixels the first convolution is 3x3 with stride 1 and there is no max-pooling."""


class Backbone(nn.Module):
    """A timm model without its classifier.

    Args:
        name: timm's name of the model.
        small_name: the model to take instead for images up to 64 px, where the name's own stem would shrink them too
            early; ``None`` if there is none.
        image_size: side of the views in pixels.
        channels: of the views.
        options: passed to ``timm.create_model`` (``{img_size: 64}`` for a ViT, ``{drop_path_rate: 0.1}`` ...).
        channels_last: device types ("cpu", "cuda") on which images and weights lie with the channels innermost: the
            same numbers, faster for some nets on some devices.
        weights: run folder or .safetensors file that a new run begins with (see ``weights``); ``None``: random ones.

    Raises:
        ValueError: timm has no such model, or it cannot take these images.
    """

    def __init__(
        self,
        name: str,
        small_name: str | None,
        image_size: int,
        channels: int,
        options: dict[str, Any] | None = None,
        channels_last: Sequence[str] = (),
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(channels_last, str) or not set(channels_last) <= {"cpu", "cuda"}:
            raise ValueError(f"backbone.channels_last is {channels_last!r}: give a list of cpu and cuda, or []")
        self.channels_last = tuple(channels_last)
        self.weights = weights
        self.timm_name = small_name if small_name is not None and image_size <= SMALL_IMAGE else name
        if not timm.is_model(self.timm_name):
            near = ", ".join(timm.list_models(f"*{self.timm_name[:8]}*")[:6]) or "see timm.list_models()"
            raise ValueError(
                f"backbone.name is {self.timm_name}, which timm does not know; it has, for example: {near}"
            )
        options = dict(options or {})
        try:
            self.net: Any = timm.create_model(self.timm_name, num_classes=0, in_chans=channels, **options)
            self.dim = self._probe(image_size, channels)
        except (RuntimeError, TypeError, AssertionError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"backbone.name={self.timm_name} cannot take {channels} x {image_size} x {image_size} images with "
                f"backbone.options={options}: {reason}"
            ) from error
        self._apply(lambda weight: weight)  # lays the weights out for the CPU

    @torch.no_grad()
    def _probe(self, image_size: int, channels: int) -> int:
        self.net.eval()
        features = self.net.forward_features(torch.zeros(1, channels, image_size, image_size))
        dim = self.net.forward_head(features, pre_logits=True).shape[1]
        self.net.train()
        return dim

    def _layout(self, device: torch.device) -> torch.memory_format:
        return torch.channels_last if device.type in self.channels_last else torch.contiguous_format

    def _apply(self, fn: Any, recurse: bool = True) -> "Backbone":
        """Also lays the weights out anew, since every way of moving a module comes through here."""
        super()._apply(fn, recurse)
        self.net.to(memory_format=self._layout(next(self.net.parameters()).device))
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, C, H, W] -> "pooled" [B, D] and "map" [B, D', h, w] or "tokens" [B, N, D']."""
        features = self.net.forward_features(x.contiguous(memory_format=self._layout(x.device)))
        name = "map" if features.ndim == 4 else "tokens"
        return {name: features, "pooled": self.net.forward_head(features, pre_logits=True)}


class Tiny(nn.Module):
    """Four 3x3 convolutions, 0.31 million parameters, 6 million multiply-adds at 32 px: trains on a laptop's CPU.

    Args:
        num_classes: 0 for features only, as timm's models.
        in_chans: channels of the images.
    """

    widths = (32, 64, 128, 192)
    strides = (2, 2, 2, 1)

    def __init__(self, num_classes: int = 0, in_chans: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_chans
        for width, stride in zip(self.widths, self.strides, strict=True):
            layers += [
                nn.Conv2d(before, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            before = width
        self.features = nn.Sequential(*layers)
        self.num_features = before
        self.fc = nn.Linear(before, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 192, H/8, W/8]"""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[B, 192, h, w] -> [B, 192], or [B, num_classes]"""
        pooled = x.mean(dim=(2, 3))  # [B, 192]
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def ssl_tiny(pretrained: bool = False, num_classes: int = 0, in_chans: int = 3, **_: Any) -> Tiny:
    """The tiny net, under timm's calling convention (``_`` takes the settings timm passes to every model)."""
    return Tiny(num_classes, in_chans)


def small_stem(model: Any) -> ResNet:
    """Replaces the 7x7 stride-2 convolution and the max-pooling of a ResNet, as nearly all CIFAR recipes do."""
    old = model.conv1
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


@register_model
def ssl_resnet18_small(pretrained: bool = False, num_classes: int = 0, in_chans: int = 3, **_: Any) -> ResNet:
    """timm's resnet18 with the small-image stem."""
    return small_stem(timm.create_model("resnet18", num_classes=num_classes, in_chans=in_chans))


@register_model
def ssl_resnet50_small(pretrained: bool = False, num_classes: int = 0, in_chans: int = 3, **_: Any) -> ResNet:
    """timm's resnet50 with the small-image stem."""
    return small_stem(timm.create_model("resnet50", num_classes=num_classes, in_chans=in_chans))
