"""EDA: Wei and Zou, EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks,
EMNLP-IJCNLP 2019 (arXiv:1901.11196), section 2. Batched, on the device.

B texts, L tokens of a text, S synonyms of a word.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssl_framework.arguments import OpenFraction, guarded
from ssl_framework.views.text import PADDING, Vocabulary, delete, uniform, words


@guarded
class EDA(nn.Module):
    """One of four changes of a text, all alike likely, of ``max(1, round(alpha * words))`` words: synonyms take the
    place of words, synonyms of words are put in anywhere, pairs of words change places; or each word is left out with
    probability alpha.

    Words without a synonym are never replaced, as stop words in the paper. A text that fills all its tokens gets none
    put in.

    Args:
        alpha: share of the words.
        words: of the data; ``None``: the data have no texts, and the run is refused when it is built.

    Raises:
        ValueError: the words have no synonyms.
    """

    table: Tensor  # [all tokens, S] int64, 0 behind a token's last synonym

    def __init__(self, alpha: OpenFraction, words: Vocabulary | None) -> None:
        super().__init__()
        names, synonyms = ([], {"": ()}) if words is None else (words.names, words.synonyms)
        if not synonyms:
            raise ValueError(
                "EDA replaces words by synonyms, but those of the data have none: choose data=caption_texts, or "
                "views=text"
            )
        self.alpha = alpha
        self.register_buffer("table", synonyms_of(names, synonyms), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, L] int64 -> [B, L]"""
        count = (self.alpha * words(x).sum(dim=1)).round().long().clamp(min=1)  # [B]
        most = max(1, round(self.alpha * x.shape[1]))
        replaced = self.replace(x, count, uniform(x, generator), uniform(x, generator))
        inserted, swapped = x, x
        for number in range(most):
            more = (number < count)[:, None]  # [B, 1]
            draws = [uniform(x, generator) for _ in range(3)]  # 3 x [B, L]
            inserted = torch.where(more, self.insert(inserted, draws[0], draws[1]), inserted)
            swapped = torch.where(more, swap(swapped, draws[2]), swapped)
        done = torch.stack([replaced, inserted, swapped, delete(x, uniform(x, generator), self.alpha)])  # [4, B, L]
        which = (4 * uniform(x[:, 0], generator)).long().clamp(max=3)  # [B]
        return done[which, torch.arange(len(x), device=x.device)]  # [B, L]

    def replace(self, x: Tensor, count: Tensor, draws: Tensor, choice: Tensor) -> Tensor:
        """Synonyms in the place of the ``count`` [B] words of the greatest draws, which of them by ``choice``: all
        [B, L] -> [B, L]."""
        known = self.known(x)  # [B, L]
        place = draws.masked_fill(~known, -1.0).argsort(dim=1, descending=True).argsort(dim=1)  # [B, L]
        return torch.where(known & (place < count[:, None]), self.synonym(x, choice), x)

    def insert(self, x: Tensor, draws: Tensor, choice: Tensor) -> Tensor:
        """One more word in each text that has room and a word with a synonym: a synonym of that of the greatest draw,
        which of them and where by ``choice``: all [B, L] -> [B, L]."""
        known = self.known(x)  # [B, L]
        source = draws.masked_fill(~known, -1.0).argmax(dim=1, keepdim=True)  # [B, 1]
        word = self.synonym(x, choice).gather(1, source)  # [B, 1]
        last = words(x).sum(dim=1, keepdim=True) + 1  # [B, 1], where the end stands
        place = 1 + (choice[:, :1] * last).long().clamp(max=last - 1)  # [B, 1] in 1..last
        at = torch.arange(x.shape[1], device=x.device).expand_as(x)  # [B, L]
        longer = x.gather(1, (at - (at > place).long()).clamp(min=0)).scatter(1, place, word)  # [B, L]
        room = known.any(dim=1, keepdim=True) & (x[:, -1:] == PADDING)  # [B, 1]
        return torch.where(room, longer, x)

    def known(self, x: Tensor) -> Tensor:
        """Where words have synonyms: [B, L] -> [B, L] bool."""
        return self.table[x, 0] > 0

    def synonym(self, x: Tensor, choice: Tensor) -> Tensor:
        """A synonym of every token, by draws in [0, 1); 0 where there is none: [B, L] each -> [B, L]."""
        own = self.table[x]  # [B, L, S]
        number = (choice * (own > 0).sum(dim=2)).long()  # [B, L]
        return own.gather(2, number.clamp(max=own.shape[2] - 1)[..., None])[..., 0]  # [B, L]


def swap(x: Tensor, draws: Tensor) -> Tensor:
    """The two words of the greatest draws change places; a text of one word stays: [B, L] each -> [B, L]."""
    there = words(x)  # [B, L]
    two = draws.masked_fill(~there, -1.0).topk(2, dim=1).indices  # [B, 2]
    changed = x.scatter(1, two, x.gather(1, two.flip(1)))  # [B, L]
    return torch.where(there.sum(dim=1, keepdim=True) > 1, changed, x)


def synonyms_of(names: list[str], synonyms: Mapping[str, tuple[str, ...]]) -> Tensor:
    """The tokens of every token's synonyms: [len(names), S] int64, 0 behind the last."""
    number = {name: place for place, name in enumerate(names)}
    table = torch.zeros(len(names), max(map(len, synonyms.values())), dtype=torch.int64)  # [tokens, S]
    for word, others in synonyms.items():
        if not others:
            continue
        table[number[word], : len(others)] = torch.tensor([number[other] for other in others])
    return table
