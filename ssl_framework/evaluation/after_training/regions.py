"""Zero-shot classification of what is in the boxes of pictures (CLOC, arXiv:2410.02746, section 4; RegionCLIP,
arXiv:2112.09106, section 4.2: with given boxes), and what tells a model that knows places from one that does not.

N pictures, K boxes of each, D dimensions of the common space, P places of a picture.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.data.base import Regions, Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import clean, two_towers
from ssl_framework.evaluation.after_training.boxes import OfBoxes, boxes_of, placed
from ssl_framework.evaluation.features import Bare, Splits, in_eval_mode, refuse_non_finite, samples_at_once
from ssl_framework.evaluation.probes.base import right
from ssl_framework.evaluation.probes.zero_shot import class_rows
from ssl_framework.functional import unit
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.objectives.dito import region_means
from ssl_framework.views.image_ops import resized_crop

HOWS = ("whole", "pooled", "cropped")
"""How a box is seen without any help of an objective."""


@runtime_checkable
class KnowsRegions(Protocol):
    """An objective that embeds boxes itself."""

    def region_rows(self, places: Tensor, boxes: Tensor) -> Tensor:
        """Tokens [B, P, D'] and boxes [B, K, 4] -> unit rows [B, K, D]."""
        ...


@guarded
class RegionZeroShot(OfBoxes):
    """Every box is given the class whose texts lie nearest, factor by factor; nothing is fitted.

    A box is seen as "whole" (its picture: what a model without places knows), "pooled" (the mean of the places within,
    through the head), "cropped" (cut out, at the size of a picture) and, where the objective embeds boxes, "prompted".

    Args:
        protocol, other, head, num_samples: see ``OfBoxes``.
    """

    images_shown = "clean pictures of the test split with boxes, encoder in eval mode; nothing is fitted"

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Top-1 in percent of all boxes, ``region_zero_shot[form,classes=4,prompts=6,pooled]/top1``.

        Raises:
            ValueError: the model has no such towers or no places, or the data no boxes.
        """
        self.check(module)
        regions = self.regions(data)
        there = regions.boxes[..., 2] > regions.boxes[..., 0]  # [N, K]
        with torch.no_grad(), in_eval_mode(module):
            classes = {factor: self.classes(module, rows) for factor, rows in regions.prompts.items()}
            rows = self.rows(module, data.test, regions.boxes)  # how -> [N, K, D]
        return {
            self.metric(factor, regions, how): right(
                (z[there] @ classes[factor].T).argmax(dim=1), regions.numbers[factor].cpu()[there]
            )
            for how, z in rows.items()
            for factor in regions.prompts
        }

    def chance(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        regions = self.regions(data)
        shares = {factor: 100 / len(prompts) for factor, prompts in regions.prompts.items()}
        return {self.metric(f, regions, how): share for how in self.hows(module) for f, share in shares.items()}

    def regions(self, data: DataModule | Splits) -> Regions:
        """Of the first N pictures, on the CPU."""
        found = boxes_of(data.test, self.name)
        numbers = {factor: x[: self.num_samples].cpu() for factor, x in found.numbers.items()}
        return Regions(found.boxes[: self.num_samples].cpu(), numbers, found.prompts)

    def metric(self, factor: str, regions: Regions, how: str) -> str:
        """The name of a score."""
        classes, prompts = regions.prompts[factor].shape[:2]
        return f"region_zero_shot[{factor},classes={classes},prompts={prompts},{how}]/top1"

    def classes(self, module: SSLModule | Bare, prompts: Tensor) -> Tensor:
        """[classes, prompts, L] -> unit rows [classes, D]."""
        _, texts = two_towers(module, self.other, [self.head], self.name)
        flat = module.views.clean(prompts.flatten(0, 1).to(module.device), self.other)  # [classes * prompts, L]
        return class_rows(unit(texts.encode(flat)[self.head]).float().cpu().unflatten(0, prompts.shape[:2]))

    def rows(self, module: SSLModule | Bare, split: Split, boxes: Tensor) -> Mapping[str, Tensor]:
        """How a box is seen -> unit rows [N, K, D] of the boxes [N, K, 4] of the first pictures; those that stand for
        boxes that are not there mean nothing."""
        main, prompted = placed(two_towers(module, self.other, [self.head], self.name)[0]), own_rows_of(module)
        there = (boxes[..., 2] > boxes[..., 0])[..., None]  # [N, K, 1]
        boxes = torch.where(there, boxes, torch.tensor([0.0, 0.0, 1.0, 1.0]))  # [N, K, 4]
        parts = []
        for index in torch.arange(len(boxes)).split(samples_at_once(split, module.device)):
            raw = chosen(split.rows, index.to(split.rows.device)).to(module.device)  # [B, C, H, W]
            own = boxes[index].to(module.device)  # [B, K, 4]
            seen = Encoder.encode(main, clean(module, raw))  # not a compiled one, which gives what it gave
            whole = seen[self.head][:, None].expand(-1, own.shape[1], -1)  # [B, K, D]
            pooled = main.through_heads(region_means(seen["places"], own).flatten(0, 1))[self.head]  # [B * K, D]
            cropped = Encoder.encode(main, clean(module, cut_out(raw, own)))[self.head]  # [B * K, D]
            found = [whole, *(x.unflatten(0, own.shape[:2]) for x in (pooled, cropped))]  # hows x [B, K, D]
            found += [] if prompted is None else [prompted.region_rows(seen["places"], own)]
            parts.append(torch.stack([unit(x.float()) for x in found]).cpu())  # [hows, B, K, D]
        z = torch.cat(parts, dim=1)  # [hows, N, K, D]
        refuse_non_finite(z.transpose(0, 1), f"the outputs of the head {self.head} on boxes", "test")
        return dict(zip(self.hows(module), z, strict=True))

    def hows(self, module: SSLModule | Bare) -> list[str]:
        """How boxes are seen."""
        return [*HOWS, *["prompted"] * (own_rows_of(module) is not None)]


def own_rows_of(module: SSLModule | Bare) -> KnowsRegions | None:
    """The objective, if it embeds boxes."""
    objective = getattr(module, "objective", None)
    return objective if isinstance(objective, KnowsRegions) else None


def cut_out(pictures: Tensor, boxes: Tensor) -> Tensor:
    """Boxes as pictures: uint8 [B, C, H, W] and [B, K, 4] in [0, 1] -> uint8 [B * K, C, S, S], S the greater side."""
    height, width = pictures.shape[2:]
    sides = boxes.new_tensor([width, height, width, height])
    low = (boxes * sides)[..., :2].floor().long()  # [B, K, 2]
    high = torch.maximum((boxes * sides)[..., 2:].ceil().long(), low + 1)  # [B, K, 2]
    (x, y), (w, h) = low.flatten(0, 1).unbind(1), (high - low).flatten(0, 1).unbind(1)  # [B * K] each
    each = pictures.repeat_interleave(boxes.shape[1], dim=0)  # [B * K, C, H, W]
    found = resized_crop(each, torch.stack([y, x, h, w], dim=1), max(height, width))
    return (255 * found).round().to(torch.uint8)
