"""Views of texts: one of several wordings of a sample, with words taken out or hidden. Batched, on the device."""

import torch
from torch import Tensor, nn

from ssl_framework.types import Batch, Samples

PADDING, BEGIN, END, UNKNOWN, MASK = range(5)
"""Tokens that are no words. A text is BEGIN, its words, END, and PADDING to the length that all have."""

SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>", "<mask>")
"""How they are written; a vocabulary begins with them."""


class TextViews(nn.Module):
    """Views of the texts of a sample: each draws one of its K wordings, then deletes and masks words at random.

    Args:
        name: the modality. Where the samples' main inputs are no texts, they stand beside them under this name.
        num_views: V.
        tokens: L, tokens of a text with begin and end; shorter ones are padded.
        deletion: probability of taking out each word, in [0, 1); at least one is left. Those left keep their order and
            close up.
        masking: probability of hiding each word that is left behind the token MASK, in [0, 1).

    Raises:
        ValueError: a number is out of range.
    """

    channels = None  # no pictures
    crops = None  # which loaders could cut

    def __init__(
        self, tokens: int, num_views: int = 1, deletion: float = 0.0, masking: float = 0.0, name: str = "text"
    ) -> None:
        super().__init__()
        if tokens < 3 or num_views < 1:
            raise ValueError(
                f"views of texts have tokens={tokens} and num_views={num_views}: at least 3 and 1 are needed"
            )
        for key, value in (("deletion", deletion), ("masking", masking)):
            if not 0 <= value < 1:
                raise ValueError(f"views of texts have {key}={value}: it is a probability, at least 0 and below 1")
        self.name = name
        self.tokens = tokens
        self.num_views = num_views
        self.deletion = deletion
        self.masking = masking
        self.modality = (name,) * num_views

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """Token ids [B, K, L] or [B, L] of any integer dtype -> V x [B, L] int64."""
        texts = self.texts_of(samples)  # [B, K, L]
        views = [self.altered(choose(texts, generator), generator) for _ in range(self.num_views)]  # V x [B, L]
        return Batch(views, samples.index, samples.label, modality=self.modality)

    def texts_of(self, samples: Samples) -> Tensor:
        """The texts [B, K, L] int64 of these samples, which are their main input or stand beside it."""
        raw = samples.inputs if samples.beside is None else samples.beside.get(self.name, samples.inputs)
        assert isinstance(raw, Tensor)
        return self.checked(raw[:, None] if raw.ndim == 2 else raw)

    def altered(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """[B, L] -> [B, L] with words deleted and masked as drawn."""
        if self.deletion:
            x = delete(x, uniform(x, generator), self.deletion)
        if self.masking:
            x = torch.where(words(x) & (uniform(x, generator) < self.masking), MASK, x)
        return x

    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        """The text as it is, the first wording of several: [B, L] or [B, K, L] -> [B, L] int64."""
        return self.checked(raw if raw.ndim == 2 else raw[:, 0])

    def raw(self, rows: Tensor) -> Tensor:
        """Bags of words: how often each token stands in the first wording: [n, L] or [n, K, L] -> [n, largest + 1]."""
        x = self.clean(rows)  # [n, L]
        counts = torch.zeros(len(x), int(rows.max()) + 1)
        return counts.scatter_add_(1, x.cpu(), words(x).cpu().to(counts.dtype))

    def example(self, view: int) -> tuple[int, ...]:
        """Shape of a view of one sample."""
        return (self.tokens,)

    def describe(self) -> str:
        """The sentence about preprocessing that results carry."""
        return f"the first wording of each text as it is, {self.tokens} tokens with begin, end and padding"

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
    """Where a text has words, known or not, or a mask in the place of one: [B, L] -> [B, L] bool."""
    return x > END


def choose(texts: Tensor, generator: torch.Generator | None) -> Tensor:
    """One of the K wordings of each sample, all alike: [B, K, L] -> [B, L]."""
    drawn = (uniform(texts[:, 0, 0], generator) * texts.shape[1]).long()  # [B]
    return texts[torch.arange(len(texts), device=texts.device), drawn.clamp(max=texts.shape[1] - 1)]  # [B, L]


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
    gone = (there & (draws < share)).scatter(1, last, False)  # [B, L]
    order = (gone | (x == PADDING)).to(torch.uint8).argsort(dim=1, stable=True)  # [B, L]
    return x.masked_fill(gone, PADDING).gather(1, order)
