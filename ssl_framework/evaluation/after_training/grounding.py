"""Where in a picture a phrase belongs: the similarity of a text with every place, and the box that the method says.

Pointing game (Zhang et al., Top-down Neural Attention by Excitation Backprop, arXiv:1608.00507, section 4.2), of places
and not of pixels, and contrast-to-noise ratio (BioViL, arXiv:2204.09817, section 4.3) of the similarity map, brought to
the picture's size.

N pictures, K boxes of each, of which n have a text of their own; P places, S pixels a side, D dimensions.
"""

import math
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.data.base import chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import clean, two_towers
from ssl_framework.evaluation.after_training.boxes import OfBoxes, boxes_of, placed
from ssl_framework.evaluation.features import (
    Accuracy,
    Bare,
    Splits,
    in_eval_mode,
    refuse_non_finite,
    samples_at_once,
)
from ssl_framework.functional import unit
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.objectives.biovil import phrase_contrast
from ssl_framework.views.places import cells

OVERLAP = 0.5
"""Of two boxes, from which on one counts as the other (intersection over union)."""


@runtime_checkable
class Grounds(Protocol):
    """An objective that says boxes itself.

    Attributes:
        prompter: whose ``ground(places [B, P, D'], texts [B, R, D])`` gives boxes [B, R, 4] in [0, 1].
    """

    prompter: Any


@guarded
class Grounding(OfBoxes):
    """Every text of a box that no other box of its picture has is looked for in the picture, whose places go through
    the head, too; nothing is fitted.

    Args:
        protocol, other, head, num_samples: see ``OfBoxes``.
    """

    images_shown = "clean pictures of the test split and the texts of their boxes; nothing is fitted"

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """``grounding[n=500]/pointing``, percent of texts whose nearest place touches the box; ``/contrast``, the mean
        contrast-to-noise ratio; and, of a method that says boxes, ``/boxes_iou50``, percent that overlap the right one.

        Raises:
            ValueError: the model has no such towers or no places, or the data no boxes.
        """
        self.check(module)
        boxes, ids, asked = self.asked(data)  # [N, K, 4], [N, K, L], [N, K]
        objective = getattr(module, "objective", None)
        grounds = objective if isinstance(objective, Grounds) else None
        main, texts = two_towers(module, self.other, [self.head], self.name)
        main, side, split = placed(main), data.test.shape[-1], data.test
        near, contrast, found = [], [], []
        with torch.no_grad(), in_eval_mode(module):
            for index in torch.arange(len(boxes)).split(samples_at_once(split, module.device)):
                raw = chosen(split.rows, index.to(split.rows.device)).to(module.device)  # [B, C, H, W]
                places = Encoder.encode(main, clean(module, raw))["places"]  # [B, P, D']
                rows = unit(main.through_heads(places.flatten(0, 1))[self.head]).unflatten(0, places.shape[:2])
                said = module.views.clean(ids[index].flatten(0, 1).to(module.device), self.other)  # [B * K, L]
                z = unit(Encoder.encode(texts, said)[self.head]).unflatten(0, (len(index), -1))  # [B, K, D]
                own, these = boxes[index].to(module.device), asked[index]
                alike = (z @ rows.transpose(1, 2)).float()  # [B, K, P]
                best = alike[these].argmax(dim=1, keepdim=True)  # [n, 1]
                near.append(touched(own[these], alike.shape[2]).gather(1, best)[:, 0].cpu())
                contrast.append(phrase_contrast(as_large(alike, side)[these], pixels_in(own[these], side)).cpu())
                if grounds is not None:
                    found.append(overlap(grounds.prompter.ground(places, z)[these].float(), own[these]).cpu())
        every = refuse_non_finite(torch.cat(contrast)[:, None], "the similarity maps", "test")[:, 0]  # [n]
        scores = {"pointing": share(torch.cat(near)), "contrast": every.double().mean().item()}
        scores |= {"boxes_iou50": share(torch.cat(found) >= OVERLAP)} if found else {}
        return {f"{self.name}[n={len(every)}]/{what}": value for what, value in scores.items()}

    def chance(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Of a place drawn evenly."""
        boxes, _, asked = self.asked(data)
        main = placed(two_towers(module, self.other, [self.head], self.name)[0])
        with torch.no_grad(), in_eval_mode(module):
            one = chosen(data.test.rows, torch.zeros(1, dtype=torch.int64, device=data.test.rows.device))
            places = Encoder.encode(main, clean(module, one.to(module.device)))["places"].shape[1]
        near = touched(boxes[asked], places).double()  # [n, P]
        return {f"{self.name}[n={len(near)}]/pointing": 100 * near.mean().item()}

    def asked(self, data: DataModule | Splits) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [N, K, 4], their texts [N, K, L], and which are asked for [N, K], on the CPU."""
        boxes = boxes_of(data.test, self.name).boxes[: self.num_samples].cpu()
        ids = (data.test.beside or {})["region_text"][: self.num_samples].cpu()
        there = boxes[..., 2] > boxes[..., 0]  # [N, K]
        same = (ids[:, :, None] == ids[:, None]).all(dim=3) & there[:, None]  # [N, K, K]
        return boxes, ids, there & (same.sum(dim=2) == 1)


def share(right: Tensor) -> Accuracy:
    """[n] bool as percent."""
    return Accuracy(int(right.sum()), len(right))


def as_large(maps: Tensor, side: int) -> Tensor:
    """Square maps [B, K, P], bilinearly at the size of the picture: [B, K, S * S]."""
    cells = math.isqrt(maps.shape[2])
    grid = maps.unflatten(2, (cells, cells))  # [B, K, h, w]
    return F.interpolate(grid, (side, side), mode="bilinear", align_corners=False).flatten(2)


def touched(boxes: Tensor, places: int) -> Tensor:
    """Which cells of a square grid share more than an edge with boxes [n, 4]: [n, P] bool, row after row."""
    side = math.isqrt(places)
    middle = cells(side, side, boxes)  # [P, 2]
    low, high = middle - 0.5 / side, middle + 0.5 / side  # [P, 2] each
    return ((boxes[:, None, :2] < high) & (boxes[:, None, 2:] > low)).all(dim=2)


def pixels_in(boxes: Tensor, side: int) -> Tensor:
    """Which pixels, by their middles, lie in boxes [n, 4]: [n, S * S] bool."""
    at = (torch.arange(side, device=boxes.device) + 0.5) / side  # [S]
    x0, y0, x1, y1 = boxes[..., None].unbind(1)  # [n, 1] each
    columns, rows = (at >= x0) & (at < x1), (at >= y0) & (at < y1)  # [n, S] each
    return (rows[:, :, None] & columns[:, None]).flatten(1)


def overlap(found: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of pairs of boxes, two [n, 4] -> [n]; 0 of what is no box."""
    low, high = torch.maximum(found[:, :2], boxes[:, :2]), torch.minimum(found[:, 2:], boxes[:, 2:])  # [n, 2] each
    both = (high - low).clamp(min=0).prod(dim=1)  # [n]
    areas = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(dim=1) for x in (found, boxes)]  # 2 x [n]
    return both / (areas[0] + areas[1] - both)
