"""Pixel operations on a whole batch, every sample with its own parameters.

All images are float32 in [0, 1], shape [B, C, h, w]. Every function is pure in the random sense (parameters are
arguments) and equals the operation of the same name in ``torchvision.transforms.v2.functional`` on float images.
No function loops over samples, and off the CPU none waits for the device. On the CPU only the samples that an
operation touches are computed; elsewhere all are, and the untouched ones are put back, since finding them would
make the host wait.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the digits torchvision uses


SOLARIZE_THRESHOLD = 128 / 255  # BYOL, arXiv 2006.07733, appendix B


BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # columns of the jitter factors, entries of the jitter order


def resize_weights(start: Tensor, length: Tensor, source: int, target: int, mirror: Tensor | None = None) -> Tensor:
    """Bilinear resampling with antialias along one axis, as one matrix per sample.

    The triangle filter widens when shrinking, as in PIL; pixels outside the crop get weight 0, rows sum to 1.

    Args:
        start, length: [B] first pixel and number of pixels of the crop.
        source, target: pixels of the whole axis and of the result.
        mirror: [B] bool, samples whose result is reversed.

    Returns:
        [B, target, source] float32: result = weights @ source.
    """
    device = start.device
    start, length = start.float()[:, None], length.float()[:, None]  # [B, 1]
    scale = length / target
    support = scale.clamp_min(1.0)
    position = torch.arange(target, device=device) + 0.5  # [target]
    if mirror is not None:
        position = torch.where(mirror[:, None], target - position, position)  # [B, target]
    centre = (start + scale * position) / support  # [B, target]
    pixel = torch.arange(source, device=device) + 0.5  # [source]
    inside = (pixel > start) & (pixel < start + length)  # [B, source]
    pixel = torch.where(inside, pixel / support, math.inf)  # [B, source], infinitely far: weight 0
    distance = pixel[:, None, :] - centre[:, :, None]  # [B, target, source]
    weights = distance.abs_().clamp_max_(1.0).neg_().add_(1.0)
    return weights.div_(weights.sum(-1, keepdim=True))


def resized_crop(images: Tensor, box: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Cut one box from every image, resize it with antialias, mirror some.

    Args:
        images: [B, C, H, W] uint8 or float in 0..255.
        box: [B, 4] top, left, height, width in pixels.
        size: height and width of the result in pixels.
        flip: [B] bool, samples that are mirrored left-right after the crop.

    Returns:
        [B, C, size, size] float32 in [0, 1].
    """
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = box.unbind(1)
    rows = resize_weights(top, box_height, height, size).div_(255.0)  # [B, size, H]
    columns = resize_weights(left, box_width, width, size, flip)  # [B, size, W]
    # With the rows outermost both contractions are plain batched products, without a copy in between.
    floats = images.new_empty(batch, height, channels, width, dtype=torch.float32)  # [B, H, C, W]
    floats.copy_(images.transpose(1, 2))
    narrow = torch.bmm(floats.view(batch, height * channels, width), columns.mT)  # [B, H * C, size]
    small = torch.bmm(rows, narrow.view(batch, height, channels * size))  # [B, size, C * size]
    return small.view(batch, size, channels, size).transpose(1, 2)  # [B, C, size, size], rows outermost in memory


def grayscale(images: Tensor) -> Tensor:
    """One gray plane: ITU-R 601-2 luma of three channels, the mean of any other number. [B, C, h, w] -> [B, 1, h, w]"""
    if images.shape[1] != len(LUMA):
        return images.mean(1, keepdim=True)  # [B, 1, h, w]
    red, green, blue = images.split(1, dim=1)  # 3 x [B, 1, h, w]
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def with_channels(images: Tensor, channels: int) -> Tensor:
    """The images with so many channels: grey is repeated, RGB becomes its luma (ITU-R 601-2, rounded).

    Args:
        images: [B, C, h, w] uint8, returned as they are if C is ``channels``.
        channels: 1 or 3; C is the same or the other.

    Returns:
        [B, channels, h, w] uint8.
    """
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)  # [B, channels, h, w]
    gray = grayscale(images.float())  # [B, 1, h, w]
    return gray.round_().to(torch.uint8)


def blend_(images: Tensor, keep: Tensor, gray: Tensor, mean: Tensor) -> Tensor:
    """In place: clamp(keep * image + gray * its gray plane + mean * the mean of its gray plane).

    With factor f, (keep, gray, mean) is (f, 0, 0) for brightness, (f, 0, 1 - f) for contrast, (f, 1 - f, 0) for
    saturation and (1, 0, 0) for nothing at all, exactly. So one pass does a different operation to every sample.

    Args:
        images: [B, C, h, w].
        keep, gray, mean: [B, 1, 1, 1].
    """
    plane = grayscale(images)  # [B, 1, h, w]
    average = plane.mean((1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
    return images.mul_(keep).add_(plane.mul_(gray).add_(average.mul_(mean))).clamp_(0.0, 1.0)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue, keeping the largest and the smallest of the three channels (HSV value and chroma).

    Equals RGB -> HSV -> RGB without ever dividing the circle into six sectors: with chroma d = max - min, the hue in
    sixths of a turn is h = +-(3 (max - r) + |g - b| (2 (r - min) / d - 1)) / d in [-3, 3], signed as g - b, and a
    channel at angle a is min + d clamp(||h - a| - 3| - 1, 0, 1). Everything is kept multiplied by d.

    Args:
        images: [B, 3, h, w].
        shift: [B] in turns, [-0.5, 0.5].
    """
    red, green, blue = images.split(1, dim=1)  # 3 x [B, 1, h, w]
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = largest - smallest
    difference = green - blue
    hue = (red - smallest).mul_(2.0).div_(chroma.clamp_min(1e-12)).sub_(1.0).mul_(difference.abs())
    hue = hue.add_(largest - red, alpha=3.0).copysign_(difference)  # times chroma
    angle = torch.arange(3, device=images.device) * 2.0  # [3]: red, green, blue in sixths of a turn
    offset = torch.remainder(shift[:, None] * 6.0 - angle + 3.0, 6.0) - 3.0  # [B, 3] in [-3, 3]
    turned = torch.addcmul(hue, offset[:, :, None, None], chroma)  # [B, 3, h, w]
    turned.abs_().sub_(chroma, alpha=3.0).abs_().add_(smallest - chroma)
    return torch.clamp(turned, smallest, largest, out=turned)


def color_jitter_(images: Tensor, factors: Tensor, order: Tensor, active: Tensor, hue: bool = True) -> Tensor:
    """In place: brightness, contrast, saturation and hue, in every sample's own order.

    The three blends are one operation with different weights, so a sample's order only decides the weights and how
    many blends come before the hue: up to three passes, the hue, up to three more, each over the samples that need it.

    Args:
        images: [B, C, h, w].
        factors: [B, 4] brightness, contrast, saturation (1 = unchanged), hue shift in turns (0 = unchanged).
        order: [B, 4] int64, a permutation of 0..3 (columns of ``factors``), first operation first.
        active: [B] bool, samples to change.
        hue: False leaves the hue out, whatever its factors.
    """
    position = (order == HUE).int().argmax(1)  # [B]
    column = torch.arange(3, device=images.device)  # [3]
    blends = order.gather(1, column + (position[:, None] <= column))  # [B, 3] the order without the hue
    before = position if hue else torch.full_like(position, 3)  # [B] blends before the hue
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return _jitter_(images, factors, blends, before, active, [slice(0, len(images))] * 7, hue)
    # Sorted by the number of blends before the hue, most first and the inactive last, every pass is one slice.
    rank = torch.where(active, before, -1)
    sample = rank.argsort(descending=True)  # [B]
    three, two, one, none = torch.bincount(rank + 1, minlength=5).flip(0).cumsum(0).tolist()[:4]  # samples up to there
    spans = [slice(0, one), slice(0, two), slice(0, three), slice(0, none)]
    spans += [slice(one, none), slice(two, none), slice(three, none)]
    sources = (images, factors, blends, before, active)
    chosen, factors, blends, before, active = (source.index_select(0, sample) for source in sources)  # each [B, ...]
    result = _jitter_(chosen, factors, blends, before, active, spans, hue)
    return torch.index_select(result, 0, sample.argsort(), out=images)


def _jitter_(
    images: Tensor,
    factors: Tensor,
    blends: Tensor,
    before: Tensor,
    active: Tensor,
    spans: list[slice],
    hue: bool,
) -> Tensor:
    """In place: three blends, the hue, the same three blends; each blend acts on a sample on one side of the hue only.

    Args:
        images: [B, C, h, w].
        factors: [B, 4] as in ``color_jitter_``.
        blends: [B, 3] int64, brightness, contrast and saturation in the order of each sample.
        before: [B] how many of them come before the hue.
        active: [B] bool, samples to change.
        spans: the samples of each of the seven passes; a wider span costs time and changes nothing.
        hue: whether to turn the hue.
    """
    early = before[:, None] > torch.arange(3, device=images.device)  # [B, 3]
    applies = torch.cat((early, ~early), 1) & active[:, None]  # [B, 6]
    factor = torch.where(applies, factors.gather(1, blends).repeat(1, 2), 1.0)  # [B, 6]
    rest, blends = 1.0 - factor, blends.repeat(1, 2)  # [B, 6]
    weights = torch.stack((factor, rest * (blends == SATURATION), rest * (blends == CONTRAST)))  # [3, B, 6]
    passes = weights.permute(2, 0, 1)[..., None, None, None].unbind(0)  # 6 x [3, B, 1, 1, 1]
    for span, weight in zip(spans[:3], passes[:3], strict=True):
        if span.stop > span.start:
            blend_(images[span], *weight[:, span])
    if hue:
        part = images[spans[3]]  # [n, C, h, w]
        turned = adjust_hue(part, factors[spans[3], HUE])  # [n, C, h, w]
        part.copy_(torch.where(active[spans[3], None, None, None], turned, part))
        for span, weight in zip(spans[4:], passes[3:], strict=True):
            if span.stop > span.start:
                blend_(images[span], *weight[:, span])
    return images


def blur_kernel_size(size: int) -> int:
    """A tenth of the image, odd, at least 3 (SimCLR, arXiv 2002.05709, appendix A; 23 at 224 px)."""
    return max(3, int(0.1 * size) | 1)


def reflected_taps(size: int, kernel_size: int) -> Tensor:
    """Where each tap of a filter lands when the border is reflected: [kernel_size, size * size] float32.

    ``(kernel @ taps).view(size, size)`` is the matrix that filters an axis of ``size`` pixels.
    """
    radius = kernel_size // 2
    source = torch.arange(size)[None, :] + torch.arange(-radius, radius + 1)[:, None]  # [kernel_size, size]
    source = source.abs()
    source = (size - 1) - (size - 1 - source).abs()
    return torch.nn.functional.one_hot(source, size).float().flatten(1)  # [kernel_size, size * size]


def gaussian_blur(images: Tensor, sigma: Tensor, taps: Tensor) -> Tensor:
    """Gaussian blur with reflected borders, two matrix products per sample.

    Args:
        images: [B, C, size, size].
        sigma: [B] in pixels.
        taps: [kernel_size, size * size] from ``reflected_taps``.
    """
    batch, channels, height, size = images.shape
    radius = len(taps) // 2
    distance = torch.arange(-radius, radius + 1, device=images.device)  # [kernel_size]
    kernel = torch.softmax(-0.5 * (distance / sigma[:, None]).square(), 1)  # [B, kernel_size]
    matrix = (kernel @ taps).view(batch, size, size)  # [B, size, size]
    rows = torch.bmm(images.reshape(batch, channels * height, size), matrix.mT)  # [B, C * size, size]
    return torch.matmul(matrix[:, None], rows.view(batch, channels, height, size))  # [B, C, size, size]


def solarize(images: Tensor) -> Tensor:
    """Invert the pixels at or above 128 of 255."""
    return torch.where(images >= SOLARIZE_THRESHOLD, 1.0 - images, images)


def on_selected_(images: Tensor, mask: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """In place: ``operation(images, *parameters)`` for the samples where ``mask`` holds, the others as they are.

    Args:
        images: [B, C, h, w].
        mask: [B] bool.
        operation: acts on each sample alone; its result may have one channel, which is then repeated.
        parameters: [B, ...] tensors that are handed to the operation.
    """
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return images.copy_(torch.where(mask[:, None, None, None], operation(images, *parameters), images))
    sample = mask.nonzero().squeeze(1)  # [n]
    chosen = images.index_select(0, sample)  # [n, C, h, w]
    changed = operation(chosen, *(parameter.index_select(0, sample) for parameter in parameters))
    return images.index_copy_(0, sample, changed.expand_as(chosen))
