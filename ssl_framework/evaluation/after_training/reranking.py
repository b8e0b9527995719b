"""Retrieval in two steps (ALBEF, arXiv:2107.07651, section 5.1; reranking, arXiv:2510.14824): the first k by cosine are
put into a new order by a model that reads picture and text together.

n samples, k candidates, D' the width of tokens.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Several, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun, asked_of, main_of, two_towers
from ssl_framework.evaluation.cross_modal import equal_rows
from ssl_framework.evaluation.features import Accuracy, Bare, Splits, extract, in_eval_mode, refuse_non_finite
from ssl_framework.evaluation.probes.cross_retrieval import ranks_of
from ssl_framework.functional import unit
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.text import PADDING
from ssl_framework.module import SSLModule

CHUNK = 500
"""Pairs that are scored at once."""


@runtime_checkable
class ScoresPairs(Protocol):
    """An objective that says whether a picture and a text belong together.

    Attributes:
        token_head: of both towers, whose outputs it reads.
    """

    token_head: str

    def pair_scores(self, pictures: Tensor, words: Tensor, there: Tensor) -> Tensor:
        """Tokens [B, N, D'] and [B, L, D'], and where words are [B, L] -> [B], greater where they do."""
        ...


@guarded
class Reranking(AfterRun):
    """Each of n pictures looks for its text and the other way round, first by cosine, then among the first k by the
    score of the pair; equal groups are right answers and a tie counts against the query, as in ``CrossRetrieval``.

    Args:
        protocol: see ``AfterRun``.
        other: modality of the texts, as ``student.towers`` name it.
        head: whose outputs find the candidates.
        first: k.
        num_samples: n, the first so many of the test split; ``None``: all.
    """

    images_shown = "clean pictures of the test split and the first text of each, encoder in eval mode"
    at_the_end = True
    reads_objective = True

    def __init__(self, protocol: str, other: str, head: str, first: Count, num_samples: Several | None) -> None:
        super().__init__(protocol)
        self.other = other
        self.head = head
        self.first = first
        self.num_samples = num_samples

    def check(self, module: SSLModule | Bare) -> None:
        objective: ScoresPairs = asked_of(module, ScoresPairs, "pair_scores", f"evaluation={self.name} scores pairs")
        two_towers(module, self.other, [self.head, objective.token_head], self.name)

    def check_split(self, split: Split) -> None:
        if self.other not in (split.beside or {}):
            raise ValueError(
                f"evaluation={self.name} reads {self.other}, which the data lack: choose data=captioned_shapes, or "
                "evaluation=frozen"
            )

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Percent of queries, ``reranking[image-to-text,n=500,first=10]/recall@1``, beside it ``/before``, recall@1 by
        cosine alone, and ``/within``, the share whose right answer is among the k: no order can score more.

        Raises:
            ValueError: the objective scores no pairs, or the data have no texts.
        """
        self.check(module)
        self.check_split(data.test)
        objective: ScoresPairs = asked_of(module, ScoresPairs, "pair_scores", "")
        main = main_of(module)
        with torch.no_grad(), in_eval_mode(module):
            pictures, picture_tokens = self.embedded(module, data.test, main)  # [n, D], [n, N, D']
            texts, words = self.embedded(module, Split(self.texts(data)), self.other)  # [n, D], [n, L, D']
            there = self.ids(module, data) != PADDING  # [n, L]
            group = self.groups(data)  # [n]
            scores: dict[str, float] = {}
            for name, alike, swapped in (
                (f"{main}-to-{self.other}", pictures @ texts.T, False),
                (f"{self.other}-to-{main}", texts @ pictures.T, True),
            ):
                found = alike.topk(min(self.first, len(alike)), dim=1).indices  # [n, k]
                own = torch.arange(len(alike))[:, None].expand_as(found)  # [n, k]
                shown, said = (found, own) if swapped else (own, found)  # [n, k] each
                each = [
                    objective.pair_scores(*(x.to(module.device) for x in (picture_tokens[i], words[j], there[j]))).cpu()
                    for i, j in zip(shown.flatten().split(CHUNK), said.flatten().split(CHUNK), strict=True)
                ]
                scores |= self.counted(name, alike, found, torch.cat(each).view_as(found), group)
        return scores

    def counted(self, name: str, alike: Tensor, found: Tensor, scores: Tensor, group: Tensor) -> dict[str, Accuracy]:
        """The scores of one direction.

        Args:
            name: of it.
            alike: [n, n] cosines.
            found: [n, k] int64 the candidates of each query.
            scores: [n, k] of the pairs.
            group: [n] int64, numbered from 0.
        """
        again = torch.full_like(alike, float("-inf")).scatter(1, found, refuse_non_finite(scores, "scores", "test"))
        within = (group[found] == group[:, None]).any(dim=1)  # [n]
        first = {"recall@1": ranks_of(again, group, group) <= 1, "before": ranks_of(alike, group, group) <= 1}
        return {
            f"{self.metric(name, len(group))}/{what}": Accuracy(int(x.sum()), len(x))
            for what, x in {"recall@1": first["recall@1"] & within, "before": first["before"], "within": within}.items()
        }

    def chance(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Of a random order of the groups."""
        group, main = self.groups(data), main_of(module)
        share = 100 / (int(group.max()) + 1)
        names = [self.metric(name, len(group)) for name in (f"{main}-to-{self.other}", f"{self.other}-to-{main}")]
        return {f"{name}/{what}": share for name in names for what in ("recall@1", "before")}

    def metric(self, name: str, count: int) -> str:
        """What stands before what was counted."""
        return f"{self.name}[{name},n={count},first={self.first}]"

    def texts(self, data: DataModule | Splits) -> Tensor:
        """[n, ...] raw."""
        assert data.test.beside is not None
        return data.test.beside[self.other][: self.num_samples]

    def ids(self, module: SSLModule | Bare, data: DataModule | Splits) -> Tensor:
        """The words of the first text of each: [n, L] int64."""
        return module.views.clean(self.texts(data), self.other).cpu()

    def groups(self, data: DataModule | Splits) -> Tensor:
        """The group of each of the n samples, numbered from 0 without gaps: [n] int64."""
        numbers, texts = data.test.numbers or {}, self.texts(data).cpu()
        group = numbers["group"][: len(texts)].cpu() if "group" in numbers else equal_rows(texts)
        return group.unique(return_inverse=True)[1]

    def embedded(self, module: SSLModule | Bare, split: Split, modality: str) -> tuple[Tensor, Tensor]:
        """Unit rows [n, D] and tokens [n, N, D'] of the first samples, which are of that modality."""
        token_head = asked_of(module, ScoresPairs, "pair_scores", "").token_head
        tower = two_towers(module, self.other, [], self.name)[modality == self.other]
        first = torch.arange(len(split.rows), device=split.rows.device)[: self.num_samples]  # [n]
        part = Split(chosen(split.rows, first))

        def through(head: str) -> Tensor:
            """[n, ...]"""
            z = extract(lambda x: Encoder.encode(tower, module.views.clean(x, modality))[head], part, module.device)
            return refuse_non_finite(z, f"the outputs of the head {head} on {modality}", "test")

        return unit(through(self.head)), through(token_head)
