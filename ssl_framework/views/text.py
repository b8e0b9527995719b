"""Views of texts: one of several wordings of a sample, with words taken out or hidden. Batched, on the device."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

import torch
from annotated_types import Ge, Len
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Count, Natural, PositiveFraction, guarded
from ssl_framework.types import Batch, Samples

PADDING, BEGIN, END, UNKNOWN, MASK = range(5)
"""Tokens that are no words. A text is BEGIN, its words, END, and PADDING to the length that all have."""

SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>", "<mask>")
"""How they are written; a vocabulary begins with them."""


WORDINGS = ("random", "each", "same", "turns", "two", "first")


class Vocabulary:
    """A closed list of words and the tokens that stand for them: the special ones, then the words in their order.

    Args:
        words: without repetition.
        synonyms: word -> others of the list that say the same.
    """

    synonyms: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # of vocabularies that know some

    def __init__(self, words: Sequence[str], synonyms: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> None:
        self.names = [*SPECIAL, *words]
        self.synonyms = dict(synonyms)
        self.number = {word: number for number, word in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, sentences: Sequence[str], length: int) -> Tensor:
        """Words between blanks as tokens with begin and end, padded: [len(sentences), length] int32.

        A word that is not in the list is UNKNOWN. No sentence may be longer than ``length - 2`` words.
        """
        rows = [[BEGIN, *(self.number.get(word, UNKNOWN) for word in text.split()), END] for text in sentences]
        return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows], dtype=torch.int32)

    def decode(self, tokens: Tensor) -> str:
        """One text [L] as words, without begin, end and padding."""
        return " ".join(self.names[token] for token in tokens.tolist() if token not in (PADDING, BEGIN, END))


@guarded
class TextViews(nn.Module):
    """Views of the texts of a sample: each takes one of its K wordings, cuts a piece out of it, and deletes and masks
    words at random. Where nothing is changed, dropout in the network tells views apart (SimCSE, arXiv:2104.08821).

    Args:
        tokens: L, tokens of a text with begin and end; shorter ones are padded. ``None``: the data have no texts, and
            the run is refused when it is built.
        words: what tokens are called where a report shows a text; ``None``: their numbers.
        num_views: V.
        deletion: probability of taking out each word, in [0, 1); at least one is left. Those left keep their order and
            close up.
        masking: probability of hiding each word that is left behind the token MASK, in [0, 1).
        name: the modality.
        wordings: "random": each view draws one of the K wordings; "each": view v is wording v; "turns": wording v mod
            K; "same": one is drawn for all views of a sample, so that they differ by what is done to them alone;
            "first": likewise, but always the first; "two": the first view draws one, and all others another one.
        span: [lo, hi], range of the share of the words that a view keeps, in one piece (Contriever, arXiv:2112.09118,
            section 3.2: independent cropping); at least one word. ``None``: all.
        unchanged: so many first views are a wording as it is.
        alter: what else is done to a view, before words are deleted and masked: tokens [B, L] and a generator ->
            [B, L] (see ``eda``); ``None``: nothing.

    Raises:
        ValueError: a number is out of range, or there is no such choice of wordings.
    """

    channels = None  # no pictures
    crops = None  # which loaders could cut
    raw_name = "raw_input"

    def __init__(
        self,
        tokens: Annotated[int, Ge(3)] | None,
        words: Vocabulary | None = None,
        num_views: Count = 1,
        deletion: BelowOne = 0.0,
        masking: BelowOne = 0.0,
        name: str = "text",
        wordings: str = "random",
        span: Annotated[Sequence[PositiveFraction], Len(2, 2)] | None = None,
        unchanged: Natural = 0,
        alter: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.alter = alter
        if num_views < 1 or (tokens is not None and tokens < 3):
            raise ValueError(
                f"views of texts have num_views={num_views} and tokens={tokens}: at least 1 and 3 are needed"
            )
        for key, value in (("deletion", deletion), ("masking", masking)):
            if not 0 <= value < 1:
                raise ValueError(f"views of texts have {key}={value}: it is a probability, at least 0 and below 1")
        if wordings not in WORDINGS:
            raise ValueError(f"views of texts have wordings={wordings}: choose one of {', '.join(WORDINGS)}")
        if span is not None and not span[0] <= span[1]:
            raise ValueError(f"views of texts have span={list(span)}: give two shares, 0 < lo <= hi <= 1")
        self.span = None if span is None else (span[0], span[1])
        self.wordings = wordings
        self.unchanged = unchanged
        self.tokens = tokens
        self.words = words
        self.num_views = num_views
        self.deletion = deletion
        self.masking = masking
        self.modality = (name,) * num_views

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """Token ids [B, K, L] or [B, L] of any integer dtype -> V x [B, L] int64."""
        raw = samples.inputs
        assert isinstance(raw, Tensor)  # only pictures come as crops
        texts = self.checked(raw[:, None] if raw.ndim == 2 else raw)  # [B, K, L]
        if self.wordings == "each" and texts.shape[1] < self.num_views:
            raise ValueError(
                f"views of texts show {self.num_views} wordings of a sample, one a view, but the data have "
                f"{texts.shape[1]}: choose data=counted_shapes, or set wordings to random"
            )
        if self.wordings == "first":
            texts = texts[:, :1]  # [B, 1, L]
        if self.wordings == "same":
            texts = choose(texts, generator)[:, None]  # [B, 1, L]
        if self.wordings == "two":
            texts = two(texts, generator)  # [B, 2, L]
        named, count = self.wordings in ("each", "turns", "two"), texts.shape[1]
        turn = [min(v, 1) if self.wordings == "two" else v % count for v in range(self.num_views)]
        chosen = (texts[:, turn[v]] if named else choose(texts, generator) for v in range(self.num_views))
        views = [x if v < self.unchanged else self.altered(x, generator) for v, x in enumerate(chosen)]  # V x [B, L]
        return Batch(views, samples.index, samples.label, modality=self.modality)

    def of(self, raw: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Views of plain samples, in a loop of one's own: token ids [B, K, L] -> V x [B, L] int64."""
        index = torch.arange(len(raw), device=raw.device)  # [B]
        return self(Samples(raw, index), generator).views

    def altered(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """[B, L] -> [B, L], a piece of it, with words deleted and masked as drawn."""
        if self.span is not None:
            low, high = self.span
            share, place = (uniform(x[:, 0], generator) for _ in range(2))  # [B] each
            x = piece(x, low + (high - low) * share, place)
        if self.alter is not None:
            x = self.alter(x, generator)
        if self.deletion:
            x = delete(x, uniform(x, generator), self.deletion)
        if self.masking:
            x = torch.where(words(x) & (uniform(x, generator) < self.masking), MASK, x)
        return x

    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        """The text as it is, the first wording of several: [B, L] or [B, K, L] -> [B, L] int64."""
        return self.checked(raw if raw.ndim == 2 else raw[:, 0])

    def raw(self, rows: Tensor) -> Tensor:
        """Bags of words: how often each token stands in the first wording, [n, L] or [n, K, L] -> [n, all tokens]."""
        x = self.clean(rows)  # [n, L]
        counts = torch.zeros(len(x), int(rows.max()) + 1 if self.words is None else len(self.words))  # [n, tokens]
        return counts.scatter_add_(1, x.cpu(), words(x).cpu().to(counts.dtype))

    def example(self, view: int) -> tuple[int, ...]:
        """Shape of a view of one sample."""
        assert self.tokens is not None
        return (self.tokens,)

    def picture(self, view: Tensor, modality: str | None = None) -> str:
        """One text [L] in words."""
        return " ".join(map(str, view.tolist())) if self.words is None else self.words.decode(view)

    def describe(self) -> str:
        """The sentence about preprocessing that results carry."""
        return f"the first wording of each text as it is, {self.tokens} tokens with begin, end and padding"

    def compile_parts(self) -> None:
        """There is nothing worth it."""

    def checked(self, raw: Tensor) -> Tensor:
        """Token ids [..., L] of any integer dtype as int64; a ValueError for anything else."""
        if raw.is_floating_point() or raw.shape[-1] != self.tokens:
            raise ValueError(
                f"views of texts take token ids [B, K, {self.tokens}], but the data gave {raw.dtype} "
                f"{list(raw.shape)}: set data.tokens to the length of its texts"
            )
        return raw.long()


def uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers in [0, 1) of a shape, drawn where the generator lies."""
    where = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, device=where).to(like.device)


def words(x: Tensor) -> Tensor:
    """Where a text has words, known or not, or a mask in the place of one: [B, L] -> [B, L] bool. The first token is
    none: it begins the text, or says of which domain it is."""
    return (x > END).index_fill(1, x.new_zeros(1), False)


def choose(texts: Tensor, generator: torch.Generator | None) -> Tensor:
    """One of the K wordings of each sample, all alike: [B, K, L] -> [B, L]."""
    drawn = (uniform(texts[:, 0, 0], generator) * texts.shape[1]).long()  # [B]
    return texts[torch.arange(len(texts), device=texts.device), drawn.clamp(max=texts.shape[1] - 1)]  # [B, L]


def two(texts: Tensor, generator: torch.Generator | None) -> Tensor:
    """Two different ones of the K wordings of each sample, all pairs alike: [B, K, L] -> [B, 2, L].

    Raises:
        ValueError: K is 1.
    """
    count = texts.shape[1]
    if count < 2:
        raise ValueError(
            "views of texts show two wordings of a sample, but the data have one: choose data=caption_texts, or set "
            "wordings to same"
        )
    first, step = (uniform(texts[:, 0, 0], generator) for _ in range(2))  # [B] each
    first = (first * count).long().clamp(max=count - 1)
    other = (first + 1 + (step * (count - 1)).long().clamp(max=count - 2)) % count  # [B]
    both = torch.stack([first, other], dim=1)  # [B, 2]
    return texts.gather(1, both[..., None].expand(-1, -1, texts.shape[2]))


def delete(x: Tensor, draws: Tensor, share: float) -> Tensor:
    """Takes out the words whose draw is below ``share``, but never all of a text; the others move up in their order.

    Args:
        x: [B, L] token ids.
        draws: [B, L] in [0, 1).
        share: probability of a word.

    Returns:
        [B, L], padded at the end.
    """
    there = words(x)  # [B, L]
    last = draws.masked_fill(~there, -1.0).argmax(dim=1, keepdim=True)  # [B, 1]: the word that goes last stays
    return without(x, (there & (draws < share)).scatter(1, last, False))


def piece(x: Tensor, share: Tensor, place: Tensor) -> Tensor:
    """Keeps words that stand one after another, at least one, between begin and end.

    Args:
        x: [B, L] token ids.
        share: [B] in (0, 1], of the words of a text.
        place: [B] in [0, 1), where the piece begins, of the places where it can.

    Returns:
        [B, L], padded at the end.
    """
    there = words(x)  # [B, L]
    count = there.sum(dim=1)  # [B]
    length = (share * count).round().long().clamp(min=1)  # [B]
    first = (place * (count - length + 1)).long()[:, None]  # [B, 1]
    number = there.cumsum(dim=1) - 1  # [B, L], of each word in its text
    return without(x, there & ((number < first) | (number >= first + length[:, None])))


def without(x: Tensor, gone: Tensor) -> Tensor:
    """Tokens [B, L] without those where ``gone`` [B, L] is true; the others move up, with padding at the end."""
    order = (gone | (x == PADDING)).to(torch.uint8).argsort(dim=1, stable=True)  # [B, L]
    return x.masked_fill(gone, PADDING).gather(1, order)
