"""Texts as they are found, as token ids: what ``data=text_files`` and ``data=docstrings`` share.

N samples, K texts of each, L tokens a text.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from ssl_framework.arguments import Count, guarded
from ssl_framework.data.base import Graded, Split, check_split
from ssl_framework.data.pairs.captions import labelled
from ssl_framework.views.text import Vocabulary


class Said(NamedTuple):
    """A sample."""

    texts: tuple[str, ...]  # one or more, each with something in it
    label: str = ""  # name of its class; "" for none
    split: str = ""  # train, val or test; "" where nothing says it
    score: float | None = None  # how alike its first two texts are, by somebody's judgement


class Texts(Protocol):
    """Where they come from."""

    def splits(self) -> Mapping[str, Sequence[Said]]:
        """Those of "train" and "test", in an order that does not change; the same object when called again."""
        ...


@guarded
class WordedTexts:
    """Token ids of texts, made on first use.

    Args:
        texts: where they come from.
        words: what the tokens stand for.
        tokens: L; a shorter text is padded, a longer one cut off.
        vocabulary: size of the backbone's table; at least as many tokens as there are.
    """

    def __init__(self, texts: Texts, words: Vocabulary, tokens: Count, vocabulary: Count) -> None:
        self.texts = texts
        self.words = words
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, K, L] int32, K the most texts that a sample has: one with fewer repeats them. ``numbers`` has "group",
        equal where the first texts are; where the texts are scored, ``graded`` has every sample's first two, and
        where all are and none has a class, the scores are the labels.

        Raises:
            FileNotFoundError: the texts are not there.
            ValueError: they cannot be read.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.loaded:
            if self.vocabulary < len(self.words):
                raise ValueError(
                    f"data.vocabulary is {self.vocabulary}, but there are {len(self.words)} tokens: raise it to that"
                )
            every = [each for part in self.texts.splits().values() for each in part]
            own = self.texts.splits()[name]
            count = max(len(each.texts) for each in every)  # K
            said = [each.texts[k % len(each.texts)] for each in own for k in range(count)]
            first = {text: number for number, text in reversed(list(enumerate(each.texts[0] for each in own)))}
            classes, label = labelled(every, own, "texts")
            if label is None and all(each.score is not None for each in every):
                label = torch.tensor([float(each.score or 0.0) for each in own])  # [N]
            self.loaded[name] = Split(
                self.words.encode(said, self.tokens).unflatten(0, (-1, count)),  # [N, K, L]
                label,
                classes,
                numbers={"group": torch.tensor([first[each.texts[0]] for each in own])},  # [N]
                graded=graded(own),
            )
        return self.loaded[name]


def graded(samples: Sequence[Said]) -> Graded | None:
    """The first two texts of each sample that has a score; nothing where none has."""
    scored = [(n, each.score) for n, each in enumerate(samples) if each.score is not None]
    if not scored:
        return None
    sample = torch.tensor([n for n, _ in scored])[:, None].expand(-1, 2)  # [P, 2]
    pair = torch.stack([sample, torch.tensor([0, 1]).expand_as(sample)], dim=2)  # [P, 2, 2]
    return Graded(pair, torch.tensor([float(score) for _, score in scored]))
