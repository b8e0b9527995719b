"""Region shapes: two to four things, each of its own form and colour, the box of each and what is in it. No files.

A picture's caption lists its things, so which of them stands in which box is said by the captions of the boxes alone.

N samples, K boxes of each, L tokens a text, S pixels a side.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Pixels, Seed, guarded
from ssl_framework.data.base import Drawn, Regions, Split
from ssl_framework.data.pairs.counted_shapes import COLOURS, FORMS, LEVELS, inked
from ssl_framework.views.text import Vocabulary

CLASSES: Mapping[str, tuple[str, ...]] = {"form": FORMS, "colour": COLOURS}
THINGS = tuple(f"a {colour} {form}" for form in FORMS for colour in COLOURS)
NUMBERS = ("two", "three", "four")
SIDE = 3
"""Rows and columns of places, each of which holds one thing or none."""


class RegionVocabulary(Vocabulary):
    """All words of these captions, in alphabetical order."""

    def __init__(self) -> None:
        super().__init__(sorted({"a", "and", *FORMS, *COLOURS}))


@guarded
class RegionShapes(Drawn):
    """Draws pictures, boxes and captions on first use and keeps them.

    Args:
        num_train, num_test: samples; every number of things equally often as far as that goes.
        seed: of the drawing.
        image_size: S.
        noise: standard deviation of the pixels' noise, of the full range.
        tokens: L, to which texts are padded, with begin and end.
        words: what the tokens stand for.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        seed: Seed,
        image_size: Pixels,
        noise: NonNegative,
        tokens: Count,
        words: Vocabulary,
    ) -> None:
        super().__init__(num_train, num_test, seed)
        longest = 2 + 4 * (1 + len(NUMBERS)) - 1
        if tokens < longest:
            raise ValueError(f"data.tokens is {tokens}, but captions have up to {longest}: set it to at least that")
        if image_size < 24:
            raise ValueError(f"data.image_size is {image_size}, too small to tell forms: set it to at least 24")
        self.image_size = image_size
        self.noise = noise
        self.tokens = tokens
        self.words = words

    def draw(self, count: int, seed: int) -> Split:
        """Pictures [N, 3, S, S] uint8; beside them "text" [N, 1, L] int32, "boxes" [N, K, 4] float32, empty where a
        picture has fewer, and "region_text" [N, K, L] int32, without a word there. The label is the number of things
        less two; ``regions`` knows form, colour and both, "thing"; pictures of the same things are of one group."""
        draws = torch.Generator().manual_seed(seed)
        number, most = torch.arange(count) % len(NUMBERS), 1 + len(NUMBERS)  # [N]
        kinds = {name: torch.randint(len(each), (count, most), generator=draws) for name, each in CLASSES.items()}
        there = torch.arange(most) < 2 + number[:, None]  # [N, K]
        place = torch.rand(count, SIDE**2, generator=draws).argsort(dim=1)[:, :most]  # [N, K]
        shift = (torch.rand(count, most, 2, generator=draws) - 0.5) / 30  # [N, K, 2]
        centre = (torch.stack([place % SIDE, place // SIDE], dim=2) + 0.5) / SIDE + shift  # [N, K, 2]
        radius = 0.1 + 0.05 * torch.rand(count, most, generator=draws)  # [N, K]; neighbours never meet
        reach = radius[..., None]  # [N, K, 1]
        boxes = torch.cat([centre - reach, centre + reach], dim=2) * there[..., None]  # [N, K, 4]
        numbers = {**kinds, "thing": kinds["form"] * len(COLOURS) + kinds["colour"]}
        numbers = {name: x.masked_fill(~there, -1) for name, x in numbers.items()}  # [N, K] each
        group = numbers["thing"].sort(dim=1).values.unique(dim=0, return_inverse=True)[1]  # [N]
        said = [[THINGS[t] if t >= 0 else "" for t in row] for row in numbers["thing"].tolist()]  # N x K
        captions = self.words.encode([" and ".join(filter(None, row)) for row in said], self.tokens)  # [N, L]
        texts = self.words.encode([text for row in said for text in row], self.tokens)  # [N * K, L]
        beside = {"text": captions[:, None], "boxes": boxes, "region_text": texts.unflatten(0, (count, most))}
        return Split(
            self.pictures(kinds, there, centre, radius, draws),
            number,
            NUMBERS,
            beside=beside,
            numbers={"group": group},
            regions=Regions(boxes, numbers, self.prompts()),
        )

    def prompts(self) -> dict[str, Tensor]:
        """Factor -> [classes, P, L] int32: a form is named in every colour and a colour of every form."""
        each = self.words.encode(THINGS, self.tokens)  # [things, L]
        table = each.unflatten(0, (len(FORMS), len(COLOURS)))  # [forms, colours, L]
        return {"form": table, "colour": table.transpose(0, 1).contiguous(), "thing": each[:, None]}

    def pictures(
        self, kinds: Mapping[str, Tensor], there: Tensor, centre: Tensor, radius: Tensor, draws: torch.Generator
    ) -> Tensor:
        """Things on a grey ground of any level: [N, 3, S, S] uint8.

        Args:
            kinds: form and colour, [N, K] each.
            there: [N, K] bool.
            centre, radius: [N, K, 2] and [N, K], fractions of the picture.
            draws: gives ground and noise.
        """
        count, side = len(there), self.image_size
        found = 0.3 + 0.4 * torch.rand(count, 1, 1, 1, generator=draws).expand(-1, 3, side, side)  # [N, 3, S, S]
        pixel = torch.arange(side) + 0.5  # [S]
        for k in range(there.shape[1]):
            own = slice(k, k + 1)
            size = side * radius[:, own, None, None]  # [N, 1, 1, 1]
            ink = inked(kinds["form"][:, k], there[:, own], side * centre[:, own], size, pixel)  # [N, 1, S, S]
            found = torch.where(ink, torch.tensor(LEVELS)[kinds["colour"][:, k]][:, :, None, None], found)
        noise = self.noise * torch.randn(count, 3, side, side, generator=draws)  # [N, 3, S, S]
        return ((found + noise).clamp(0, 1) * 255).round().to(torch.uint8)  # [N, 3, S, S]
