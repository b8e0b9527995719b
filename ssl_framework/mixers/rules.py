"""How two images become one, without a network: batched, for any size and number of channels.

    Mixup      Zhang et al., ICLR 2018 (arXiv:1710.09412): a weighted mean
    CutMix     Yun et al., ICCV 2019 (arXiv:1905.04899): a box of the partner
    ResizeMix  Qin et al., 2020 (arXiv:2012.11101): the whole partner, made smaller
    Switch     one of several, sample by sample (the recipe of DeiT, arXiv:2012.12877)

B samples, C channels, h x w pixels.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, PositiveFraction, guarded
from ssl_framework.mixers.base import Context, HiddenRule, LearnedRule, Rule, beta, uniform


@guarded
class Mixup:
    """``l x + (1 - l) other``, l ~ Beta(alpha, alpha).

    Args:
        alpha: of the Beta distribution.
        per_sample: a share for every sample instead of one for the batch.
        dominant: l becomes max(l, 1 - l), so that the own image weighs at least half (i-Mix).
    """

    def __init__(self, alpha: Positive, per_sample: bool, dominant: bool) -> None:
        self.share = Share(alpha, per_sample, dominant)

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and how much of each pixel is of whom [B, 2, h, w]."""
        share = self.share(x, context)[:, None, None, None]  # [B, 1, 1, 1]
        return torch.lerp(partners(x, source), x, share.to(x.dtype)), owned(share.expand(-1, 1, *x.shape[2:]))


@guarded
class CutMix:
    """A box of the partner with area 1 - l, l ~ Beta(alpha, alpha), where it does not leave the image.

    Args:
        alpha: of the Beta distribution.
        per_sample: a box for every sample instead of one for the batch.
        dominant: l becomes max(l, 1 - l), so that the own image keeps at least about half.
    """

    def __init__(self, alpha: Positive, per_sample: bool, dominant: bool) -> None:
        self.share = Share(alpha, per_sample, dominant)
        self.per_sample = per_sample

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``Mixup``; every pixel is of one image."""
        side = (1 - self.share(x, context)).sqrt()  # [B] of the box, as a share of the image's
        draws = context.draws(self.per_sample)
        centre = uniform((2, len(x) if self.per_sample else 1), x, draws).expand(2, len(x))  # [2, B]
        return pasted(x, partners(x, source), box(centre, side, x.shape[2:]).float())


@guarded
class ResizeMix:
    """The whole partner, resized to a share of the image's sides, at a random place inside.

    Args:
        smallest, largest: the share of the sides is uniform between them, in (0, 1].
        per_sample: size and place for every sample instead of for the batch.
        by_area: it is the share of the area, not that of the sides, that is uniform between their squares (SDMP).
    """

    def __init__(
        self, smallest: PositiveFraction, largest: PositiveFraction, per_sample: bool, by_area: bool = False
    ) -> None:
        if not 0 < smallest <= largest <= 1:
            raise ValueError(
                f"mixer.rule.smallest is {smallest} and largest {largest}: it takes 0 < smallest <= largest <= 1"
            )
        self.smallest = smallest
        self.largest = largest
        self.per_sample = per_sample
        self.power = 2 if by_area else 1

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``CutMix``."""
        count = len(x) if self.per_sample else 1
        draws = uniform((3, count), x, context.draws(self.per_sample)).expand(3, len(x))  # [3, B]
        low, high = self.smallest**self.power, self.largest**self.power
        scale = (low + (high - low) * draws[0]) ** (1 / self.power)  # [B]
        small, boxes = partners(x, source), []
        for axis, size in enumerate(x.shape[2:]):
            pixels = (scale * size).round().clamp(min=1)  # [B]
            first = (draws[1 + axis] * (size - pixels + 1)).floor().clamp(max=size - 1)  # [B]
            whole = torch.full_like(pixels, size)  # [B]
            weights = resampling(first, pixels, torch.zeros_like(pixels), whole, size).to(x.dtype)  # [B, size, size]
            with torch.autocast(x.device.type, enabled=False):  # half precision would round the pixels
                small = torch.einsum(("bij,bcjw->bciw", "bij,bchj->bchi")[axis], weights, small)  # [B, C, h, w]
            boxes.append(inside(first, first + pixels, size))  # [B, size]
        box = (boxes[0][:, :, None] & boxes[1][:, None])[:, None].float()  # [B, 1, h, w]
        if context.taken is not None:  # all of the partner is shown, wherever it lies
            context.taken.append(torch.cat([1 - box, torch.ones_like(box)], dim=1))  # [B, 2, h, w]
        return pasted(x, small, box)


@guarded
class Switch:
    """One of several rules, chosen for every sample or for the batch.

    Args:
        rules: to choose from.
        weights: how often each is taken, relative to the others.
        per_sample: a choice for every sample instead of one for the batch.
    """

    def __init__(
        self, rules: Sequence[Rule], weights: Annotated[Sequence[NonNegative], Len(1)], per_sample: bool
    ) -> None:
        if len(rules) != len(weights) or not rules or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f"mixer.rule.weights is {list(weights)} for {len(rules)} rules: give each one a weight, at least 0 and "
                "not all 0"
            )
        if other := next((type(rule).__name__ for rule in rules if isinstance(rule, (HiddenRule, LearnedRule))), None):
            raise ValueError(
                f"mixer.rule.rules has {other}, which works inside the student or learns, but only rules of images can "
                "be switched: take it as mixer.rule itself"
            )
        self.rules = list(rules)
        self.per_sample = per_sample
        self.until = torch.tensor(weights, dtype=torch.float64).cumsum(0).div(sum(weights)).tolist()

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As the rule that was chosen for each sample, or for the batch."""
        count = len(x) if self.per_sample else 1
        draw = uniform((count, 1, 1, 1), x, context.draws(self.per_sample))  # [B, 1, 1, 1] or [1, 1, 1, 1]
        mixed, owner, shown = self.of(self.rules[-1], x, source, context)
        for rule, until in zip(reversed(self.rules[:-1]), reversed(self.until[:-1]), strict=True):
            each, chosen = self.of(rule, x, source, context), draw < until
            mixed, owner, shown = (
                torch.where(chosen, new, old) for new, old in zip(each, (mixed, owner, shown), strict=True)
            )
        if context.taken is not None:
            context.taken.append(shown)  # [B, P, h, w]
        return mixed, owner

    @staticmethod
    def of(rule: Rule, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """What one rule makes [B, C, h, w], of whom each pixel is and which pixels of each are shown [B, P, h, w]."""
        taken: list[Tensor] = []
        mixed, owner = rule(x, source, context._replace(taken=taken))
        return mixed, owner, taken[0] if taken else owner


@guarded
class Share:
    """How much of the own image stays, l ~ Beta(alpha, alpha).

    Args:
        alpha: above 0.
        per_sample: one for every sample instead of one for the batch.
        dominant: l becomes max(l, 1 - l).
    """

    def __init__(self, alpha: Positive, per_sample: bool, dominant: bool) -> None:
        self.alpha = alpha
        self.per_sample = per_sample
        self.dominant = dominant

    def __call__(self, like: Tensor, context: Context) -> Tensor:
        """[B] float32 in [0, 1], for B images ``like``."""
        share = beta_share(self.alpha, self.alpha, like, self.per_sample, context)
        return torch.maximum(share, 1 - share) if self.dominant else share


def beta_share(alpha: float, other: float, like: Tensor, per_sample: bool, context: Context) -> Tensor:
    """Draws of Beta(alpha, other), [B] float32 in [0, 1] for B images ``like``: one each, or one for all of them.

    Where both gamma draws of tiny parameters are 0 the own image stays whole.
    """
    shape = (len(like) if per_sample else 1,)
    return beta(alpha, other, shape, like, context.draws(per_sample)).expand(len(like))


def partners(x: Tensor, source: Tensor) -> Tensor:
    """The images of the partners, for a rule that mixes two: [B, C, h, w] and [B, 2] -> [B, C, h, w].

    Raises:
        ValueError: there are other than two sources.
    """
    if source.shape[1] != 2:
        raise ValueError(
            f"mixer.partners gives each sample {source.shape[1] - 1} partners, but mixer.rule mixes two images: choose "
            "partners that give one"
        )
    return x[source[:, 1]]


def pasted(x: Tensor, other: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Another image in the place of one's own, by weights; where they are 0 or 1, each pixel is exactly of one image.

    Args:
        x, other: [B, C, h, w].
        shown: [n, 1, h, w] float32 in [0, 1], how much of the other; n is B, or 1 for the whole batch.

    Returns:
        Mixed images [B, C, h, w], and how much of each pixel is of whom [B, 2, h, w].
    """
    owner = torch.cat([1 - shown, shown], dim=1).expand(len(x), -1, -1, -1)  # [B, 2, h, w]
    return torch.lerp(x, other, shown.to(x.dtype)), owner  # the CPU takes six times as long for torch.where


def owned(own: Tensor) -> Tensor:
    """From how much of each pixel is the sample's own [B, 1, h, w] to how much is of whom [B, 2, h, w]."""
    return torch.cat([own, 1 - own], dim=1)


def box(centre: Tensor, side: Tensor, size: Sequence[int]) -> Tensor:
    """A box of the image's shape for every sample, cut off at the border: [B, 1, h, w] bool.

    Args:
        centre: [2, B] row and column, as shares of the image's sides.
        side: [B], as a share of the image's sides.
        size: h and w.
    """
    rows, columns = (
        inside(middle * pixels - side * pixels / 2, middle * pixels + side * pixels / 2, pixels)
        for middle, pixels in zip(centre, size, strict=True)
    )  # [B, h], [B, w]
    return (rows[:, :, None] & columns[:, None])[:, None]  # [B, 1, h, w]


def inside(first: Tensor, last: Tensor, size: int) -> Tensor:
    """Which pixels lie from round(first) up to but not including round(last): [...] each -> [..., size] bool."""
    pixel = torch.arange(size, device=first.device)  # [size]
    return (pixel >= first.round()[..., None]) & (pixel < last.round()[..., None])


def resampling(first: Tensor, length: Tensor, start: Tensor, span: Tensor, size: int) -> Tensor:
    """Bilinear resampling with antialias of a part of an axis into another part of it, one matrix a sample.

    Args:
        first, length: [B] of the part that is filled, in pixels.
        start, span: [B] of the part that is read; of the same length it is copied exactly.
        size: of the axis.

    Returns:
        [B, size, size]: result = weights @ source; rows outside the filled part are zero.
    """
    # As the crops' ``resize_weights`` up to 4e-5; positions are counted from the part here, and records rest on it.
    position = torch.arange(size, device=first.device, dtype=first.dtype)  # [size]
    ratio = (span / length)[:, None, None]  # [B, 1, 1] pixels read per pixel filled
    centre = start[:, None, None] + (position[:, None] - first[:, None, None] + 0.5) * ratio - 0.5  # [B, size, 1]
    weights = (1 - (position - centre).abs() / ratio.clamp(min=1)).clamp(min=0)  # [B, size, size]
    weights = weights * inside(start, start + span, size)[:, None] * inside(first, first + length, size)[..., None]
    return weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
