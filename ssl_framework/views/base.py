"""What makes views: one maker a modality, and several of them one after another."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ssl_framework.arguments import guarded
from ssl_framework.types import Batch, Inputs, Samples
from ssl_framework.views.reading import Group


class ViewMaker(Protocol):
    """Random views of the samples of a batch, on the device that trains, and all that is peculiar to a modality.

    Attributes:
        num_views: V.
        modality: of each view, V names, such as ("image", "image"): the names of a source's modalities.
        channels: C of views that are pictures; ``None``: they are none.
        crops: how a loader that cuts crops where it decodes should cut them; ``None``: it must not.
        raw_name: what results call the baseline on ``raw``: "raw_pixels", or "raw_input" where data are no pictures.
    """

    num_views: int
    modality: tuple[str, ...]
    channels: int | None
    crops: Sequence[Group] | None
    raw_name: str

    def __call__(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """The views; a function of the generator's state alone (``None``: torch's own), another draw a sample."""
        ...

    def of(self, raw: Inputs, generator: torch.Generator | None = None) -> list[Inputs]:
        """The views of samples alone: [B, ...] -> V x [B, ...].

        Raises:
            ValueError: views of several modalities need more than that.
        """
        ...

    def clean(self, raw: Inputs, modality: str | None = None) -> Inputs:
        """Raw samples as evaluators show them to an encoder, without randomness.

        Args:
            raw: as a source has them, [B, ...].
            modality: of the samples; ``None``: the main one.
        """
        ...

    def raw(self, rows: Inputs) -> Tensor:
        """Raw samples as vectors [B, D] float32, which a representation has to beat."""
        ...

    def example(self, view: int) -> tuple[int, ...]:
        """Shape of one view of one sample, such as (3, 32, 32), for what sizes itself by it."""
        ...

    def picture(self, view: Inputs, modality: str | None = None) -> Tensor | str:
        """What a report shows of a view of one sample: [C, h, w] float32 in [0, 1] on the CPU, C 1 or 3; or words.

        Args:
            view: of one sample, without a dimension for the batch.
            modality: of the view; ``None``: the main one.
        """
        ...

    def describe(self) -> str:
        """What ``clean`` does, in one sentence."""
        ...

    def compile_parts(self) -> None:
        """Has what makes the views compiled at its first call, where that helps."""
        ...


@runtime_checkable
class Further(Protocol):
    """A view maker that knows more than ``raw`` that needs no training."""

    def further(self) -> dict[str, Callable[[Inputs], Tensor]]:
        """Name of a reference -> what makes vectors [n, D] float32 of raw samples, as ``raw`` does."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A view maker whose batches say more than views, which objectives ask for (``Objective.requires``).

    Attributes:
        tells: of "geometry" (where each view was cut, once ``geometry`` is set), "regions" (see ``Regional``), and by
            ``Batch.targets`` "answer" (how the last view was changed), "common points" (of two crops), "originals"
            (what altered views were) and "fragments" (of which two each pair is).
    """

    tells: frozenset[str]


@runtime_checkable
class Regional(Protocol):
    """A view maker that tells the boxes of regions of the first view, and what is in each, by a text behind the others.

    Attributes:
        regions: R, of a sample.
        reads: what it reads of a sample, as data name it; more than its views are of.
    """

    regions: int
    reads: tuple[str, ...]


@runtime_checkable
class Growing(Protocol):
    """A view maker whose views may grow as the run goes on.

    Attributes:
        grows: whether they do.
        progress: share of the run that is done, in [0, 1], which the module says before each step.
    """

    grows: bool
    progress: float


@guarded
class PairedViews(nn.Module):
    """View makers of several modalities, one after another: the views of the first, then those of the next.

    The first is of the samples' main modality, their inputs; each other one of what stands beside these under the name
    of its modality.

    Args:
        parts: view makers, the main one first, each of one modality.

    Raises:
        ValueError: there are no parts, two are of one modality, or a part is of several.
    """

    def __init__(self, parts: Sequence[ViewMaker]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("views.parts is empty: name the view makers, that of the main modality first")
        mixed = [sorted(set(part.modality)) for part in parts if len(set(part.modality)) != 1]
        if mixed:
            raise ValueError(
                f"views.parts has a part of {' and '.join(mixed[0])}: give each modality a part of its own"
            )
        self.names = [part.modality[0] for part in parts]
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"views.parts are of {', '.join(self.names)}: name each modality once")
        self.parts = nn.ModuleList(parts)  # type: ignore[arg-type]
        self.num_views = sum(part.num_views for part in parts)
        self.modality = tuple(name for part in parts for name in part.modality)
        self.channels = parts[0].channels
        self.crops = None
        self.raw_name = parts[0].raw_name

    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """The views of every part.

        Raises:
            ValueError: a modality is missing beside the samples.
        """
        views: list[Inputs] = []
        for number, (name, part) in enumerate(zip(self.names, self.parts, strict=True)):
            own = samples if number == 0 else samples._replace(inputs=self._beside(samples, name), box=None)
            views += part(own, generator).views
        return Batch(views, samples.index, samples.label, modality=self.modality)

    def of(self, raw: Inputs, generator: torch.Generator | None = None) -> list[Inputs]:
        """Raises ValueError: samples of several modalities are more than one tensor."""
        raise ValueError(
            f"these views are of {' and '.join(self.names)}, which one tensor cannot hold: call them with Samples, or "
            "compose data and a method of one modality"
        )

    def clean(self, raw: Inputs, modality: str | None = None) -> Inputs:
        """As the part of this modality does it."""
        return self._part(modality).clean(raw)

    def raw(self, rows: Inputs) -> Tensor:
        """As the main part does it."""
        return self._part(None).raw(rows)

    def example(self, view: int) -> tuple[int, ...]:
        """As the part that makes this view."""
        for part in self.parts:
            assert isinstance(part.num_views, int)
            if view < part.num_views:
                return part.example(view)  # type: ignore[operator]
            view -= part.num_views
        raise IndexError(view)

    def picture(self, view: Inputs, modality: str | None = None) -> Tensor | str:
        """As the part of this modality does it."""
        return self._part(modality).picture(view)

    def describe(self) -> str:
        """Of the main modality, which evaluators score."""
        return self._part(None).describe()

    def compile_parts(self) -> None:
        """Of every part."""
        for name in self.names:
            self._part(name).compile_parts()

    def _part(self, modality: str | None) -> ViewMaker:
        return self.parts[0 if modality is None else self.names.index(modality)]  # type: ignore[return-value]

    def _beside(self, samples: Samples, name: str) -> Tensor:
        if name not in (samples.beside or {}):
            there = ", ".join(samples.beside or {}) or "nothing"
            raise ValueError(
                f"views.parts has {name}, but the data have {there} beside their samples: choose data with {name}"
            )
        assert samples.beside is not None
        return samples.beside[name]
