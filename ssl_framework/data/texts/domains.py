"""Texts of several domains, each of which begins with the token of its domain in the place of the one that begins all:
by it a backbone may choose its experts (Hallee et al., arXiv:2401.15713).

N samples, K texts of each, L tokens a text.
"""

import functools
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Seed, Several, guarded
from ssl_framework.data.base import Source, Split, check_split
from ssl_framework.data.pairs.captioned_shapes import TEMPLATES, captions_of, refuse_short
from ssl_framework.data.texts.caption_texts import CaptionTexts
from ssl_framework.types import step_seed
from ssl_framework.views.text import Vocabulary


@guarded
class DomainVocabulary(Vocabulary):
    """The tokens of other words, and behind them those of domains, which are the last of the backbone's table.

    Args:
        words: the others.
        domains: how many.
        size: of the backbone's table.
    """

    def __init__(self, words: Vocabulary, domains: Several, size: Count) -> None:
        self.words = words
        self.domains = domains
        self.size = size

    @functools.cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        """How tokens are written, by their numbers.

        Raises:
            ValueError: there is no room for the domains.
        """
        free = self.size - len(self.words) - self.domains
        if free < 0:
            raise ValueError(
                f"data.vocabulary is {self.size}, but there are {len(self.words)} tokens and {self.domains} domains: "
                f"set it to at least {self.size - free}"
            )
        unused = [f"<unused {number}>" for number in range(free)]
        return [*self.words.names, *unused, *(f"<domain {number}>" for number in range(self.domains))]

    @functools.cached_property
    def number(self) -> dict[str, int]:  # type: ignore[override]
        """The other way round."""
        return {name: number for number, name in enumerate(self.names)}

    def encode(self, sentences: Sequence[str], length: int) -> Tensor:
        """As the words do it, of no domain."""
        return self.words.encode(sentences, length)

    def decode(self, tokens: Tensor) -> str:
        """One text [L], with its domain."""
        first = self.size - self.domains
        domain = [self.names[token] for token in tokens.tolist() if token >= first]
        return " ".join([*domain, self.words.decode(tokens[tokens < first])])

    def begun(self, texts: Tensor, domain: Tensor) -> Tensor:
        """Texts [N, K, L] int32 whose first token is that of the domain of their sample, [N] int64."""
        tokens = (self.size - self.domains + domain).to(texts.dtype)  # [N]
        return torch.cat([tokens[:, None, None].expand(-1, texts.shape[1], 1), texts[:, :, 1:]], dim=2)  # [N, K, L]


@guarded
class OfDomains:
    """Any texts in memory that have classes, which become their domains.

    Args:
        texts: where they come from.
        words: what the tokens stand for; has as many domains as there are classes.
        train_domains: names of the classes that training samples are of; ``None``: of all, as those of test are.
    """

    def __init__(
        self,
        texts: Source,
        words: DomainVocabulary,
        train_domains: Annotated[Sequence[str], Len(1)] | None = None,
    ) -> None:
        self.texts = texts
        self.words = words
        self.train_domains = train_domains
        self.begun: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """As the texts' source, with other first tokens.

        Raises:
            ValueError: there are no classes, or another number of them, or none that is called so.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.begun:
            found = self.texts.load(name)
            if found.label is None or len(found.classes) != self.words.domains:
                raise ValueError(
                    f"data.domains is {self.words.domains}, but the texts are of {len(found.classes) or 'no'} classes: "
                    "set it to their number, or choose texts with a label"
                )
            assert isinstance(found.rows, Tensor)
            begun = found._replace(rows=self.words.begun(found.rows, found.label))
            some = name == "train" and self.train_domains is not None
            self.begun[name] = begun.picked(self.trained(begun)) if some else begun
        return self.begun[name]

    def trained(self, found: Split) -> Tensor:
        """Positions of the samples of the domains that are trained on, [n] int64.

        Raises:
            ValueError: one of these is none of the classes.
        """
        assert found.label is not None and self.train_domains is not None
        names = self.train_domains
        if unknown := [name for name in names if name not in found.classes]:
            raise ValueError(
                f"data.train_domains names {unknown[0]}, but the domains are {', '.join(found.classes)}: name one or "
                "more of these, or set it to null"
            )
        return torch.isin(found.label, torch.tensor([found.classes.index(name) for name in names])).nonzero()[:, 0]


@guarded
class CaptionDomains:
    """Captions of which those of one sample are all made by one template, which is their domain and their class.

    Args:
        num_train, num_test, seed, num_captions, tokens, vocabulary, num_graded: as in ``CaptionTexts``.
        words: what the tokens stand for; has as many domains as there are templates.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        seed: Seed,
        num_captions: Count,
        tokens: Count,
        words: DomainVocabulary,
        vocabulary: Count,
        num_graded: Count,
    ) -> None:
        refuse_short(tokens, vocabulary, words)
        rest = (num_captions, tokens, words, vocabulary, num_graded)
        self.captions = CaptionTexts(num_train, num_test, seed, "shape", *rest)
        self.words = words
        self.drawn: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, K, L] int32; the rest as in ``CaptionTexts``, but without ways to name classes, which have no domain.

        Raises:
            ValueError: there is no such split, or another number of domains.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if self.words.domains != len(TEMPLATES):
            raise ValueError(f"data.domains is {self.words.domains}: set it to {len(TEMPLATES)}, one for each template")
        if name not in self.drawn:
            own = self.captions
            factors, found = own.factors(name), own.load(name)
            generator = torch.Generator().manual_seed(step_seed(own.seed, 26 + (name == "test")))
            domain = torch.randint(len(TEMPLATES), (own.count[name],), generator=generator)  # [N]
            said = captions_of(factors, own.num_captions, step_seed(own.seed, 28 + (name == "test")), domain)
            texts = self.words.encode(said, own.tokens).unflatten(0, (-1, own.num_captions))  # [N, K, L]
            classes = tuple(f"template {number}" for number in range(len(TEMPLATES)))
            rows = self.words.begun(texts, domain)  # [N, K, L]
            self.drawn[name] = found._replace(rows=rows, label=domain, classes=classes, prompts=None)
        return self.drawn[name]
