"""Captions as texts: the sentences of ``data=captioned_shapes`` without their pictures.

A sample is a choice of shape, colour, size, place and background, and has several captions that name them, by templates
and synonyms of one closed list of words. So what two sentences share is known: pairs are graded by the share of factors
that they have in common, which is what a similarity of sentences should follow, not the words that they share.

N samples, K captions of each, L tokens a caption.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Seed, guarded
from ssl_framework.data.base import Graded, Split, check_split
from ssl_framework.data.images.shapes import FACTORS
from ssl_framework.data.pairs.captioned_shapes import NAMED, captions_of, group_of, prompts_of, refuse_short
from ssl_framework.types import step_seed
from ssl_framework.views.text import Vocabulary


@guarded
class CaptionTexts:
    """Draws factors and captions on first use and keeps them.

    Args:
        num_train, num_test: samples, drawn from two random streams.
        seed: of the drawing; part of the data set, not of the run.
        label: which factor is the class that probes read.
        num_captions: K, each of a random template and random synonyms.
        tokens: L, to which captions are padded, with begin and end.
        words: what the tokens stand for.
        vocabulary: size of the backbone's table; at least as many tokens as there are.
        num_graded: pairs of each number of shared factors, at most.

    Raises:
        ValueError: an argument outside its range, or no such factor.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        seed: Seed,
        label: str,
        num_captions: Count,
        tokens: Count,
        words: Vocabulary,
        vocabulary: Count,
        num_graded: Count,
    ) -> None:
        if label not in NAMED:
            raise ValueError(f"data.source.label is {label}: choose one of {', '.join(NAMED)}")
        refuse_short(tokens, vocabulary, words)
        self.count = {"train": num_train, "test": num_test}
        self.seed = seed
        self.label = label
        self.num_captions = num_captions
        self.tokens = tokens
        self.words = words
        self.num_graded = num_graded
        self.drawn: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, K, L] int32; every factor among ``numbers``, and "group", equal where all factors are; ``prompts`` of the
        factors, [classes, P, L] int32; of the test split ``graded`` pairs.

        Raises:
            ValueError: there is no such split.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.drawn:
            factors, seed = self.factors(name), step_seed(self.seed, 22 + (name == "test"))
            texts = self.words.encode(captions_of(factors, self.num_captions, seed), self.tokens)  # [N * K, L]
            self.drawn[name] = Split(
                texts.unflatten(0, (-1, self.num_captions)),  # [N, K, L]
                factors[self.label],
                tuple(FACTORS[self.label]),
                prompts={factor: prompts_of(factor, self.words, self.tokens) for factor in NAMED},
                numbers={**factors, "group": group_of(factors)},
                graded=self.graded(factors) if name == "test" else None,
            )
        return self.drawn[name]

    def factors(self, name: str) -> dict[str, Tensor]:
        """The class of every factor of each sample, all alike likely: factor -> [N] int64."""
        return drawn(self.count[name], torch.Generator().manual_seed(step_seed(self.seed, 20 + (name == "test"))))

    def graded(self, factors: dict[str, Tensor]) -> Graded:
        """Pairs of first captions, about as many of each number of shared factors as far as there are any, and of the
        first and second caption of one sample; the score is the share of factors that are equal."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, 24))
        every = torch.stack([factors[factor] for factor in NAMED], dim=1)  # [N, 5]
        first, second = torch.triu_indices(len(every), len(every), 1)  # [N (N - 1) / 2] each
        shared = (every[first] == every[second]).sum(dim=1)  # [N (N - 1) / 2]
        pairs, scores = [], []
        for count in range(len(NAMED) + 1):
            own = (shared == count).nonzero()[:, 0]  # [n]
            own = own[torch.randperm(len(own), generator=generator)[: self.num_graded]]
            samples = torch.stack([first[own], second[own]], dim=1)  # [n, 2]
            pairs.append(torch.stack([samples, torch.zeros_like(samples)], dim=2))  # [n, 2, 2]
            scores.append(torch.full((len(own),), count / len(NAMED)))
        if self.num_captions > 1:
            own = torch.arange(min(len(every), self.num_graded))  # [n]
            texts = torch.stack([own, own], dim=1)  # [n, 2]
            pairs.append(torch.stack([texts, torch.tensor([0, 1]).expand_as(texts)], dim=2))  # [n, 2, 2]
            scores.append(torch.ones(len(own)))
        return Graded(torch.cat(pairs), torch.cat(scores))


def drawn(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Classes of every factor, all alike likely: factor -> [count] int64."""
    return {factor: torch.randint(len(FACTORS[factor]), (count,), generator=generator) for factor in NAMED}


def scored_captions(count: int, seed: int, test: bool) -> tuple[tuple[list[str], list[str]], Tensor, dict[str, Tensor]]:
    """Two lists of captions, N each; the share of factors that each pair has in common, [N] float32; and the factors of
    the first ones, factor -> [N] int64."""
    generator = torch.Generator().manual_seed(step_seed(seed, 30 + test))
    first, second = (drawn(count, generator) for _ in range(2))
    kept = torch.randint(len(NAMED) + 1, (count, 1), generator=generator)  # [N, 1]
    place = torch.rand(count, len(NAMED), generator=generator).argsort(dim=1)  # [N, 5]
    for column, factor in enumerate(NAMED):
        second[factor] = torch.where(place[:, column] < kept[:, 0], first[factor], second[factor])
    equal = torch.stack([first[factor] == second[factor] for factor in NAMED], dim=1)  # [N, 5]
    said = [captions_of(each, 1, step_seed(seed, 32 + 2 * test + k)) for k, each in enumerate((first, second))]
    return (said[0], said[1]), equal.float().mean(dim=1), first


@guarded
class CaptionPairs:
    """Pairs of captions, labelled with the share of factors that they have in common: 0, 0.2, 0.4, 0.6, 0.8 or 1.

    Args:
        num_train, num_test, seed, tokens, words, vocabulary: as in ``CaptionTexts``.
    """

    def __init__(
        self, num_train: Count, num_test: Count, seed: Seed, tokens: Count, words: Vocabulary, vocabulary: Count
    ) -> None:
        refuse_short(tokens, vocabulary, words)
        self.count = {"train": num_train, "test": num_test}
        self.seed = seed
        self.tokens = tokens
        self.words = words
        self.drawn: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, 2, L] int32 with the share as label, float32; of both splits ``graded`` pairs, these.

        Raises:
            ValueError: there is no such split.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.drawn:
            said, score, first = scored_captions(self.count[name], self.seed, name == "test")
            texts = torch.stack([self.words.encode(each, self.tokens) for each in said], dim=1)  # [N, 2, L]
            sample = torch.arange(len(texts))[:, None].expand(-1, 2)  # [N, 2]
            pair = torch.stack([sample, torch.tensor([0, 1]).expand_as(sample)], dim=2)  # [N, 2, 2]
            self.drawn[name] = Split(texts, score, graded=Graded(pair, score), numbers={"group": group_of(first)})
        return self.drawn[name]
