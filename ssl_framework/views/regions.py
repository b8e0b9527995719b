"""Views of pictures with boxes: a picture, its caption, and what is in some of its boxes.

B samples, K boxes of each, of which R are shown; L tokens a text.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_framework.arguments import Count, PositiveFraction, guarded
from ssl_framework.types import Batch, Samples
from ssl_framework.views.base import PairedViews, ViewMaker
from ssl_framework.views.image import Views
from ssl_framework.views.places import boxes_in_view
from ssl_framework.views.text import TextViews, uniform


@guarded
class RegionViews(PairedViews):
    """One view of a picture, one of its texts, and behind them the texts of R regions; ``Batch.boxes`` says where in
    the view each region is. Boxes are cut and mirrored as the picture is.

    Args:
        parts: view makers of pictures and of texts, one view each.
        regions: R, drawn among the boxes that the view shows; where it shows fewer, boxes are 0.
        least: share of a box that the view must show.

    Raises:
        ValueError: the parts are others.
    """

    tells = frozenset({"regions"})
    regions: int
    least: float
    reads: tuple[str, ...]

    def __init__(self, parts: Sequence[ViewMaker], regions: Count, least: PositiveFraction) -> None:
        super().__init__(parts)
        if len(parts) != 2 or not isinstance(parts[0], Views) or not isinstance(parts[1], TextViews):
            raise ValueError(f"views.parts are of {', '.join(self.names)}: give one of pictures and one of texts")
        if parts[0].num_views != 1 or parts[1].num_views != 1:
            raise ValueError(
                f"views.parts make {parts[0].num_views} views of a picture and {parts[1].num_views} of its text, but "
                "boxes are of one picture: set both to one"
            )
        parts[0].geometry = True
        self.regions = regions
        self.least = least
        self.reads = (*self.modality, "region")
        self.num_views += regions
        self.modality += (self.names[1],) * regions

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """The views: pictures [B, C, h, w], then 1 + R times [B, L].

        Raises:
            ValueError: texts, boxes or their texts are missing, or a picture has fewer than R boxes.
        """
        shown: Batch = self.parts[0](samples, generator)
        said: Batch = self.parts[1](samples._replace(inputs=self._beside(samples, self.names[1]), box=None), generator)
        boxes, texts = (self._beside(samples, name) for name in ("boxes", "region_text"))  # [B, K, 4], [B, K, L]
        if boxes.shape[1] < self.regions:
            raise ValueError(
                f"views.regions is {self.regions}, but the data have {boxes.shape[1]} boxes a picture: set it to at "
                "most that"
            )
        assert shown.geometry is not None
        boxes, share = boxes_in_view(boxes, shown.geometry[0])  # [B, K, 4], [B, K]
        order = (uniform(share, generator) + 2.0 * (share < self.least)).argsort(dim=1)[:, : self.regions]  # [B, R]
        there = share.gather(1, order) >= self.least  # [B, R]
        boxes = taken(boxes, order) * there[..., None]  # [B, R, 4]
        each = taken(texts, order).long().unbind(1)  # R x [B, L]
        views = [*shown.views, *said.views, *each]
        return Batch(views, samples.index, samples.label, modality=self.modality, boxes=boxes)

    def example(self, view: int) -> tuple[int, ...]:
        """As the part of pictures, or that of texts."""
        return super().example(min(view, 1))


def taken(rows: Tensor, order: Tensor) -> Tensor:
    """[B, K, ...] at [B, R] -> [B, R, ...]"""
    return rows.gather(1, order[..., None].expand(-1, -1, rows.shape[2]))
