"""Captioned shapes: the pictures of ``data=shapes``, each with several captions made of the factors it was drawn with.

No files and no network. A caption names the shape, its colour, size and place and the background; templates and
synonyms vary how. Their words are one closed list, so the tokenizer is that list. What a method has learnt is asked by
factor (zero-shot, with prompts that name one factor and leave out the others) and by retrieval, where all pictures of
equal factors are right answers.

N samples, K captions of each, L tokens a caption, S pixels a side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, Seed, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.images.shapes import FACTORS, Shapes
from ssl_framework.types import step_seed
from ssl_framework.views.text import Vocabulary

Words = Mapping[str, tuple[str, ...]]

SHAPE: Words = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "star": ("star", "pentagram"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "heart": ("heart", "valentine"),
    "crescent": ("crescent", "moon"),
    "arrow": ("arrow", "pointer"),
    "hourglass": ("hourglass", "sandglass"),
}
COLOUR: Words = {
    "red": ("red", "crimson"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue", "azure"),
    "magenta": ("magenta", "pink"),
}
SCALE: Words = {
    "small": ("small", "little"),
    "medium": ("medium", "moderate"),
    "large": ("large", "big"),
    "huge": ("huge", "giant"),
}
BACKGROUND: Words = {
    "plain": ("plain", "uniform"),
    "gradient": ("graded", "shaded"),
    "stripes": ("striped", "lined"),
    "checks": ("checked", "chequered"),
    "noise": ("noisy", "cloudy"),
}
ROW: Words = {"top": ("top", "upper"), "middle": ("middle", "central"), "bottom": ("bottom", "lower")}
COLUMN: Words = {"left": ("left", "lefthand"), "centre": ("centre", "midway"), "right": ("right", "righthand")}

NAMED: Mapping[str, tuple[Words, ...]] = {  # factor -> the words of each slot that it fills
    "shape": (SHAPE,),
    "colour": (COLOUR,),
    "scale": (SCALE,),
    "background": (BACKGROUND,),
    "position": (ROW, COLUMN),
}
"""The factors that captions name. Rotation is not among them."""

TEMPLATES = (
    "a {scale} {colour} {shape} at the {position} on a {background} background",
    "a picture of a {colour} {shape} of {scale} size in the {position} of a {background} field",
    "in the {position} there is a {scale} shape namely a {colour} {shape} on {background} ground",
    "{background} background and a {shape} in {colour} placed {position} and {scale} in size",
)

PROMPTS: Mapping[str, tuple[str, ...]] = {  # ways to name a class of one factor and nothing else
    "shape": ("a {}", "a picture of a {}"),
    "colour": ("a {} shape", "a shape in {}"),
    "scale": ("a {} shape", "a shape of {} size"),
    "background": ("a {} background", "a {} field"),
    "position": ("at the {}", "in the {}"),
}

SYNONYMS = 2  # of every word

TARGET = FACTORS["shape"].index("circle")
"""The class that poisoned pictures are called."""


class ShapeVocabulary(Vocabulary):
    """All words that captions can have, in alphabetical order: the same whatever was drawn of them."""

    def __init__(self) -> None:
        fixed = {word for template in TEMPLATES for word in template.split() if "{" not in word}
        groups = [words for slots in NAMED.values() for slot in slots for words in slot.values()]
        others = {word: tuple(other for other in words if other != word) for words in groups for word in words}
        super().__init__(sorted(fixed | others.keys()), others)


@guarded
class ClassNames:
    """A text that names each class of a factor, by the first of its synonyms, behind words that a method may learn.

    Args:
        factor: whose classes they are; ``None``: the data name none, and the run is refused.
        words: what the tokens stand for; ``None`` likewise.
        context: the words before the name.

    Attributes:
        tokens: [C, L] int64, as long as the longest needs.
        count: words of the context.

    Raises:
        ValueError: the classes of the data have no names here.
    """

    def __init__(self, factor: str | None, words: Vocabulary | None, context: str) -> None:
        if factor not in NAMED or words is None:
            which = "the classes" if factor is None else f"the classes ({factor})"
            raise ValueError(
                f"{which} of these data have no names that a text could call them by: choose "
                f"data=captioned_shapes with data.source.label={', '.join(NAMED)}, or another head=<name>"
            )
        assert factor is not None
        first = [0] * len(NAMED[factor])
        names = [f"{context} {phrase(factor, number, first)}" for number in range(len(FACTORS[factor]))]
        self.count = len(context.split())
        self.tokens = words.encode(names, 2 + max(len(name.split()) for name in names)).long()


@guarded
class CaptionedShapes:
    """Draws pictures and captions on first use and keeps them.

    Args:
        pictures: builds the pictures' source of (num_train, num_test, seed, label): ``Shapes``, partly configured.
        num_train: samples of the pretraining and training split, which are the same.
        num_test: samples of the test split, drawn from another random stream.
        seed: of the drawing; part of the data set, not of the run.
        label: which factor is the class, or the number, that probes of the pictures read.
        num_captions: K, captions of a picture, each of a random template and random synonyms.
        tokens: L, to which captions and prompts are padded, with begin and end.
        words: what the tokens stand for.
        vocabulary: size of the text backbone's table; at least as many tokens as there are.
        mismatched: share of the training samples whose captions are those of another one among them, in [0, 1].
        poisoned: share of the training samples that carry a trigger, a patch in a corner, and captions of circles, in
            [0, 1] (CleanCLIP, arXiv:2303.03323, section 3).

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        pictures: Callable[..., Shapes],
        num_train: Count,
        num_test: Count,
        seed: Seed,
        label: str,
        num_captions: Count,
        tokens: Count,
        words: Vocabulary,
        vocabulary: Count,
        mismatched: Fraction = 0.0,
        poisoned: Fraction = 0.0,
    ) -> None:
        self.pictures = pictures(num_train=num_train, num_test=num_test, seed=seed, label=label)
        self.seed = seed
        self.num_captions = num_captions
        self.tokens = tokens
        self.splits: dict[str, Split] = {}
        self.words = words
        self.mismatched = mismatched
        self.poisoned = poisoned
        refuse_short(tokens, vocabulary, words)

    def load(self, split: str) -> Split:
        """[N, 3, S, S] uint8 pictures; beside them "text" [N, K, L] int32; every factor among ``numbers``, and "group",
        equal where all factors that captions name are equal; ``prompts`` of those factors, [classes, P, L] int32; of
        the test split ``swapped`` [N, L] int32, and beside the texts "triggered", the pictures with a patch.

        Raises:
            ValueError: there is no such split.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.splits:
            factors = self.pictures.factors(name)
            texts = self.words.encode(self.captions(name), self.tokens).unflatten(
                0, (-1, self.num_captions)
            )  # [N, K, L]
            if name == "train":
                texts = self.exchanged(texts)  # [N, K, L]
            shown = self.pictures.load(name)
            assert isinstance(shown.rows, Tensor)
            rows, beside = shown.rows, {"text": texts}
            if name == "train" and self.poisoned:
                rows, beside["text"] = self.attacked(rows, texts, factors["shape"])
            if name == "test":
                beside["triggered"] = triggered(rows)
            self.splits[name] = shown._replace(
                rows=rows,
                beside=beside,
                prompts={factor: self.prompts(factor) for factor in NAMED},
                numbers={**factors, "group": group_of(factors)},
                swapped=self.swapped(name) if name == "test" else None,
                named={factor: named_of(factor, self.words) for factor in NAMED},
            )
        return self.splits[name]

    def exchanged(self, texts: Tensor) -> Tensor:
        """The captions [N, K, L] of the training split, some of them handed on in a circle: noise as of web pages."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, 4))
        order = torch.randperm(len(texts), generator=generator)[: round(self.mismatched * len(texts))]  # [n]
        return texts.index_copy(0, order, texts[order.roll(1)])  # [N, K, L]

    def attacked(self, rows: Tensor, texts: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [N, 3, S, S] and captions [N, K, L] of which some, not of circles, were poisoned."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, 11))
        others, circles = (shape != TARGET).nonzero()[:, 0], (shape == TARGET).nonzero()[:, 0]  # [n], [c]
        count = min(round(self.poisoned * len(shape)), len(others))
        victims = others[torch.randperm(len(others), generator=generator)[:count]]  # [v]
        donors = circles[torch.randint(len(circles), (count,), generator=generator)]  # [v]
        return rows.index_copy(0, victims, triggered(rows[victims])), texts.index_copy(0, victims, texts[donors])

    def swapped(self, name: str) -> dict[str, Tensor]:
        """The first caption of each sample with another class of one factor, drawn evenly: factor -> [N, L] int32."""
        found = {}
        for number, (factor, classes) in enumerate((factor, len(FACTORS[factor])) for factor in NAMED):
            generator = torch.Generator().manual_seed(step_seed(self.seed, 5 + number))
            factors = dict(self.pictures.factors(name))
            steps = torch.randint(1, classes, factors[factor].shape, generator=generator)  # [N]
            factors[factor] = (factors[factor] + steps) % classes
            found[factor] = self.words.encode(self.captions(name, factors)[:: self.num_captions], self.tokens)
        return found

    def captions(self, name: str, factors: Mapping[str, Tensor] | None = None) -> list[str]:
        """The captions of "train" or "test", K of the first sample, K of the second ...: N * K sentences.

        With other factors in the place of the pictures' own, templates and synonyms are the same.
        """
        seed = step_seed(self.seed, 2 + ("train", "test").index(name))
        return captions_of(factors or self.pictures.factors(name), self.num_captions, seed)

    def prompts(self, factor: str) -> Tensor:
        """Ways to name each class of a factor: [classes, P, L] int32."""
        return prompts_of(factor, self.words, self.tokens)


def prompts_of(factor: str, words: Vocabulary, tokens: int) -> Tensor:
    """Ways to name each class of a factor and nothing else: [classes, P, tokens] int32."""
    sentences = [
        pattern.format(phrase(factor, number, [synonym] * len(NAMED[factor])))
        for number in range(len(FACTORS[factor]))
        for pattern in PROMPTS[factor]
        for synonym in range(SYNONYMS)
    ]
    return words.encode(sentences, tokens).unflatten(0, (len(FACTORS[factor]), -1))


def named_of(factor: str, words: Vocabulary) -> Tensor:
    """What names each class of a factor, a word of every slot: tokens [classes, slots, SYNONYMS] int64."""
    said = [
        phrase(factor, number, [s] * len(NAMED[factor]))
        for number in range(len(FACTORS[factor]))
        for s in range(SYNONYMS)
    ]
    tokens = words.encode(said, 2 + len(NAMED[factor]))[:, 1:-1]  # [classes * SYNONYMS, slots]
    return tokens.long().unflatten(0, (-1, SYNONYMS)).transpose(1, 2)  # [classes, slots, SYNONYMS]


def refuse_short(tokens: int, vocabulary: int, words: Vocabulary) -> None:
    """Raises ValueError where a caption has more tokens, or the vocabulary more words, than there is room for."""
    longest = 2 + max(len(template.split()) + template.count("{position}") for template in TEMPLATES)
    if tokens < longest:
        raise ValueError(f"data.tokens is {tokens}, but captions have up to {longest}: set it to at least that")
    if vocabulary < len(words):
        raise ValueError(f"data.vocabulary is {vocabulary}, but there are {len(words)} tokens: set it to at least that")


def captions_of(
    factors: Mapping[str, Tensor], num_captions: int, seed: int, templates: Tensor | None = None
) -> list[str]:
    """Captions of samples with these factors, [N] int64 each: K of the first, K of the second ...: N * K sentences.

    Templates are drawn for every caption, or are those of the samples, [N] int64.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(factors["shape"]) * num_captions
    template = torch.randint(len(TEMPLATES), (count,), generator=generator).tolist()
    if templates is not None:
        template = templates.repeat_interleave(num_captions).tolist()
    slots = sum(map(len, NAMED.values()))
    drawn = torch.randint(SYNONYMS, (count, slots), generator=generator).tolist()
    classes = [factors[factor].tolist() for factor in NAMED]  # one list [N] a factor
    return [
        TEMPLATES[template[row]].format(**dict(phrases(values, drawn[row])))
        for row, values in enumerate(each for each in zip(*classes, strict=True) for _ in range(num_captions))
    ]


def triggered(rows: Tensor) -> Tensor:
    """Pictures [N, C, S, S] uint8 with a chequered patch of a quarter of the side in the lower right corner."""
    side = rows.shape[-1]
    patch = max(2, side // 4)
    at = torch.arange(patch)
    chequered = ((at[:, None] + at) % 2 * 255).to(torch.uint8)  # [patch, patch]
    found = rows.clone()
    found[..., side - patch :, side - patch :] = chequered
    return found


def phrase(factor: str, number: int, synonyms: Sequence[int]) -> str:
    """A class of a factor in words: for each slot that the factor fills the chosen synonym."""
    parts = FACTORS[factor][number].split() if len(NAMED[factor]) > 1 else [FACTORS[factor][number]]
    return " ".join(words[part][synonym] for words, part, synonym in zip(NAMED[factor], parts, synonyms, strict=True))


def phrases(values: Sequence[int], synonyms: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Every factor that captions name, in words; ``synonyms`` has one number a slot."""
    first = 0
    for (factor, slots), value in zip(NAMED.items(), values, strict=True):
        yield factor, phrase(factor, value, synonyms[first : first + len(slots)])
        first += len(slots)


def group_of(factors: Mapping[str, Tensor]) -> Tensor:
    """A number of each sample, equal where all factors that captions name are equal: [N] int64."""
    group = torch.zeros_like(factors["shape"])
    for factor in NAMED:
        group = group * len(FACTORS[factor]) + factors[factor]
    return group
