"""The only records that travel between the parts of a training step.

Shape letters, the same in every file:

    B  samples on this rank        W  ranks (processes)          V  views of one sample
    C  channels                    H, W_px / h, w  height, width N  tokens or patches (in a loss: samples)
    D  feature dimensions          K  rows of a memory           S  synthetic rows per query
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

Inputs: TypeAlias = Any
"""Samples or views of one modality, B of them: a tensor [B, ...] of any dtype, or a record of tensors: of length B,
indexed by rows and moved by ``to(device)``."""

Outputs: TypeAlias = dict[str, Tensor]
"""What an encoder returns for one view: ``"pooled"`` [B, D], ``"map"`` [B, C, h, w] or ``"tokens"`` [B, N, D],
and one entry per head, named as in the config: [B, D], or [B, D, h, w] of a dense one. Where an objective reads them,
a ``"map"`` beside the tokens, ``"places"`` [B, N, D] of either, and the maps of blocks, ``"block_-2"``."""


class Geometry(NamedTuple):
    """Where a view was cut from its source image."""

    box: Tensor  # [B, 4] float32: x0, y0, x1, y1, as fractions of the source image's width and height
    flip: Tensor  # [B] bool: mirrored left-right after the crop


class Mix(NamedTuple):
    """What an input mixer did to a view: sample b now shows share[b, p] of sample source[b, p]; P sources, mostly 2."""

    clean: Tensor  # [B, C, h, w] float32: the view before
    source: Tensor  # [B, P] int64: positions in this rank's batch; the first is the sample itself
    share: Tensor  # [B, P] float32 in [0, 1], rows sum to one: the label shares
    owner: Tensor | None  # [B, P, h, w] float32: of which source each pixel is; None: mixed in the network
    of: int  # the view that was mixed; where that stayed as it was, the mixture is a further view
    taken: Tensor | None = None  # [B, P, h, w] float32: which pixels of each source are shown, if not in their place


@dataclass(frozen=True)
class Graph:
    """A view of nodes: a record that knows the whole graph, and which B nodes of it the view is of."""

    x: Tensor  # [n, F] float32: features of all nodes
    edges: Tensor  # [2, E] int64: from, to
    nodes: Tensor  # [B] int64: those that are encoded

    def __len__(self) -> int:
        """B."""
        return len(self.nodes)

    def __getitem__(self, rows: Any) -> "Graph":
        """The view of some of its samples; the graph stays whole."""
        return Graph(self.x, self.edges, self.nodes[rows].reshape(-1))

    def __iter__(self) -> Iterator["Graph"]:
        """The views of single samples."""
        return (self[row] for row in range(len(self)))

    @property
    def shape(self) -> torch.Size:
        """B, F."""
        return torch.Size((len(self.nodes), self.x.shape[1]))

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.x.device

    def to(self, device: torch.device | str) -> "Graph":
        """The same there."""
        return Graph(self.x.to(device), self.edges.to(device), self.nodes.to(device))

    def split(self, size: int) -> list["Graph"]:
        """Parts of so many samples, as those of a tensor."""
        return [Graph(self.x, self.edges, nodes) for nodes in self.nodes.split(size)]


def joined(views: Sequence[Inputs]) -> Inputs:
    """Views of one shape as one of all their samples: tensors one behind the other, graphs side by side, without an
    edge between them."""
    if not isinstance(views[0], Graph):
        return torch.cat(list(views))
    starts = [0, *itertools.accumulate(len(view.x) for view in views)]
    return Graph(
        torch.cat([view.x for view in views]),
        torch.cat([view.edges + start for view, start in zip(views, starts, strict=False)], dim=1),
        torch.cat([view.nodes + start for view, start in zip(views, starts, strict=False)]),
    )


class Samples(NamedTuple):
    """A batch as the loader yields it: whole samples of one shape, or, of images of any size, the crops it has cut.

    A sample has one main modality, its inputs, which evaluators score; further ones of the same sample stand beside it.
    """

    inputs: Inputs | list[Tensor]  # [B, ...], pixels [B, C, H, W] uint8; or V x [B, C, h_v, w_v] uint8: a crop a view
    index: Tensor  # type: ignore[assignment]  # [B] int64: position in the training set
    label: Tensor | None = None  # [B] int64 class, or float32 number
    box: list[Tensor] | None = None  # of crops, V x [B, 4] float32: x0, y0, x1, y1, fractions of the source image
    beside: dict[str, Tensor] | None = None  # further modalities, name -> [B, ...], such as "text" [B, K, L] int32


class Batch(NamedTuple):
    """A batch as the encoders see it."""

    views: list[Inputs]  # V x [B, ...]; pictures [B, C, h_v, w_v] float32, normalised
    index: Tensor  # type: ignore[assignment]  # [B] int64
    label: Tensor | None = None  # [B] int64 class, or float32 number
    geometry: list[Geometry] | None = None  # V entries, when the views were asked for them
    mix: list[Mix | None] | None = None  # as many entries as views, None where a view was left as it was
    owed: Tensor | None = None  # scalar: what a learned mixer adds to the loss
    modality: tuple[str, ...] | None = None  # of each view; None: all views are of one modality
    masks: list[Tensor | None] | None = None  # V x [B, N] bool: True where a token is hidden from the student
    targets: list[Tensor] | None = None  # what a mask's maker knows and the objective needs, such as hidden places
    first: int = 0  # of a part of a batch whose teacher has seen all of it: where the part begins (gradient_cache)
    boxes: Tensor | None = None  # [B, R, 4] float32: regions of view 0 as fractions of it, x0, y0, x1, y1; 0 where none


class Clock(NamedTuple):
    """Where the run stands. Everything random in a step is a function of it, so a resumed run repeats it exactly."""

    step: int  # optimizer steps done
    epoch: int  # epochs done
    total_steps: int  # optimizer steps of the whole run
    seed: int = 0

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.step / max(self.total_steps, 1)

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator that is the same on every rank in this step, for what all ranks must draw alike."""
        return torch.Generator(device).manual_seed(step_seed(self.seed, self.step))


def step_seed(seed: int, step: int, rank: int = -1) -> int:
    """A 63-bit seed that differs for every (seed, step, rank); -1 and -2 stand for "all ranks alike"."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + (rank + 2) * 0x94D049BB133111EB) % 2**64
    mixed ^= mixed >> 31  # one round of the splitmix64 finaliser: neighbouring steps get unrelated seeds
    mixed = mixed * 0xBF58476D1CE4E5B9 % 2**64
    return (mixed ^ mixed >> 27) % 2**63
