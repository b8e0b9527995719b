"""Small networks for small images and vectors, registered with timm."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn


def settings(first_conv: str | None, side: int = 32) -> dict[str, Any]:
    """What timm keeps of a model beside its code: there are no public weights, and classifiers are called "fc"."""
    normal = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "interpolation": "bilinear", "crop_pct": 1.0}
    return {"url": "", "input_size": (3, side, side), "first_conv": first_conv, "classifier": "fc", **normal}


default_cfgs = generate_default_cfgs(  # timm looks for this name
    {
        "ssl_tiny": settings("features.0"),
        "ssl_mlp": settings(None),
        "ssl_resnet18_small": settings("conv1"),
        "ssl_resnet50_small": settings("conv1"),
    }
)


class Classified(nn.Module):
    """What timm's models offer about their classifier, which is called ``fc`` and reads ``num_features`` numbers."""

    num_features: int

    def classify(self, num_classes: int) -> None:
        """Gives the model a new classifier; 0: none."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """As timm's: a new classifier. There is one way of pooling."""
        self.classify(num_classes)

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.fc


class Tiny(Classified):
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
        self.classify(num_classes)

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
def ssl_tiny(pretrained: bool = False, **options: Any) -> Tiny:
    """The tiny net, under timm's calling convention."""
    return build_model_with_cfg(Tiny, "ssl_tiny", pretrained, **{"num_classes": 0, **options})


class MLP(Classified):
    """Two hidden layers over all pixels as one vector: for rows of numbers, which have no neighbourhood.

    Args:
        num_classes: 0 for features only, as timm's models.
        in_chans: C, channels of the images.
        img_size: S, side of the images, or height and width, pixels; a vector of so many times C numbers.
        width: of both layers.
    """

    def __init__(self, num_classes: int, in_chans: int, img_size: int | Sequence[int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        pixels = img_size**2 if isinstance(img_size, int) else math.prod(img_size)
        for before in (in_chans * pixels, width):
            layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.num_features = width
        self.classify(num_classes)

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
def ssl_mlp(pretrained: bool = False, **options: Any) -> MLP:
    """The MLP, under timm's calling convention."""
    own = {"num_classes": 0, "in_chans": 3, "img_size": 32, "width": 512}
    return build_model_with_cfg(MLP, "ssl_mlp", pretrained, **{**own, **options})


def small_stem(**options: Any) -> ResNet:
    """A ResNet of timm's without the 7x7 stride-2 convolution and the max-pooling, as nearly all CIFAR recipes do."""
    model: Any = ResNet(**options)
    old = model.conv1
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


@register_model
def ssl_resnet18_small(pretrained: bool = False, **options: Any) -> ResNet:
    """timm's resnet18 with the small-image stem."""
    own = {"num_classes": 0, "block": BasicBlock, "layers": (2, 2, 2, 2)}
    return build_model_with_cfg(small_stem, "ssl_resnet18_small", pretrained, **{**own, **options})


@register_model
def ssl_resnet50_small(pretrained: bool = False, **options: Any) -> ResNet:
    """timm's resnet50 with the small-image stem."""
    own = {"num_classes": 0, "block": Bottleneck, "layers": (3, 4, 6, 3)}
    return build_model_with_cfg(small_stem, "ssl_resnet50_small", pretrained, **{**own, **options})
