"""Views of several modalities, of which each has a masker of its own."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len

from ssl_framework.arguments import guarded
from ssl_framework.masks.base import Masker
from ssl_framework.models.encoder import Encoder
from ssl_framework.types import Batch, Clock


@guarded
class EachItsOwn(Masker):
    """Has views masked by several maskers, one after another.

    Args:
        maskers: each names its views; no two the same, and none names blocks to be predicted or shows other pictures.

    Raises:
        ValueError: one does not name its views, two name the same, or one does more than to hide.
    """

    def __init__(self, maskers: Annotated[Sequence[Masker], Len(1)]) -> None:
        named = [view for masker in maskers for view in masker.views or ()]
        if any(masker.views is None for masker in maskers) or len(set(named)) < len(named):
            raise ValueError(
                f"masker.maskers have views={[masker.views for masker in maskers]}: give each its own views, none twice"
            )
        for masker in maskers:
            if masker.fills or masker.gives_targets:
                raise ValueError(
                    f"masker.maskers has {type(masker).__name__}, which does more than to hide: choose one such as "
                    "RandomMask"
                )
        super().__init__(named)
        self.maskers = torch.nn.ModuleList(maskers)

    @property
    def even(self) -> bool:
        """Whether all of them hide as many patches in every sample."""
        return all(masker.even for masker in self.maskers)

    def attach(self, student: Encoder, shapes: Sequence[tuple[int, ...]], encoded: Sequence[int]) -> None:
        """As of every masker. Changes ``grids`` of all."""
        for masker in self.maskers:
            assert isinstance(masker, Masker)
            masker.attach(student, shapes, encoded)
            self.grids |= masker.grids

    def forward(self, batch: Batch, clock: Clock, generator: torch.Generator | None = None) -> Batch:
        """As of every masker."""
        masks: list[torch.Tensor | None] = [None] * len(batch.views)
        for masker in self.maskers:
            found: Batch = masker(batch, clock, generator)
            assert found.masks is not None
            masks = [other if own is None else own for own, other in zip(found.masks, masks, strict=True)]
        return batch._replace(masks=masks)
