"""Random views of a batch, made on the device it lives on.

The order of operations is that of SimCLR (arXiv 2002.05709), MoCo v2 (2003.04297) and BYOL (2006.07733): random
resized crop and flip, colour jitter, grayscale, blur, solarize, normalise. Every sample has its own random parameters
with the distributions of torchvision's transforms, the order of the four jitter operations included.
All parameters of a group of views are drawn for the whole batch before any pixel is touched.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn

from ssl_framework.arguments import Channels, Fraction, Pixels, PositiveFraction, guarded
from ssl_framework.types import Batch, Geometry, Samples
from ssl_framework.views import image_ops
from ssl_framework.views.base import Telling, ViewMaker
from ssl_framework.views.drawing import Draws, as_geometry, draw, parameters
from ssl_framework.views.making import Graph, around, make_view
from ssl_framework.views.reading import Group, is_number, read_group, read_numbers

CHUNK_PIXELS = 1024 * 32 * 32  # pixels (of a source or a view) worked on at once on the CPU: 12 MiB of RGB floats


CHUNK_PIXELS_GPU = 16 * CHUNK_PIXELS  # kernel launches cost more there, and memory is larger


@guarded
class Views(nn.Module):
    """Makes V views of every image of a batch. Keep it on the device of the images.

    Beside the views themselves it needs for a while at most five times the memory of those made at once: of a small
    batch all views of a group, of a large one ``CHUNK_PIXELS``, about 60 MiB (on a GPU 1 GiB).

    Args:
        groups: one mapping a group of like views, in the order of the views. Keys, all optional: ``count`` (views,
            default 1), ``size`` (pixels, default image_size), ``scale`` [lo, hi] (area share of the random crop;
            without it the central square is taken), ``ratio`` [lo, hi] (width / height, default 3/4, 4/3), ``flip``
            (probability), ``jitter`` [brightness, contrast, saturation, hue] (strengths) with ``jitter_p``
            (probability), ``band_jitter`` (strength s: every channel times a factor of its own between 1 - s and
            1 + s), ``gray``, ``blur``, ``solarize`` (probabilities), ``blur_sigma`` [lo, hi] (pixels, default
            0.1, 2.0), ``ramp`` [share, until, step] (the views' size begins at this share of ``size`` and is whole once
            a share ``until`` of the run is done, rising in multiples of ``step`` pixels). What is missing is off.
        image_size: pixels, height and width of a view unless its group says otherwise.
        channels: C of the images. With one channel saturation, hue and gray change nothing; with two or more than
            three they are refused.
        mean, std: one number a channel, or one for all of many bands, images in 0..1, for normalisation.
        blur: False switches all blur off, for data sets where it makes no sense.
        min_crop: the least area share of a random crop is raised to this, for data sets whose object is small in the
            image and would be cut away.
        hue: replaces the hue strength of every group that jitters, for data sets whose colours mean nothing.
        geometry: True reports box and flip of every view, as it does where the objective reads them.
        noise: changes all views together, as pixels in [0, 1] (see ``mixers.noise``), and may tell of it (see
            ``pretext``); ``None``: no noise.

    Raises:
        ValueError: for an entry that is unknown, out of range or without effect.
    """

    mean: Tensor  # [C, 1, 1]
    std: Tensor  # [C, 1, 1]

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        image_size: Pixels,
        channels: Channels,
        mean: Annotated[Sequence[Fraction], Len(1)],
        std: Annotated[Sequence[PositiveFraction], Len(1)],
        blur: bool = True,
        min_crop: Fraction = 0.0,
        hue: Annotated[float, Interval(ge=0, le=0.5)] | None = None,
        geometry: bool = False,
        noise: Callable[[Batch, torch.Generator | None], Batch] | None = None,
    ):
        super().__init__()
        self.image_size = image_size
        self.channels = channels
        mean, std = each_channel(mean, channels), each_channel(std, channels)
        each = "one number per channel in"
        mean = read_numbers(mean, "views.mean", self.channels, f"{each} [0, 1]{grey('mean', mean)}", 0.0, 1.0)
        std = read_numbers(std, "views.std", self.channels, f"{each} (0, 1]{grey('std', std)}", 1e-6, 1.0)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        if isinstance(groups, str | Mapping) or not isinstance(groups, Sequence) or len(groups) == 0:
            raise ValueError(
                f"views.groups is {groups!r}: give a list with at least one group, such as [{{count: 2}}]."
            )
        self.groups = [
            read_group(group, f"views.groups[{number}]", self.image_size, self.channels)
            for number, group in enumerate(groups)
        ]
        for number, group in enumerate(self.groups):
            if group.scale is not None:
                group = group._replace(scale=(max(group.scale[0], min_crop), max(group.scale[1], min_crop)))
            if hue is not None and group.jitter_p > 0 and self.channels == 3:
                group = group._replace(jitter=(*group.jitter[:3], hue))
            self.groups[number] = group
        if not blur:
            self.groups = [group._replace(blur=0.0) for group in self.groups]
        for size in {size for group in self.groups if group.blur > 0 for size in group.sizes()}:
            taps = image_ops.reflected_taps(size, image_ops.blur_kernel_size(size))  # [kernel_size, size * size]
            self.register_buffer(f"taps_{size}", taps, persistent=False)
        self.num_views = sum(group.num_views for group in self.groups)
        self.modality = ("image",) * self.num_views
        self.crops = self.groups
        self.raw_name = "raw_pixels"
        self.geometry = geometry
        self.noise = noise
        self.tells = frozenset({"geometry"}) | (noise.tells if isinstance(noise, Telling) else frozenset())
        self.grows = any(group.ramp is not None for group in self.groups)
        self.progress = 0.0
        self.graph: Graph | None = None  # a compiled run has one

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """Uint8 images [B, C, H, W] -> V x [B, C, size, size] float32, normalised.

        Instead of images the loader may give V crops [B, C, size, size]: cut and resized where the images were decoded,
        they are only mirrored and changed in colour here, and their geometry is the crop's.
        The result is a function of the generator's state alone; it does not depend on how the batch is chunked.
        ``generator=None`` means torch's default generator of the images' device. A generator of another device is
        allowed: a CPU generator draws the same parameters whatever the device of the images.
        """
        views: list[Tensor] = []
        geometry: list[Geometry] = []
        for group in self.groups:
            # All views of a group are one batch: half the calls, which is most of the time for small images.
            group = group.at(self.progress)
            own = slice(len(views), len(views) + group.num_views)
            if isinstance(samples.inputs, list):
                images, group = torch.cat(samples.inputs[own]), group._replace(scale=None)  # [G * B, C, size, size]
                self._checked(images)
            else:
                images = self._checked(samples.inputs)  # [B, C, H, W]
            rows = group.num_views * len(samples.index)
            with single_precision(images.device.type):
                draws = draw(group, rows, self.channels, images.device, generator)
                joint, box, flip = self._make(images, group, draws, rows)  # [G * B, C, size, size]
            views += joint.to(self.mean.dtype).chunk(group.num_views)  # float64 in a run of 64-true
            if self.geometry:
                corners, flips = as_geometry(box, flip, *images.shape[-2:])
                boxes = corners.chunk(group.num_views) if samples.box is None else samples.box[own]  # G x [B, 4]
                geometry += map(Geometry, boxes, flips.chunk(group.num_views))
        batch = Batch(views, samples.index, samples.label, geometry if self.geometry else None)
        return batch if self.noise is None else self._noisy(batch, self.noise, generator)

    def of(self, images: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Views of plain images, in a loop of one's own: uint8 [B, C, H, W] -> V x [B, C, size, size] float32.

        Raises:
            ValueError: they are no such images.
        """
        if not isinstance(images, Tensor):
            raise ValueError(f"views are made of a tensor uint8 [B, C, H, W], but this is a {type(images).__name__}")
        self._checked(images)
        index = torch.arange(len(images), device=images.device)  # [B]
        return self(Samples(images, index), generator).views

    def _noisy(
        self,
        batch: Batch,
        noise: Callable[[Batch, torch.Generator | None], Batch],
        generator: torch.Generator | None,
    ) -> Batch:
        with torch.autocast(self.mean.device.type, enabled=False):  # pixels keep their precision
            pixels = [view.mul(self.std).add_(self.mean).clamp_(0, 1) for view in batch.views]  # V x [B, C, size, size]
            noisy = noise(batch._replace(views=pixels), generator)
            return noisy._replace(views=[(view - self.mean) / self.std for view in noisy.views])

    @torch.no_grad()
    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        """The evaluation transform, without randomness: uint8 [B, C, H, W] -> [B, C', image_size, image_size] float32.

        Images of another size are resized (bilinear, antialias) until the short side fits, then cut to the centre.
        Those with another number of channels are turned grey, or grey ones repeated.
        """
        images, size = self._checked(image_ops.with_channels(raw, self.channels)), self.image_size
        height, width = images.shape[-2:]
        result = images.new_empty(len(images), self.channels, size, size, dtype=torch.float32)  # [B, C, size, size]
        for first, last in chunks(len(images), max(height * width, size * size), images.device):
            part = images[first:last].float().div_(255.0)  # [n, C, H, W]
            if (height, width) != (size, size):
                part = resize_short_side(part, size)  # [n, C, size, size]
            self._normalise(part, result[first:last])
        return result.to(self.mean.dtype)

    def raw(self, rows: Tensor) -> Tensor:
        """Pixels: uint8 [B, C, H, W] -> [B, C * H * W] float32 in [0, 1]."""
        return rows.flatten(1).cpu().float().div_(255)

    def example(self, view: int) -> tuple[int, ...]:
        """C, size, size."""
        size = [group.size for group in self.groups for _ in range(group.num_views)][view]
        return self.channels, size, size

    def picture(self, view: Tensor, modality: str | None = None) -> Tensor:
        """[..., C, h, w] normalised -> the pixels, in [0, 1], on the CPU."""
        return (view * self.std + self.mean).clamp(0, 1).cpu()

    def describe(self) -> str:
        """What becomes of an image before the encoder."""
        mean, std = (", ".join(f"{x:.4g}" for x in part.flatten().tolist()) for part in (self.mean, self.std))
        grey = "grey repeated to RGB" if self.channels == 3 else "RGB to grey by luma"
        return (
            f"short side to {self.image_size} px where it differs (bilinear, antialias), centre cut; to "
            f"{self.channels} channel(s) where they differ ({grey}); minus mean [{mean}], divided by std "
            f"[{std}] of values in 0 to 1"
        )

    def compile_parts(self) -> None:
        """All that follows from the random numbers, as one graph a group; where no compiler is, they stay as they are.

        The numbers are drawn before it, so that the views are those of the same seed, but for rounding.
        """
        self.graph = Graph()

    def _make(self, images: Tensor, group: Group, draws: Draws, rows: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Views of one group, chunk by chunk: row r of the draws belongs to image r modulo the number of images.

        Args:
            images: [B, C, H, W] uint8.
            group: the group.
            draws: of R views.
            rows: R.

        Returns:
            Views [R, C, size, size] float32, normalised; boxes [R, 4] int64 and flips [R] bool, as ``Parameters``.
        """
        size, (height, width) = group.size, images.shape[-2:]
        whole = group.scale is None and (height, width) == (size, size)
        taps = self.get_buffer(f"taps_{size}").float() if group.blur > 0 else None  # [kernel_size, size * size]
        each = max(images[0, 0].numel(), size * size)  # pixels
        if self.graph is not None:
            parts = equal_chunks(rows, each, images.device)
            made = self.graph(images, draws, rows, parts, group, taps, whole, self.mean, self.std)
            if made is not None:
                return made
            self.graph = None
        drawn = parameters(draws, group, rows, height, width, images.device)
        result = torch.empty(rows, self.channels, size, size, device=images.device)  # [R, C, size, size]
        for first, last in chunks(rows, each, images.device):
            part = around(images, first, last)  # [n, C, H, W]
            part = make_view(part, drawn.rows(first, last), size, taps, hue=group.jitter[3] > 0, whole=whole)
            self._normalise(part, result[first:last])
        return result, drawn.box, drawn.flip

    def _normalise(self, images: Tensor, out: Tensor) -> None:
        torch.sub(images, self.mean, out=out).div_(self.std)

    def _checked(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"Views take uint8 images [B, C, H, W], but the loader gave {images.dtype} {list(images.shape)}: "
                "leave scaling and normalisation to views.mean and views.std."
            )
        if images.shape[1] != self.channels:
            raise ValueError(
                f"views.channels is {self.channels}, but the images have {images.shape[1]}: set it to the data's."
            )
        return images


def picture_views(views: ViewMaker, what: str) -> Views:
    """The view maker of pictures, for what is peculiar to them.

    Args:
        views: of a run.
        what: needs pictures, as the config names it.

    Raises:
        ValueError: the samples are no pictures.
    """
    if not isinstance(views, Views):
        raise ValueError(
            f"{what} needs pictures, but the samples are of modality {views.modality[0]}: choose another, or data "
            "with pictures"
        )
    return views


def each_channel(values: Sequence[float], channels: int) -> Sequence[float]:
    """One number a channel; of images that are neither grey nor RGB a single one is that of all bands."""
    single = isinstance(values, Sequence) and len(values) == 1 and channels != 3
    return [*values] * channels if single else values


def grey(name: str, values: Sequence[float]) -> str:
    """What to set where numbers of three colours were left for grey images."""
    colours = isinstance(values, Sequence) and len(values) == 3 and all(map(is_number, values))
    return f", of grey images data.{name}=[{sum(values) / 3:.3f}]" if colours else ""


@contextlib.contextmanager
def single_precision(device: str) -> Iterator[None]:
    """float32 whatever precision the run has: half precision would round the pixel positions, and a run of 64-true has
    the views of one of 32-true.

    Args:
        device: type of the images' device.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


def resize_short_side(images: Tensor, size: int) -> Tensor:
    """Resize until the short side has ``size`` pixels, then cut the centre: [B, C, H, W] -> [B, C, size, size]."""
    height, width = images.shape[-2:]
    short = min(height, width)
    height, width = int(size * height / short), int(size * width / short)
    images = nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)  # [B, C, h, w]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return images[:, :, top : top + size, left : left + size]  # [B, C, size, size]


def chunks(batch: int, pixels: int, device: torch.device) -> list[tuple[int, int]]:
    """(first, last) of the chunks of a batch whose images have so many pixels."""
    length = max(1, (CHUNK_PIXELS if device.type == "cpu" else CHUNK_PIXELS_GPU) // pixels)
    return [(first, min(first + length, batch)) for first in range(0, batch, length)]


def equal_chunks(batch: int, pixels: int, device: torch.device) -> list[tuple[int, int]]:
    """As ``chunks``, all of one length where up to twice as many allow it: each length is compiled for itself."""
    least = len(chunks(batch, pixels, device))
    count = next((n for n in range(least, 2 * least + 1) if batch % n == 0), least)
    length = -(-batch // count)
    return [(first, min(first + length, batch)) for first in range(0, batch, length)]
