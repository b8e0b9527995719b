"""How images become one by masks other than a box, without a network: batched, for any size and number of channels.

    SmoothMix  Lee et al., CVPR Workshops 2020: a soft Gaussian bump of the partner
    GridMix    Baek et al., Pattern Recognition 2021: a grid of holes in a random region, as OpenMixup has it
    FMix       Harris et al., 2020 (arXiv:2002.12047): blobs cut out of low-frequency noise
    TokenMix   Liu et al., ECCV 2022 (arXiv:2207.08409): blocks of tokens
    PatchMix   Shen et al., 2023 (arXiv:2306.12243): patches of several images
    MaskMix    Zhao et al., MixPro, ICLR 2023 (arXiv:2304.12043): square cells in random places

B samples, n masks (B, or 1 for the whole batch), P sources, C channels, h x w pixels.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Natural, NonNegative, Positive, guarded
from ssl_framework.mixers.base import Context, uniform
from ssl_framework.mixers.rules import Share, inside, partners, pasted

BLOCKS = 16  # of TokenMix: two or three reach a mean target, more are drawn for those that overlap


BISECTIONS = 26  # float32 has 24 bits


LEAST_ASPECT = 0.3  # of TokenMix's blocks, as BEiT's (arXiv:2106.08254)


@guarded
class SmoothMix:
    """A round bump of the partner, ``exp(-d^2 / 2 sigma^2)`` at distance d of a centre that is uniform in the image.

    Args:
        smallest, largest: sigma is uniform between them, as a share of the image's shorter side; above 0.
        per_sample: centre and sigma for every sample instead of for the batch.
    """

    def __init__(self, smallest: Positive, largest: Positive, per_sample: bool) -> None:
        if not 0 < smallest <= largest:
            raise ValueError(
                f"mixer.rule.smallest is {smallest} and largest {largest}: it takes 0 < smallest <= largest"
            )
        self.smallest = smallest
        self.largest = largest
        self.per_sample = per_sample

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and how much of each pixel is of whom [B, 2, h, w]."""
        draws = uniform((3, len(x) if self.per_sample else 1), x, context.draws(self.per_sample))  # [3, n]
        sigma = (self.smallest + (self.largest - self.smallest) * draws[0]) * min(x.shape[2:])  # [n] pixels
        rows, columns = (
            (torch.arange(size, device=x.device) + 0.5 - draws[1 + axis, :, None] * size) / sigma[:, None]
            for axis, size in enumerate(x.shape[2:])
        )  # [n, h], [n, w] distances in sigmas
        bump = torch.exp((rows[:, None, :, None].square() + columns[:, None, None].square()) / -2)  # [n, 1, h, w]
        return pasted(x, partners(x, source), bump)


@guarded
class GridMix:
    """A grid of square holes in a random region shows the partner.

    A hole takes the share 1 - l of its cell, l ~ Beta(alpha, alpha).

    Args:
        alpha: of the Beta distribution.
        holes: [least, most] holes along the region's width, whole numbers from 1 on.
        area: [least, most] of the region, as a share of the image, in (0, 1].
        aspect: [least, most] of the region's height over its width; it is cut where it leaves the image.
        per_sample: region and grid for every sample instead of for the batch.
    """

    def __init__(
        self,
        alpha: Positive,
        holes: Annotated[Sequence[Count], Len(2, 2)],
        area: Annotated[Sequence[NonNegative], Len(2, 2)],
        aspect: Annotated[Sequence[Positive], Len(2, 2)],
        per_sample: bool,
    ) -> None:
        for name, (least, most), lowest_allowed, highest in (
            ("holes", holes, 1, math.inf),
            ("area", area, 1e-6, 1),
            ("aspect", aspect, 1e-6, math.inf),
        ):
            if not lowest_allowed <= least <= most <= highest:
                raise ValueError(
                    f"mixer.rule.{name} is {[least, most]}: it takes the least and the most, at least {lowest_allowed}"
                    + (f" and at most {highest}" if highest < math.inf else "")
                )
        self.share = Share(alpha, per_sample, dominant=False)
        self.holes, self.area, self.aspect = holes, area, aspect
        self.per_sample = per_sample

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``SmoothMix``; every pixel is of one image."""
        count, (h, w) = len(x) if self.per_sample else 1, x.shape[2:]
        share = self.share(x, context)[:count]  # [n]
        draws = uniform((5, count), x, context.draws(self.per_sample))  # [5, n]
        holes = (self.holes[0] + draws[0] * (self.holes[1] - self.holes[0] + 1)).floor().clamp(max=self.holes[1])
        area = (self.area[0] + draws[1] * (self.area[1] - self.area[0])) * h * w  # [n] pixels
        aspect = self.aspect[0] + draws[2] * (self.aspect[1] - self.aspect[0])  # [n]
        width = (area / aspect).sqrt()  # [n]
        cell = (width.round().clamp(1, w) / holes).ceil()  # [n] pixels of its side
        hole = (cell * (1 - share).sqrt()).round()  # [n]
        rows, columns = (
            inside(first, first + side, size)
            & ((torch.arange(size, device=x.device) - first[:, None]) % cell[:, None] < hole[:, None])
            for first, side, size in (
                placed(draws[3], width * aspect, h),
                placed(draws[4], width, w),
            )
        )  # [n, h], [n, w]
        shown = (rows[:, :, None] & columns[:, None])[:, None]  # [n, 1, h, w]
        return pasted(x, partners(x, source), shown.float())


@guarded
class FMix:
    """The partner where low-frequency noise is low, on the share 1 - l of the pixels, l ~ Beta(alpha, alpha).

    Args:
        alpha: of the Beta distribution.
        decay: the noise's amplitude at frequency f is proportional to 1 / f^decay (the paper's delta), at least 0.
        per_sample: a mask for every sample instead of one for the batch.
    """

    def __init__(self, alpha: Positive, decay: NonNegative, per_sample: bool) -> None:
        self.share = Share(alpha, per_sample, dominant=False)
        self.decay = decay
        self.per_sample = per_sample

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``GridMix``; the share is l up to half a pixel."""
        count, (h, w) = len(x) if self.per_sample else 1, x.shape[2:]
        share = self.share(x, context)[:count]  # [n]
        noise = low_frequency(count, h, w, self.decay, x, context.draws(self.per_sample))  # [n, h, w]
        shown = lowest(noise.flatten(1), ((1 - share) * (h * w)).round())  # [n, h * w]
        return pasted(x, partners(x, source), shown.view(count, 1, h, w))


@guarded
class TokenMix:
    """Blocks of tokens of the partner, one after the other until there are enough of them, l ~ Beta(alpha, alpha).

    Args:
        alpha: of the Beta distribution.
        token: pixels of a token's side; it must divide the sides of the image.
        least: the partner shows so many tokens beside the share 1 - l of all, as far as there are so many.
        per_sample: blocks for every sample instead of for the batch.
    """

    def __init__(self, alpha: Positive, token: Count, least: Natural, per_sample: bool) -> None:
        self.share = Share(alpha, per_sample, dominant=False)
        self.token = token
        self.least = least
        self.per_sample = per_sample

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``GridMix``.

        Raises:
            ValueError: the token does not divide the image.
        """
        count, (h, w) = len(x) if self.per_sample else 1, cells(x, self.token, "token")
        share = self.share(x, context)[:count]  # [n]
        wanted = (((1 - share) * (h * w)).floor() + self.least).clamp(max=h * w)  # [n] tokens
        draws = uniform((4, count, BLOCKS), x, context.draws(self.per_sample))  # [4, n, BLOCKS]
        area = 1 + draws[0] * (wanted[:, None] - 1).clamp(min=0)  # [n, BLOCKS] tokens
        aspect = torch.exp((1 - 2 * draws[1]) * math.log(LEAST_ASPECT))  # [n, BLOCKS], in (0.3, 1 / 0.3)
        rows, columns = (
            inside(first, first + side, size)
            for first, side, size in (
                placed(draws[2], (area * aspect).sqrt(), h),
                placed(draws[3], (area / aspect).sqrt(), w),
            )
        )  # [n, BLOCKS, h], [n, BLOCKS, w]
        covered = rows[:, :, :, None] & columns[:, :, None]  # [n, BLOCKS, h, w]
        turn = torch.arange(float(BLOCKS), device=x.device)[:, None, None]  # [BLOCKS, 1, 1]
        earliest = torch.where(covered, turn, BLOCKS).amin(dim=1).flatten(1)  # [n, h * w]
        # Block after block, row after row: the last block is cut where the number is reached.
        order = earliest * (h * w) + torch.arange(h * w, device=x.device)  # [n, h * w]
        shown = lowest(order, wanted).view(count, 1, h, w)
        return pasted(x, partners(x, source), enlarged(shown, self.token))


@guarded
class PatchMix:
    """Every patch is of one of P images; each image gives as many patches, up to one, in random places.

    P is the number of sources: one more than the partners that ``mixer.partners`` gives. The paper takes the images
    that follow in the batch (``Following``) and the same places for the whole batch. Where the number of patches is no
    multiple of P, its code leaves the rest unmixed; here some images give a patch more than others.

    Args:
        patch: pixels of a patch's side; it must divide the sides of the image.
        per_sample: places for every sample instead of for the batch.
    """

    def __init__(self, patch: Count, per_sample: bool) -> None:
        self.patch = patch
        self.per_sample = per_sample

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and of whom each pixel is [B, P, h, w].

        Raises:
            ValueError: the patch does not divide the image, or there are fewer patches than sources.
        """
        count, (h, w), num = len(x) if self.per_sample else 1, cells(x, self.patch, "patch"), source.shape[1]
        if h * w < num:
            raise ValueError(
                f"mixer.partners gives {num - 1} partners, but mixer.rule.patch={self.patch} divides an image into "
                f"{h * w} patches only: choose a smaller patch or fewer partners"
            )
        place = uniform((count, h * w), x, context.draws(self.per_sample)).argsort(dim=1)  # [n, h * w], a permutation
        group = enlarged((place * num // (h * w)).view(count, 1, h, w), self.patch)  # [n, 1, h, w] in 0 .. P - 1
        owner = (group == torch.arange(num, device=x.device)[:, None, None]).float()  # [n, P, h, w]
        mixed = x
        for p in range(1, num):
            mixed = torch.lerp(mixed, x[source[:, p]], owner[:, p, None].to(x.dtype))
        return mixed, owner.expand(len(x), -1, -1, -1)


@guarded
class MaskMix:
    """Square cells of both images in random places, drawn for every sample.

    The share l of all cells, rounded up, is of the own image, l ~ Beta(alpha, alpha). Cells at the right and the lower
    border are cut where they leave the image.

    Args:
        alpha: of the Beta distribution.
        cell: pixels of a cell's side; with a ViT a multiple of its patch.
        per_sample: a share for every sample instead of one for the batch.
    """

    def __init__(self, alpha: Positive, cell: Count, per_sample: bool) -> None:
        self.share = Share(alpha, per_sample, dominant=False)
        self.cell = cell

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``GridMix``."""
        h, w = (-(-size // self.cell) for size in x.shape[2:])
        place = uniform((len(x), h * w), x, context.generator).argsort(dim=1).argsort(dim=1)  # [B, h * w], 0 is first
        count = (self.share(x, context) * (h * w)).ceil()  # [B]
        shown = (place >= count[:, None]).float().view(-1, 1, h, w)  # [B, 1, h, w]
        whole = enlarged(shown, self.cell)[:, :, : x.shape[2], : x.shape[3]]  # [B, 1, H, W_px]
        return pasted(x, partners(x, source), whole)


def placed(draw: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, int]:
    """A part of an axis, in whole pixels, at a uniform place inside.

    Args:
        draw: [...] in [0, 1), where.
        length: [...] how long the part would be; it becomes a whole number from 1 to size.
        size: of the axis.

    Returns:
        First pixel and length, both [...], and size.
    """
    side = length.round().clamp(1, size)
    return torch.minimum((draw * (size - side + 1)).floor(), size - side), side, size


def low_frequency(count: int, h: int, w: int, decay: float, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gaussian noise [count, h, w] whose amplitude falls with the frequency f as 1 / f^decay; drawn as ``uniform``."""
    where = like.device if generator is None else generator.device
    draws = torch.randn((count, h, w // 2 + 1, 2), generator=generator, device=where).to(like.device)
    rows = torch.fft.fftfreq(h, device=like.device)[:, None]  # [h, 1] cycles a pixel
    columns = torch.fft.rfftfreq(w, device=like.device)  # [w // 2 + 1]
    frequency = torch.hypot(rows, columns).clamp(min=1 / max(h, w))  # [h, w // 2 + 1]; the mean has none
    return torch.fft.irfft2(torch.view_as_complex(draws) * frequency**-decay, s=(h, w))


def lowest(values: Tensor, count: Tensor) -> Tensor:
    """Which are the ``count`` [n] lowest of N different values: [n, N] -> [n, N] float32, 1 for them, 0 for the others.

    The threshold is found by bisection down to what float32 can tell apart; sorting takes the CPU six times as long.
    """
    least, most = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)  # [n, 1]
    span = (most - least).clamp(min=1e-3)
    low, high = least - span, most + span
    surplus = values.shape[1] - 2 * count[:, None]  # [n, 1] how many more values lie above the threshold than below
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = torch.sign(values - middle).sum(dim=1, keepdim=True) <= surplus
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return (values < high).float()


def cells(x: Tensor, side: int, name: str) -> tuple[int, int]:
    """How many cells of so many pixels the images have down and across; ValueError if that is no whole number."""
    h, w = x.shape[2:]
    if h % side or w % side:
        raise ValueError(
            f"mixer.rule.{name} is {side}, but a view has {h} x {w} pixels: choose a number that divides both"
        )
    return h // side, w // side


def enlarged(values: Tensor, side: int) -> Tensor:
    """Every cell as so many pixels: [n, 1, h, w] -> [n, 1, h * side, w * side]."""
    return values.repeat_interleave(side, dim=3).repeat_interleave(side, dim=2)
