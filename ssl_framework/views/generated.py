"""A view of a generated image of the same sample beside a view of the sample itself: GenView, arXiv:2403.12003."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor, nn

from ssl_framework.arguments import guarded
from ssl_framework.types import Batch, Inputs, Samples
from ssl_framework.views.base import ViewMaker
from ssl_framework.views.crops import uniform
from ssl_framework.views.reading import Group

NONE_GENERATED = (
    "views show generated images of every sample, but the data have none: choose generated=latent, generated=redrawn "
    "on data=shapes, or generated=paired with generated.path"
)
"""What is said of data without them."""


@guarded
class GeneratedViews(nn.Module):
    """Views of the sample, and then views of one of its generated images, drawn anew at every step.

    Evaluators, baselines and reports see the sample itself, as the first maker shows it.

    Args:
        parts: two makers of pictures: of the views of the sample, and of those of its generated images, which are
            "generated" beside the samples, [B, K, C, H, W] uint8.
    """

    def __init__(self, parts: Annotated[Sequence[ViewMaker], Len(2, 2)]) -> None:
        super().__init__()
        real, generated = parts
        self.parts = nn.ModuleList(parts)  # type: ignore[arg-type]
        self.first, self.second = real.num_views, generated.num_views
        self.num_views = self.first + self.second
        self.modality = (*real.modality, *generated.modality)
        self.channels = real.channels
        self.crops: Sequence[Group] | None = None
        self.raw_name = real.raw_name

    @property
    def real(self) -> ViewMaker:
        """The maker of the sample's own views."""
        return self.parts[0]  # type: ignore[return-value]

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """The views of both.

        Raises:
            ValueError: the samples have no generated images.
        """
        if "generated" not in (samples.beside or {}):
            raise ValueError(NONE_GENERATED)
        assert samples.beside is not None
        images = samples.beside["generated"]  # [B, K, C, H, W]
        own = self.real(samples, generator)
        which = (uniform((len(images),), images.device, generator) * images.shape[1]).long()  # [B]
        picked = images[torch.arange(len(images), device=images.device), which]  # [B, C, H, W]
        other = self.parts[1](samples._replace(inputs=picked, box=None), generator)
        return own._replace(views=[*own.views, *other.views], geometry=None)

    def of(self, raw: Inputs, generator: torch.Generator | None = None) -> list[Inputs]:
        """Raises ValueError: samples and their generated images are more than one tensor."""
        raise ValueError("views show generated images of every sample: call them with Samples that have some beside")

    def clean(self, raw: Inputs, modality: str | None = None) -> Inputs:
        """Of the samples."""
        return self.real.clean(raw, modality)

    def raw(self, rows: Inputs) -> Tensor:
        """Of the samples."""
        return self.real.raw(rows)

    def example(self, view: int) -> tuple[int, ...]:
        """As the maker of this view."""
        return self.real.example(view) if view < self.first else self.parts[1].example(view - self.first)  # type: ignore[operator]

    def picture(self, view: Inputs, modality: str | None = None) -> Tensor | str:
        """Of any view."""
        return self.real.picture(view, modality)

    def describe(self) -> str:
        """Of the samples."""
        return self.real.describe()

    def compile_parts(self) -> None:
        """Of both."""
        for part in self.parts:
            part.compile_parts()  # type: ignore[operator]
