"""Random views of sequences of items: crop, mask or reorder (CL4SRec, Xie et al., arXiv:2010.14395, section 3.3).

Each view of a sample takes one of the three, drawn anew. A part is a run of neighbouring items.

B samples, L places; items stand at the end of a row, behind padding.
"""

import math
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from ssl_framework.arguments import Fraction, Natural, Several, guarded
from ssl_framework.types import Batch, Samples

GOLDEN = 0.6180339887
"""Of the circle of colours, from one item to the next."""

SIDE = 12
"""Height of the picture of a sequence; an item is half as wide."""

PADDING = 0
"""The number that stands in front of a shorter sequence; items are 1 to V, and V + 1 hides one."""


@guarded
class SequenceViews(nn.Module):
    """Makes V views of every sequence of a batch.

    Args:
        count: number of views.
        length: L, places of a row.
        items: V of them.
        crop: share of a sequence that is kept when it is cropped, at least one item; ``None``: never.
        mask: share of its items that are hidden; ``None``: never.
        reorder: share of it whose order is drawn anew; ``None``: never.
        untouched: so many first views are the sequence as it is.

    Raises:
        ValueError: a number out of its range.
    """

    channels = None  # no pictures
    crops = None  # which loaders could cut
    raw_name = "raw_input"

    def __init__(
        self,
        count: Annotated[int, Interval(ge=1, le=1024)],
        length: Several,
        items: Several,
        crop: Fraction | None = None,
        mask: Fraction | None = None,
        reorder: Fraction | None = None,
        untouched: Natural = 0,
    ) -> None:
        super().__init__()
        self.num_views = count
        self.length = length
        self.items = items
        self.shares = {cropped: crop, masked: mask, reordered: reorder}
        self.untouched = untouched
        self.modality = ("sequence",) * count

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """[B, L] of any integer dtype -> V x [B, L] int64. A CPU generator draws the same whatever the device."""
        x = self.clean(samples.inputs)  # type: ignore[arg-type]  # [B, L]
        views = [x if v < self.untouched else self.view(x, generator) for v in range(self.num_views)]
        return Batch(views, samples.index, samples.label)

    def of(self, raw: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Views of plain samples, in a loop of one's own: [B, L] -> V x [B, L] int64."""
        return self(Samples(raw, torch.arange(len(raw), device=raw.device)), generator).views

    def view(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """One view of each sequence, [B, L]."""
        where = x.device if generator is None else generator.device
        drawn = torch.rand(3, *x.shape, generator=generator, device=where).to(x.device)  # [3, B, L]
        allowed = [(change, share) for change, share in self.shares.items() if share is not None]
        which = (drawn[0, :, 0] * len(allowed)).long()  # [B]
        found = x
        for number, (change, share) in enumerate(allowed):
            changed = change(x, share, drawn[1, :, 0], drawn[2], self.items + 1)  # [B, L]
            found = torch.where((which == number)[:, None], changed, found)  # [B, L]
        return found

    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        """The sequence as it is: [B, L] int64.

        Raises:
            ValueError: they are of another shape, or no whole numbers.
        """
        if raw.ndim != 2 or raw.shape[1] != self.length or raw.is_floating_point():
            raise ValueError(
                f"views take sequences of {self.length} items, but the data have {raw.dtype} samples of "
                f"{' x '.join(map(str, raw.shape[1:])) or 'one number'}: set views.length to the data's"
            )
        return raw.long()

    def raw(self, rows: Tensor) -> Tensor:
        """How often each item stands in a sequence: [B, L] -> [B, V] float32."""
        x = rows.cpu().long()  # [B, L]
        counts = torch.zeros(len(x), self.items + 1)  # [B, V + 1]
        return counts.scatter_add_(1, x, torch.ones_like(x, dtype=counts.dtype))[:, 1:]

    def example(self, view: int) -> tuple[int, ...]:
        """L."""
        return (self.length,)

    def picture(self, view: Tensor, modality: str | None = None) -> Tensor:
        """The items of one sequence [L] from left to right, a colour each, black where one is hidden: [3, SIDE, w]."""
        item = view.cpu()[:, None]  # [L, 1]
        turn = item * GOLDEN + torch.tensor([0.0, 1 / 3, 2 / 3])  # [L, 3]: items of near numbers look unlike
        colour = 0.5 + 0.45 * torch.cos(2 * math.pi * turn)  # [L, 3]
        colour = torch.where(item == PADDING, 1.0, torch.where(item > self.items, 0.0, colour))
        return colour.T[:, None].expand(-1, SIDE, -1).repeat_interleave(SIDE // 2, dim=2)

    def describe(self) -> str:
        """What ``clean`` does."""
        return f"the last {self.length} items as they are"

    def compile_parts(self) -> None:
        """Nothing: a few operations on small tensors."""


def part(x: Tensor, share: float, draw: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """First place [B, 1] and places [B, 1] of a random part of each sequence [B, L]: floor(share * items) of them."""
    there = (x != PADDING).sum(1)  # [B]
    size = (share * there).long().clamp(min=least).minimum(there)  # [B]
    begin = x.shape[1] - there + (draw * (there - size + 1)).long()  # [B]
    return begin[:, None], size[:, None]


def cropped(x: Tensor, share: float, draw: Tensor, draws: Tensor, hidden: int) -> Tensor:
    """A part alone, at the end of the row: [B, L], a draw [B] in [0, 1) -> [B, L]."""
    begin, size = part(x, share, draw, 1)  # [B, 1] each
    place = torch.arange(x.shape[1], device=x.device)  # [L]
    source = place - (x.shape[1] - begin - size)  # [B, L]
    return x.gather(1, source.clamp(min=0)).masked_fill(source < begin, PADDING)


def masked(x: Tensor, share: float, draw: Tensor, draws: Tensor, hidden: int) -> Tensor:
    """Of n items floor(share * n), those of the least draws [B, L], replaced by ``hidden``: [B, L] -> [B, L]."""
    there = x != PADDING  # [B, L]
    count = (share * there.sum(1, keepdim=True)).long()  # [B, 1]
    rank = draws.masked_fill(~there, 2.0).argsort(1).argsort(1)  # [B, L]
    return x.masked_fill(there & (rank < count), hidden)


def reordered(x: Tensor, share: float, draw: Tensor, draws: Tensor, hidden: int) -> Tensor:
    """The items of a part in the order of their draws [B, L]: [B, L] -> [B, L]."""
    begin, size = part(x, share, draw, 0)  # [B, 1] each
    place = torch.arange(x.shape[1], device=x.device, dtype=torch.float64)  # [L]
    inside = (begin <= place) & (place < begin + size)  # [B, L]
    key = torch.where(inside, begin + draws.double() * size, place)  # [B, L]
    return x.gather(1, key.argsort(dim=1, stable=True))
