"""Whether a captioner says what a picture shows: greedy decoding, as captioners such as CoCa (arXiv:2205.01917, section
4.2) are asked, and which factors of the picture the words name, where papers count n-grams.

N pictures, L tokens of a caption, V words.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ssl_framework.arguments import Several, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun, asked_of, clean, two_towers
from ssl_framework.evaluation.features import Accuracy, Bare, Splits, extract, in_eval_mode
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.text import PADDING
from ssl_framework.module import SSLModule
from ssl_framework.views.text import BEGIN, END, MASK, UNKNOWN


@runtime_checkable
class Captioner(Protocol):
    """An objective that says captions word by word.

    Attributes:
        token_head: of both towers, whose outputs it reads.
    """

    token_head: str

    def word_logits(self, picture: Tensor, words: Tensor, there: Tensor) -> Tensor:
        """Tokens [B, N, D] and [B, L, D], and where words are [B, L] -> scores of the word behind each [B, L, V]."""
        ...


@guarded
class Captioning(AfterRun):
    """The likeliest word after the likeliest word, and what of a picture the words name.

    Args:
        protocol: see ``AfterRun``.
        other: modality of the captions, as ``student.towers`` name it.
        num_samples: N, the first so many pictures of the test split; ``None``: all.
    """

    images_shown = "clean pictures of the test split, encoder in eval mode; nothing is fitted"
    at_the_end = True
    reads_objective = True

    def __init__(self, protocol: str, other: str, num_samples: Several | None) -> None:
        super().__init__(protocol)
        self.other = other
        self.num_samples = num_samples

    def check(self, module: SSLModule | Bare) -> None:
        objective: Captioner = asked_of(module, Captioner, "word_logits", f"evaluation={self.name} has captions said")
        two_towers(module, self.other, [objective.token_head], self.name)

    def check_split(self, split: Split) -> None:
        if split.named is None or self.other not in (split.beside or {}):
            raise ValueError(
                f"evaluation={self.name} has to know what words name in a picture, which the data do not tell: choose "
                "data=captioned_shapes, counted_shapes or scenes, or evaluation=cross_modal"
            )

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Percent of captions: ``captioning[colour,classes=6,n=500]/named``, that name the right class and no other of
        that factor; ``captioning[n=500]/all_factors``, that do so for every factor; ``/exact``, that are word by word
        one of the captions of the data, of which there may be many more.

        Raises:
            ValueError: the objective says no captions, or the data do not tell what words name.
        """
        self.check(module)
        self.check_split(data.test)
        split = data.test
        assert split.named is not None and split.numbers is not None and split.beside is not None
        own = split.beside[self.other][: self.num_samples].cpu().long()  # [N, K, L]
        said = self.said(module, split, len(own), own.shape[-1])  # [N, L]
        right = {
            factor: only(named_by(said, names.cpu()), split.numbers[factor][: len(own)].cpu())
            for factor, names in split.named.items()
        }  # [N] bool each
        every = torch.stack(list(right.values())).all(dim=0)  # [N]
        exact = (said[:, None] == own.view(len(own), -1, own.shape[-1])).all(dim=2).any(dim=1)  # [N]
        shares = {
            **{self.metric(factor, split, len(own)): x for factor, x in right.items()},
            f"{self.name}[n={len(own)}]/all_factors": every,
            f"{self.name}[n={len(own)}]/exact": exact,
        }
        return {name: Accuracy(int(x.sum()), len(x)) for name, x in shares.items()}

    def chance(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Of captions that name one class of every factor, drawn evenly."""
        self.check_split(data.test)
        count = len(data.test.label[: self.num_samples]) if data.test.label is not None else len(data.test.rows)
        named = data.test.named or {}
        found = {self.metric(factor, data.test, count): 100 / len(names) for factor, names in named.items()}
        every = 100.0
        for names in named.values():
            every /= len(names)
        return {**found, f"{self.name}[n={count}]/all_factors": every}

    def metric(self, factor: str, split: Split, count: int) -> str:
        """The name of a score."""
        return f"{self.name}[{factor},classes={len((split.named or {})[factor])},n={count}]/named"

    def said(self, module: SSLModule | Bare, split: Split, count: int, length: int) -> Tensor:
        """The captions of the first pictures: [N, L] int64."""
        objective: Captioner = asked_of(module, Captioner, "word_logits", "")
        main, texts = two_towers(module, self.other, [objective.token_head], self.name)

        def of_each(raw: Tensor) -> Tensor:
            """[B, C, H, W] -> [B, L]"""
            picture = Encoder.encode(main, clean(module, raw))[objective.token_head]  # [B, N, D]

            def scores(ids: Tensor) -> Tensor:
                """[B, l] -> [B, V]"""
                words = Encoder.encode(texts, ids)[objective.token_head]  # [B, l, D]
                return objective.word_logits(picture, words, ids != PADDING)[:, -1]

            return greedy(scores, torch.full((len(raw),), BEGIN, device=module.device), length)

        first = torch.arange(count, device=split.rows.device)  # [N]
        with torch.no_grad(), in_eval_mode(module):
            return extract(of_each, Split(chosen(split.rows, first)), module.device, torch.int64)


def greedy(scores: Callable[[Tensor], Tensor], begin: Tensor, length: int) -> Tensor:
    """The likeliest next word until the end, or until there is no more room.

    Args:
        scores: texts so far [B, l] -> scores of the next word [B, V].
        begin: [B] int64 the first token of each.
        length: L.

    Returns:
        [B, L] int64, padded behind the end.
    """
    ids = begin[:, None]  # [B, 1]
    ended = torch.zeros_like(begin, dtype=torch.bool)  # [B]
    never = torch.tensor([PADDING, BEGIN, UNKNOWN, MASK], device=begin.device)
    for _ in range(length - 1):
        word = scores(ids).index_fill(1, never, float("-inf")).argmax(dim=1)  # [B]
        word = word.masked_fill(ended, PADDING)
        ids = torch.cat([ids, word[:, None]], dim=1)  # [B, l + 1]
        ended = ended | (word == END)
    return ids


def named_by(ids: Tensor, names: Tensor) -> Tensor:
    """Which classes the words of texts name.

    Args:
        ids: [N, L] int64 tokens.
        names: [classes, slots, synonyms] int64 tokens, -1 where there are fewer.

    Returns:
        [N, classes] bool: every slot is filled by one of its synonyms.
    """
    there = (ids[:, None, None, None] == names[None, ..., None]).any(dim=4)  # [N, classes, slots, synonyms]
    return (there.any(dim=3) | (names < 0).all(dim=2)).all(dim=2)


def only(named: Tensor, label: Tensor) -> Tensor:
    """Whether the right class [N] is named, and no other: [N, classes] -> [N] bool."""
    return named.gather(1, label[:, None])[:, 0] & (named.sum(dim=1) == 1)
