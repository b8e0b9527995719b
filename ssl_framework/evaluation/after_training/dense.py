"""What the backbone's last map knows of where things are: linear segmentation, and which places of two views are alike.

N images of H x W pixels, D channels of the map, h x w its positions, C classes of pixels, the first the background.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, PositiveFraction, Seed, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.loader import ahead
from ssl_framework.evaluation.after_training.base import AfterRun, clean, frozen_copy
from ssl_framework.evaluation.features import Bare, Splits, extract, refuse_non_finite
from ssl_framework.evaluation.probes.base import moments
from ssl_framework.evaluation.probes.linear import LinearProbe
from ssl_framework.models.base import spatial
from ssl_framework.module import SSLModule
from ssl_framework.types import Geometry, Samples
from ssl_framework.views.image import Views, picture_views
from ssl_framework.views.image_ops import with_channels
from ssl_framework.views.places import in_source, in_view

CHUNK = 128
"""Images whose pixels are classified, or whose views are compared, at once."""


class DenseProbe(Protocol):
    """Scores the map of a module's backbone; returns metric name (with its protocol) -> percent."""

    def __call__(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]: ...


@guarded
class Dense(AfterRun):
    """All dense probes, one after another. Nothing of the backbone is trained.

    Args:
        protocol: see ``AfterRun``.
        probes: name -> probe; ``None`` leaves one out.
    """

    images_shown = (
        "maps of clean images, encoder in eval mode; segmentation fitted on images of train, scored on those of test; "
        "correspondence of two crops of each test image"
    )
    at_the_end = True

    def __init__(self, protocol: str, probes: Mapping[str, DenseProbe | None]) -> None:
        super().__init__(protocol)
        self.probes = [probe for probe in probes.values() if probe is not None]
        if not self.probes:
            raise ValueError("evaluation.probes is empty: keep segmentation or correspondence")

    def check(self, module: SSLModule | Bare) -> None:
        picture_views(module.views, "an evaluation of places (evaluation=dense)")
        spatial(module.student.backbone, "evaluation.probes")

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        found: dict[str, float] = {}
        for probe in self.probes:
            found |= probe(module, data)
        return found


@guarded
class Segmentation:
    """Linear segmentation: one 1 x 1 convolution on the frozen map, its logits upsampled to the image.

    The linear protocol of Oquab et al., DINOv2 (arXiv:2304.07193), section 7.4, but fitted as this project's linear
    probe, by L-BFGS, on positions: the target of a position is the share of each class among the pixels of its cell.
    Fitted on train, scored on test. The mean IoU is over the classes that occur in the masks or the answers.
    Cost: images x (h w + h w D) floats of memory, and a logistic regression on images x h w rows.

    Args:
        images: of each split that take part at most, drawn with ``seed``; it bounds the memory.
        linear: the probe whose regression is fitted.
        seed: of which images are drawn.
    """

    def __init__(self, images: Count, linear: LinearProbe, seed: Seed) -> None:
        self.images = images
        self.linear = linear
        self.seed = seed

    def __call__(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Percent, named ``segmentation[images=2000,l2=0.0001]/miou`` and ``/pixel_accuracy``.

        Raises:
            ValueError: the data has no masks.
        """
        picture_views(module.views, "evaluation.probes.segmentation")
        backbone = frozen_copy(module).backbone
        map_of = spatial(backbone, "evaluation.probes.segmentation").spatial
        splits = []
        for split, images in (("train", data.train), ("test", data.test)):
            if images.masks is None:
                raise ValueError(
                    "evaluation.probes.segmentation needs a mask of every image, which this data set lacks: choose "
                    "data=shapes, or set evaluation.probes.segmentation=null"
                )
            rows = drawn(len(images.rows), self.images, self.seed)  # [n]
            part = Split(chosen(images.rows, rows.to(images.rows.device)))
            maps = extract(lambda x: map_of(clean(module, x)), part, module.device)  # [n, D, h, w]
            refuse_non_finite(maps, "the backbone's map", split)
            splits += [maps, images.masks()[rows]]
        miou, accuracy = self.fit_and_score(*splits)
        name = f"segmentation[images={self.images},l2={self.linear.weight_decay:g}]"
        return {f"{name}/miou": miou, f"{name}/pixel_accuracy": accuracy}

    def fit_and_score(self, train: Tensor, train_mask: Tensor, test: Tensor, test_mask: Tensor) -> tuple[float, float]:
        """Mean IoU and pixel accuracy in percent.

        Args:
            train, test: maps [n, D, h, w].
            train_mask, test_mask: [n, H, W] uint8 class of each pixel.
        """
        classes = int(max(train_mask.max(), test_mask.max())) + 1
        x = train.permute(0, 2, 3, 1).flatten(0, 2)  # [n * h * w, D]
        mean, std = moments(x)
        shares = cell_shares(train_mask, classes, (train.shape[2], train.shape[3]))  # [n * h * w, C]
        weight, bias = self.linear.fit((x - mean) / std, shares)  # [C, D], [C]
        confusion = torch.zeros(classes, classes, dtype=torch.int64)  # [C, C]: true, answered
        for part, mask in zip(test.split(CHUNK), test_mask.split(CHUNK), strict=True):
            rows = (part.permute(0, 2, 3, 1) - mean) / std  # [n, h, w, D]
            logits = F.linear(rows, weight, bias).permute(0, 3, 1, 2)  # [n, C, h, w]
            answer = F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False).argmax(dim=1)
            pairs = classes * mask.long() + answer  # [n, H, W]
            confusion += pairs.flatten().bincount(minlength=classes**2).view(classes, classes)
        return scores(confusion)


@guarded
class Correspondence:
    """Two crops of an image: for every position of the first map the most similar position of the second.

    Right is a position within one cell, along each axis, of where the same point of the image lies. Positions whose
    point the other crop has cut away do not count. The task without labels of dense contrastive methods (Wang et al.,
    DenseCL, CVPR 2021, arXiv:2011.09157), scored by the crops' known geometry. ``chance`` is what a random position
    would reach, which is much for small maps. Test images; nothing is fitted. Cost: a pass over twice the images.

    Args:
        images: of the test split that take part at most, drawn with ``seed``.
        scale: least and greatest area share of a crop.
        flip: probability that a crop is mirrored.
        seed: of the images and the crops.
    """

    def __init__(
        self, images: Count, scale: Annotated[Sequence[PositiveFraction], Len(2, 2)], flip: Fraction, seed: Seed
    ) -> None:
        self.images = images
        self.scale = list(scale)
        self.flip = flip
        self.seed = seed

    def __call__(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Percent, named ``correspondence[images=2000,scale=0.3-1]/within_1_cell`` and ``/chance``."""
        hits, near, count = 0, 0.0, 0
        for first, second, geometry in self.maps(module, data.test):
            right, chance, seen = matches(first, second, *geometry)  # each [n, h * w]
            hits += int((right & seen).sum())
            near += (chance * seen).sum().item()
            count += int(seen.sum())
        name = f"correspondence[images={self.images},scale={self.scale[0]:g}-{self.scale[1]:g}]"
        return {f"{name}/within_1_cell": 100 * hits / max(1, count), f"{name}/chance": 100 * near / max(1, count)}

    @torch.no_grad()
    def maps(self, module: SSLModule | Bare, images: Split) -> Iterator[tuple[Tensor, Tensor, list[Geometry]]]:
        """The maps [n, D, h, w] of two crops of some images at a time, and where they were cut.

        Raises:
            ValueError: the crops are not possible, or the map has one position or is not finite.
        """
        backbone, own = frozen_copy(module).backbone, picture_views(module.views, "evaluation.probes.correspondence")
        map_of = spatial(backbone, "evaluation.probes.correspondence").spatial
        group = {"count": 2, "scale": self.scale, "flip": self.flip}
        mean, std = own.mean.flatten().tolist(), own.std.flatten().tolist()
        views = Views([group], own.image_size, own.channels, mean, std, geometry=True).to(module.device)
        generator = torch.Generator().manual_seed(self.seed)  # of the CPU: the crops are the same on every device
        rows = drawn(len(images.rows), self.images, self.seed).split(CHUNK)
        read = ahead((chosen(images.rows, index.to(images.rows.device)), index) for index in rows)
        for pixels, index in read:
            batch = views(Samples(with_channels(pixels.to(module.device), own.channels), index), generator)
            assert batch.geometry is not None
            first, second = (map_of(view).float() for view in batch.views)  # 2 x [n, D, h, w]
            if first.shape[2] * first.shape[3] == 1:
                raise ValueError(
                    f"evaluation.probes.correspondence needs a map of several positions, but {backbone.name} "
                    "gives one: set evaluation.probes.correspondence=null"
                )
            for found in (first, second):
                refuse_non_finite(found, "the backbone's map", "test")
            yield first, second, batch.geometry


def drawn(count: int, most: int, seed: int) -> Tensor:
    """At most so many of ``count`` rows, drawn with ``seed``, in their order: [n] int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def cell_shares(mask: Tensor, classes: int, size: tuple[int, int]) -> Tensor:
    """The share of each class among the pixels of every cell of a grid.

    Args:
        mask: [n, H, W] classes of pixels.
        classes: C.
        size: h, w.

    Returns:
        [n * h * w, C] float32, rows sum to 1.
    """
    parts = []
    for part in mask.split(CHUNK):
        hot = F.one_hot(part.long(), classes).permute(0, 3, 1, 2).float()  # [n, C, H, W]
        parts.append(F.adaptive_avg_pool2d(hot, size).permute(0, 2, 3, 1).flatten(0, 2))  # [n * h * w, C]
    return torch.cat(parts)


def scores(confusion: Tensor) -> tuple[float, float]:
    """Mean IoU and pixel accuracy in percent of a table [C, C] of true and answered classes of pixels."""
    right = confusion.diagonal().double()  # [C]
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - right  # [C]
    iou = (right / union)[union > 0]  # [classes that occur]
    return 100 * iou.mean().item(), 100 * (right.sum() / confusion.sum()).item()


def matches(first: Tensor, second: Tensor, of_first: Geometry, of_second: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the most similar position of the second map is the right one, for every position of the first.

    Args:
        first, second: maps [n, D, h, w] of two crops of the same images; similar means by cosine.
        of_first, of_second: where they were cut.

    Returns:
        [n, h * w] bool: within one cell along each axis; [n, h * w] float32: the share of the second map's positions
        that are; [n, h * w] bool: whether the second crop shows the point.
    """
    height, width = first.shape[-2:]
    alike = torch.einsum("ndp,ndq->npq", F.normalize(first.flatten(2), dim=1), F.normalize(second.flatten(2), dim=1))
    best = alike.argmax(dim=2)  # [n, h * w]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")  # [h, w]
    cell = torch.stack([x, y], dim=-1).flatten(0, 1).to(first)  # [h * w, 2]
    size = cell.new_tensor([width, height])  # [2]
    point = in_source((cell + 0.5) / size, of_first)  # [n, h * w, 2]
    there = in_view(point, of_second)  # [n, h * w, 2]
    seen = ((there >= 0) & (there <= 1)).all(dim=2)  # [n, h * w]
    truth = there * size - 0.5  # [n, h * w, 2], in cells
    close = ((truth[:, :, None] - cell).abs() <= 1 + 1e-4).all(dim=3)  # [n, h * w, h * w]
    return close.gather(2, best[:, :, None])[:, :, 0], close.float().mean(dim=2), seen
