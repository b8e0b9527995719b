"""Counted shapes: one to ten small things of one form and colour, and a caption that says how many. No files.

Every caption has a counterfactual: the same words with another number. What is one has none, and gets its own caption
(Paiss et al., Teaching CLIP to Count to Ten, ICCV 2023, arXiv:2302.12066, section 3).

N samples, L tokens a caption, S pixels a side.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Pixels, Seed, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.pairs.captioned_shapes import COLOUR
from ssl_framework.types import step_seed
from ssl_framework.views.text import Vocabulary

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
FORMS = ("disc", "square", "diamond", "ring")
COLOURS = tuple(COLOUR)
LEVELS = ((1.0, 0.1, 0.1), (1.0, 0.9, 0.1), (0.1, 0.8, 0.1), (0.1, 0.9, 0.9), (0.1, 0.2, 1.0), (1.0, 0.1, 0.9))
"""Red, green and blue of each colour."""

TEMPLATES = ("{number} {colour} {form} things", "a picture of {number} {colour} things of {form} form")
PROMPTS: Mapping[str, tuple[str, ...]] = {
    "number": ("{} things", "a picture of {} things"),
    "form": ("things of {} form", "a picture of {} things"),
    "colour": ("{} things", "a picture of {} things"),
}
CLASSES: Mapping[str, tuple[str, ...]] = {"number": NUMBERS, "form": FORMS, "colour": COLOURS}
COLUMNS, ROWS = 4, 3
"""Places of things in a picture, each of which holds one or none."""


class CountVocabulary(Vocabulary):
    """All words of these captions, in alphabetical order."""

    def __init__(self) -> None:
        said = {word for text in (*TEMPLATES, *sum(PROMPTS.values(), ())) for word in text.split() if "{" not in word}
        super().__init__(sorted(said | {name for names in CLASSES.values() for name in names}))


@guarded
class CountedShapes:
    """Draws pictures and captions on first use and keeps them.

    Args:
        num_train, num_test: samples; every number equally often as far as that goes.
        seed: of the drawing.
        image_size: S.
        noise: standard deviation of the pixels' noise, of the full range.
        tokens: L, to which captions and prompts are padded, with begin and end.
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
        longest = 2 + max(len(template.split()) for template in TEMPLATES)
        if tokens < longest:
            raise ValueError(f"data.tokens is {tokens}, but captions have up to {longest}: set it to at least that")
        if image_size < 24:
            raise ValueError(f"data.image_size is {image_size}, too small to count in: set it to at least 24")
        self.count = {"train": num_train, "test": num_test}
        self.seed = seed
        self.image_size = image_size
        self.noise = noise
        self.tokens = tokens
        self.words = words
        self.drawn: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, 3, S, S] uint8; beside them "text" [N, 2, L] int32, the caption and its counterfactual. The label is the
        number less one; ``numbers`` and ``prompts`` have number, form and colour. ValueError for an unknown split."""
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.drawn:
            self.drawn[name] = self.draw(self.count[name], step_seed(self.seed, 30 + (name == "test")))
        return self.drawn[name]

    def draw(self, count: int, seed: int) -> Split:
        """``count`` samples, a function of the seed."""
        draws = torch.Generator().manual_seed(seed)
        factors = {"number": torch.arange(count) % len(NUMBERS)}  # [N]
        factors |= {
            factor: torch.randint(len(CLASSES[factor]), (count,), generator=draws) for factor in ("form", "colour")
        }
        template = torch.randint(len(TEMPLATES), (count,), generator=draws)  # [N]
        steps = torch.randint(1, len(NUMBERS) - 1, (count,), generator=draws)  # [N]
        number = factors["number"]
        other = torch.where(number > 0, 1 + (number - 1 + steps) % (len(NUMBERS) - 1), number)  # [N], never "one"
        texts = [self.captions({**factors, "number": each}, template) for each in (number, other)]  # 2 x [N, L]
        return Split(
            self.pictures(factors, draws),
            number,
            NUMBERS,
            beside={"text": torch.stack(texts, dim=1)},
            prompts={factor: self.prompts(factor) for factor in CLASSES},
            numbers=factors,
            swapped={"number": texts[1]},
            named={
                factor: self.words.encode(names, 3)[:, 1:2, None].long()  # [classes, 1, 1]
                for factor, names in CLASSES.items()
            },
        )

    def captions(self, factors: Mapping[str, Tensor], template: Tensor) -> Tensor:
        """[N, L] int32."""
        rows = zip(*(factors[factor].tolist() for factor in CLASSES), template.tolist(), strict=True)
        said = [
            TEMPLATES[t].format(number=NUMBERS[number], form=FORMS[form], colour=COLOURS[colour])
            for number, form, colour, t in rows
        ]
        return self.words.encode(said, self.tokens)

    def prompts(self, factor: str) -> Tensor:
        """Ways to name each class of a factor: [classes, P, L] int32."""
        said = [prompt.format(name) for name in CLASSES[factor] for prompt in PROMPTS[factor]]
        return self.words.encode(said, self.tokens).unflatten(0, (len(CLASSES[factor]), -1))

    def pictures(self, factors: Mapping[str, Tensor], draws: torch.Generator) -> Tensor:
        """Things in places drawn without repetition, on a grey ground of any level: [N, 3, S, S] uint8."""
        count, side = len(factors["number"]), self.image_size
        places = torch.rand(count, COLUMNS * ROWS, generator=draws).argsort(dim=1).argsort(dim=1)  # [N, places]
        there = places <= factors["number"][:, None]  # [N, places]: as many as the number says
        at = torch.arange(COLUMNS * ROWS)
        middle = torch.stack([(at % COLUMNS + 0.5) / COLUMNS, (at // COLUMNS + 0.5) / ROWS], dim=1)  # [places, 2]
        shift = (torch.rand(count, COLUMNS * ROWS, 2, generator=draws) - 0.5) / 24  # [N, places, 2]
        radius = side * (0.065 + 0.02 * torch.rand(count, 1, 1, 1, generator=draws))  # [N, 1, 1, 1]
        pixel = torch.arange(side) + 0.5  # [S]
        centre = side * (middle + shift)  # [N, places, 2]
        parts = [torch.arange(first, min(first + 250, count)) for first in range(0, count, 250)]
        ink = torch.cat(
            [inked(factors["form"][part], there[part], centre[part], radius[part], pixel) for part in parts]
        )  # [N, 1, S, S]
        ground = 0.3 + 0.4 * torch.rand(count, 1, 1, 1, generator=draws)  # [N, 1, 1, 1]
        level = torch.tensor(LEVELS)[factors["colour"]][:, :, None, None]  # [N, 3, 1, 1]
        noise = self.noise * torch.randn(count, 3, side, side, generator=draws)  # [N, 3, S, S]
        return ((torch.where(ink, level, ground) + noise).clamp(0, 1) * 255).round().to(torch.uint8)  # [N, 3, S, S]


def inked(form: Tensor, there: Tensor, centre: Tensor, radius: Tensor, pixel: Tensor) -> Tensor:
    """Where pictures have things.

    Args:
        form: [n] int64.
        there: [n, places] bool.
        centre: [n, places, 2] x and y, pixels.
        radius: [n, 1, 1, 1] pixels.
        pixel: [S] middles of pixels.

    Returns:
        [n, 1, S, S] bool.
    """
    x = pixel[None, None, None] - centre[..., 0][..., None, None]  # [n, places, 1, S]
    y = pixel[None, None, :, None] - centre[..., 1][..., None, None]  # [n, places, S, 1]
    away = (x.square() + y.square()).sqrt()  # [n, places, S, S]
    square = 1.1 * torch.maximum(x.abs(), y.abs())  # [n, places, S, S]
    ring = (away - 0.72 * radius).abs() + 0.72 * radius  # [n, places, S, S]
    far = torch.stack([away, square, x.abs() + y.abs(), ring])  # [forms, n, places, S, S]
    own = far[form, torch.arange(len(form))]  # [n, places, S, S]
    return ((own < radius) & there[:, :, None, None]).any(dim=1)[:, None]  # [n, 1, S, S]
