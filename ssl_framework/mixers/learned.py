"""Mixing rules with parameters, trained with the student by the run's own loss and by one of their own.

    AutoMix   Liu et al., ECCV 2022 (arXiv:2103.13027), eq. 5-8: a mask from cross attention of two maps
    SAMix     Li et al., 2021 (arXiv:2111.15454): the same with another attention and a mask that is to be sharp
    AdaMixUp  Guo et al., AAAI 2019 (arXiv:1809.02499): for every pair the interval that the share is drawn from

B samples, C channels, h x w positions of a map, H x W pixels.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval, Len
from torch import Tensor, nn

from ssl_framework.arguments import Channels, Count, NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad
from ssl_framework.functional import full_precision
from ssl_framework.gradient_cache import running_statistics_kept
from ssl_framework.mixers.base import Context, LearnedRule, uniform
from ssl_framework.mixers.rules import Share, owned, partners
from ssl_framework.models.base import layered
from ssl_framework.models.encoder import Encoder
from ssl_framework.types import Batch, Outputs

KEY = "mixer.rule.layer"


@guarded
class LearnedMask(LearnedRule):
    """``m x + (1 - m) other``, where a network makes the mask m of both images' maps and of l ~ Beta(alpha, alpha).

    The maps are those of the EMA teacher, or in a run without one of the student, without gradient. The label shares
    are the means of the mask, as constants.

    Its own loss keeps the mask's mean near l and its values apart:
    ``weight (max(|mean(m) - l| - tolerance, 0) - spread var(m))``, mean and variance over the global batch.

    Args:
        network: builds the network from the channels of the maps; it takes the own map, the partner's and l, and
            returns logits of how much is the partner's.
        layer: block whose maps it sees; 1 is the first, -1 the last.
        alpha: of the Beta distribution.
        per_sample: l for every sample instead of one for the batch.
        plain: where l or 1 - l is at most this, the mask is l everywhere (Mixup); in [0, 0.5].
        upsampling: of the mask to the size of the images, "nearest" or "bilinear".
        weight: of its own loss.
        tolerance: how far the mask's mean may lie from l, in [0, 1].
        spread: of the variance within that loss; 0 for none.
        lr_factor: see ``LearnedRule``.
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        layer: int,
        alpha: Positive,
        per_sample: bool,
        plain: Annotated[float, Interval(ge=0, lt=0.5)],
        upsampling: str,
        weight: NonNegative,
        tolerance: NonNegative,
        spread: NonNegative,
        lr_factor: Positive,
    ) -> None:
        super().__init__(lr_factor)
        if upsampling not in ("nearest", "bilinear"):
            raise ValueError(f"mixer.rule.upsampling is {upsampling}: choose nearest or bilinear")
        self.build = network
        self.layer = layer
        self.share = Share(alpha, per_sample, dominant=False)
        self.plain = plain
        self.upsampling = upsampling
        self.weight = weight
        self.tolerance = tolerance
        self.spread = spread

    def attach(self, student: Encoder) -> None:
        """See ``LearnedRule``."""
        block = layered(student.backbone, KEY).block(self.layer, KEY)
        if block is None:
            raise ValueError("mixer.rule.layer names 0, the images, but a mask is made of maps: name a block")
        self.channels = block.channels
        self.network = self.build(block.channels)

    def forward(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, H, W] with gradient, and how much of each pixel is of whom [B, 2, H, W] without."""
        share = self.share(x, context)  # [B]
        own = self.mask(self.maps(x, context), source, share, x.shape[2:])  # [B, 1, H, W]
        if context.owed is not None:
            context.owed.append(self.penalty(own, share))
        return torch.lerp(partners(x, source), x, own.to(x.dtype)), owned(own.detach())

    def mask(self, maps: Tensor, source: Tensor, share: Tensor, size: Sequence[int]) -> Tensor:
        """How much of each pixel is the sample's own: maps [B, C, h, w], shares [B] -> [B, 1, H, W] in [0, 1]."""
        with torch.autocast(maps.device.type, enabled=False):
            maps = full_precision(maps)
            logits = self.network(maps, partners(maps, source), share.to(maps.dtype))  # [B, 1, h, w]
            other = F.interpolate(logits, tuple(size), mode=self.upsampling).sigmoid()  # [B, 1, H, W]
        share = share[:, None, None, None]  # [B, 1, 1, 1]
        return torch.where(torch.minimum(share, 1 - share) <= self.plain, share.to(other.dtype), 1 - other)

    @torch.no_grad()
    def maps(self, x: Tensor, context: Context) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w] behind the block. Changes nothing, running statistics included.

        Raises:
            ValueError: the block gives something else.
        """
        network = context.network if context.teacher is None else context.teacher
        assert network is not None
        found: list[Tensor] = []
        backbone = layered(network.backbone, KEY)
        block = backbone.block(self.layer, KEY)
        kind = x.device.type
        # Half-precision weights cast here have no gradient: the student's pass must not meet them in autocast's cache.
        uncached = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), False)
        with (
            uncached,
            running_statistics_kept(network.backbone.net),
            backbone.changed_at(block, found.append),
        ):
            network.backbone(x)
        (maps,) = found
        if maps.ndim != 4 or maps.shape[1] != self.channels:
            raise ValueError(
                f"mixer.rule.layer is {self.layer}, but behind that block of {network.backbone.name} are no maps "
                f"of {self.channels} channels: choose a convolutional backbone or another mixer"
            )
        return maps

    def penalty(self, own: Tensor, share: Tensor) -> Tensor:
        """The loss of its own: masks [B, 1, H, W] and l [B] of this rank -> scalar, that of the global batch."""
        mean, square = own.mean(dim=(1, 2, 3)), own.square().mean(dim=(1, 2, 3))  # [B] each
        each = torch.stack([mean - share, mean, square], dim=1)  # [B, 3]
        off, mean, square = gather_with_grad(each).mean(dim=0)  # scalars
        return self.weight * ((off.abs() - self.tolerance).clamp(min=0) - self.spread * (square - mean.square()))


@guarded
class AutoMixBlock(nn.Module):
    """Cross attention of two maps, to each of which its share was appended as a channel (AutoMix).

    Args:
        channels: C of the maps.
        reduction: C over the width of queries and keys.
    """

    def __init__(self, channels: Channels, reduction: Count) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels + 1, max(channels // reduction, 1), 1)  # of the keys as well
        self.value = nn.Conv2d(channels + 1, 1, 1)
        small_weights(self)

    def forward(self, own: Tensor, other: Tensor, share: Tensor) -> Tensor:
        """Maps [B, C, h, w] twice, shares [B] -> [B, 1, h, w] logits of how much is the partner's."""
        share = share[:, None, None, None].expand(-1, 1, *own.shape[2:])  # [B, 1, h, w]
        own = torch.cat([own, share], dim=1)  # [B, C + 1, h, w]
        other = torch.cat([other, 1 - share], dim=1)  # [B, C + 1, h, w]
        return attention(self.query(own), self.query(other), self.value(other))


@guarded
class SAMixBlock(nn.Module):
    """Attention whose queries and keys see both maps side by side, each multiplied by one plus its share (SAMix).

    Args:
        channels: C of the maps.
        reduction: C over the width of queries, keys and the hidden layer of the values.
        slope: k of the curve that takes the share to the factor; the smaller, the flatter in the middle; at least 0.
    """

    def __init__(self, channels: Channels, reduction: Count, slope: NonNegative) -> None:
        super().__init__()
        self.slope = slope
        width = max(channels // reduction, 1)
        self.query = nn.Conv2d(2 * channels, width, 1)
        self.key = nn.Conv2d(2 * channels, width, 1, bias=False)  # it would add the same to every logit of a query
        self.value = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, 1, 1))
        small_weights(self)

    def forward(self, own: Tensor, other: Tensor, share: Tensor) -> Tensor:
        """As ``AutoMixBlock``."""
        k = self.slope + 1
        factor = (4 / 3 * share**3 - 2 * share**2 + k * share) / (k - 2 / 3)  # [B], 0 to 1 as the share
        factor = factor[:, None, None, None]  # [B, 1, 1, 1]
        own, other = own * (1 + factor), other * (2 - factor)
        both = torch.cat([own, other], dim=1)  # [B, 2C, h, w]
        return attention(self.query(both), self.key(both), self.value(other))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every position's mean of all values: queries and keys [B, D, h, w], values [B, 1, h, w] -> [B, 1, h, w]"""
    logits = q.flatten(2).transpose(1, 2) @ k.flatten(2) / q.shape[1] ** 0.5  # [B, hw, hw]
    return (v.flatten(2) @ logits.softmax(dim=2).transpose(1, 2)).view_as(v)


def small_weights(module: nn.Module) -> None:
    """Weights of deviation 0.01, biases 0, as the authors' code: the first masks are one half everywhere."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@guarded
class AdaMixUp(LearnedRule):
    """``l x + (1 - l) other`` with ``l = a + b u``, u uniform: a policy network gives the interval for every pair.

    It sees half the sum of both images and ends in a softmax of a, b and the rest. A critic, one linear layer on the
    student's pooled features, tells clean images from mixtures; its cross-entropy is added to the loss, so that the
    policy keeps mixtures away from images that exist. Label shares have a gradient.

    Args:
        widths: channels behind each convolution of the policy network, each of stride 2.
        critic_weight: of the critic's cross-entropy.
        lr_factor: see ``LearnedRule``.
    """

    needs_clean = True

    def __init__(
        self, widths: Annotated[Sequence[Count], Len(1)], critic_weight: Positive, lr_factor: Positive
    ) -> None:
        super().__init__(lr_factor)
        self.widths = list(widths)
        self.critic_weight = critic_weight

    def attach(self, student: Encoder) -> None:
        """See ``LearnedRule``."""
        layers: list[nn.Module] = []
        for before, width in zip(
            [layered(student.backbone, "mixer.rule").channels, *self.widths], self.widths, strict=False
        ):
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.ReLU()]
        self.policy = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.widths[-1], 3))
        self.critic = nn.Linear(student.dims["pooled"], 1)

    def forward(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, H, W] and how much of each pixel is of whom [B, 2, H, W], both with gradient."""
        other = partners(x, source)
        least, length, _ = full_precision(self.policy((x + other) / 2)).softmax(dim=1).unbind(dim=1)  # [B] each
        share = least + length * uniform((len(x),), x, context.generator).to(least.dtype)  # [B]
        share = share[:, None, None, None]  # [B, 1, 1, 1]
        return torch.lerp(other, x, share.to(x.dtype)), owned(share.expand(-1, 1, *x.shape[2:]))

    def loss(self, student: list[Outputs | None], batch: Batch) -> Tensor:
        """The critic's weighed cross-entropy over clean views and mixtures."""
        assert batch.mix is not None
        logits, real = [], []
        for view, mix in zip(student, batch.mix, strict=True):
            if view is not None:
                logits.append(self.critic(view["pooled"])[:, 0])  # [B]
                # A sample that was mixed with nobody is a clean one.
                real.append(torch.ones_like(logits[-1]) if mix is None else (mix.share[:, 0] == 1).to(logits[-1].dtype))
        return self.critic_weight * F.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(real))
