"""Small networks for small images and vectors, registered with timm."""

from typing import Any, ClassVar

import timm
from timm.models import register_model
from timm.models.resnet import ResNet
from torch import Tensor, nn


class Tiny(nn.Module):
    """Four 3x3 convolutions, 0.31 million parameters, 6 million multiply-adds at 32 px: trains on a laptop's CPU.

    Args:
        num_classes: 0 for features only, as timm's models.
        in_chans: channels of the images.
    """

    widths = (32, 64, 128, 192)
    strides = (2, 2, 2, 1)
    feature_info: ClassVar = [{"module": f"features.{3 * i + 2}", "num_chs": w} for i, w in enumerate(widths)]

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

    def group_matcher(self, coarse: bool = False) -> dict[str, list[tuple[str, tuple[int]]]]:
        """Patterns of the parameters of each layer, as timm's models give them."""
        return {"layers": [(rf"^features\.(?:{3 * i}|{3 * i + 1})\.", (i,)) for i in range(len(self.widths))]}

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


class MLP(nn.Module):
    """Two hidden layers over all pixels as one vector: for rows of numbers, which have no neighbourhood.

    Args:
        num_classes: 0 for features only, as timm's models.
        in_chans: C, channels of the images.
        img_size: S, side of the images, pixels; a vector of S * S * C numbers.
        width: of both layers.
    """

    def __init__(self, num_classes: int, in_chans: int, img_size: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for before in (in_chans * img_size**2, width):
            layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.num_features = width
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, list[tuple[str, tuple[int]]]]:
        """Patterns of the parameters of each layer, as timm's models give them."""
        return {"layers": [(rf"^features\.(?:{3 * i + 1}|{3 * i + 2})\.", (i,)) for i in range(2)]}

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, C, S, S] -> [B, width, 1, 1], a map of one position"""
        return self.features(x)[..., None, None]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[B, width, 1, 1] -> [B, width], or [B, num_classes]"""
        return x.flatten(1) if pre_logits else self.fc(x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def ssl_mlp(
    pretrained: bool = False, num_classes: int = 0, in_chans: int = 3, img_size: int = 32, width: int = 512, **_: Any
) -> MLP:
    """The MLP, under timm's calling convention."""
    return MLP(num_classes, in_chans, img_size, width)


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
