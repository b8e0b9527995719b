"""Texts for two tasks at once: retrieval, where the second text of a sample answers the first and further ones are hard
negatives, and similarity, where two texts have a score. The label is the score, and -1 in retrieval.

N samples, K texts of each, L tokens a text.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Natural, Seed, guarded
from ssl_framework.data.base import Graded, Split, check_split
from ssl_framework.data.images.shapes import FACTORS
from ssl_framework.data.pairs.captioned_shapes import NAMED, captions_of, group_of, refuse_short
from ssl_framework.data.texts.caption_texts import drawn, scored_captions
from ssl_framework.data.texts.worded import Said, Texts, WordedTexts
from ssl_framework.types import step_seed
from ssl_framework.views.text import Vocabulary

TASKS = ("retrieval", "similarity")
"""By their numbers, which ``Split.numbers`` has as "task"."""

CHOICES = ("both", *TASKS)


def refuse_tasks(tasks: str) -> None:
    """Raises ValueError where training samples are to be of something else."""
    if tasks not in CHOICES:
        raise ValueError(f"data.tasks is {tasks}: choose one of {', '.join(CHOICES)}")


@guarded
class CaptionTasks:
    """Captions: in retrieval an answer names the same factors in other words, a hard negative names one other; in
    similarity a pair has as score the share of factors in common. Every other sample is of retrieval.

    Args:
        num_train, num_test, seed, tokens, words, vocabulary: as in ``CaptionTexts``.
        negatives: hard negatives of a sample.
        tasks: of the training samples, "both", "retrieval" or "similarity"; those of test are of both.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        seed: Seed,
        negatives: Natural,
        tasks: str,
        tokens: Count,
        words: Vocabulary,
        vocabulary: Count,
    ) -> None:
        refuse_short(tokens, vocabulary, words)
        refuse_tasks(tasks)
        self.count = {"train": num_train, "test": num_test}
        self.seed = seed
        self.negatives = negatives
        self.tasks = tasks
        self.tokens = tokens
        self.words = words
        self.drawn: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, 2 + negatives, L] int32, of scored pairs the two again and again, with the label as above, float32;
        ``graded`` the scored pairs; among ``numbers`` "task", and "group", -1 where nobody asks.

        Raises:
            ValueError: there is no such split.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.drawn:
            count, tasks = self.count[name], "both" if name == "test" else self.tasks
            task = torch.arange(count) % 2 if tasks == "both" else torch.full((count,), TASKS.index(tasks))  # [N]
            asked, group = self.retrieval(count, name == "test")  # [N, K, L], [N]
            scored, score = self.similarity(count, name == "test")  # [N, K, L], [N]
            rows = torch.where(task[:, None, None] == 0, asked, scored)  # [N, K, L]
            self.drawn[name] = of_tasks(rows, task, score, group)
        return self.drawn[name]

    def retrieval(self, count: int, test: bool) -> tuple[Tensor, Tensor]:
        """Texts [N, K, L] int32, and what they say [N] int64."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, 40 + test))
        factors = drawn(count, generator)
        said = [factors, factors]
        for _ in range(self.negatives):
            other = torch.randint(len(NAMED), (count,), generator=generator)  # [N]: which factor is another one
            step = {f: torch.randint(1, len(FACTORS[f]), (count,), generator=generator) for f in NAMED}
            said.append(
                {
                    f: torch.where(other == number, (factors[f] + step[f]) % len(FACTORS[f]), factors[f])
                    for number, f in enumerate(NAMED)
                }
            )
        seeds = [step_seed(self.seed, 50 + 100 * test + k) for k in range(len(said))]
        texts = [self.words.encode(captions_of(x, 1, seed), self.tokens) for x, seed in zip(said, seeds, strict=True)]
        return torch.stack(texts, dim=1), group_of(factors)

    def similarity(self, count: int, test: bool) -> tuple[Tensor, Tensor]:
        """Texts [N, K, L] int32 and scores [N] float32."""
        said, score, _ = scored_captions(count, self.seed, test)
        texts = [self.words.encode(each, self.tokens) for each in said]
        return torch.stack([texts[k % 2] for k in range(2 + self.negatives)], dim=1), score


def of_tasks(rows: Tensor, task: Tensor, score: Tensor, group: Tensor) -> Split:
    """The split of texts [N, K, L] of these tasks, scores and groups, [N] each."""
    scored = task == 1  # [N]
    sample = scored.nonzero().expand(-1, 2)  # [P, 2]
    pair = torch.stack([sample, torch.tensor([0, 1]).expand_as(sample)], dim=2)  # [P, 2, 2]
    return Split(
        rows,
        score.masked_fill(~scored, -1.0),
        graded=Graded(pair, score[scored]) if scored.any() else None,
        numbers={"task": task, "group": group.masked_fill(scored, -1)},
    )


@guarded
class ScoredCaptions:
    """The pairs of ``data=caption_pairs`` as sentences.

    Args:
        num_train, num_test, seed: as in ``CaptionPairs``.
    """

    def __init__(self, num_train: Count, num_test: Count, seed: Seed) -> None:
        self.count = {"train": num_train, "test": num_test}
        self.seed = seed
        self.found: dict[str, list[Said]] = {}

    def splits(self) -> dict[str, list[Said]]:
        """As ``Texts``, scored."""
        if not self.found:
            for name, count in self.count.items():
                said, score, _ = scored_captions(count, self.seed, name == "test")
                pairs = zip(*said, score.tolist(), strict=True)
                self.found[name] = [Said((first, second), score=value) for first, second, value in pairs]
        return self.found


@guarded
class JoinedTexts:
    """Pairs for retrieval and scored pairs of two sources, those of retrieval first.

    Args:
        retrieval: where texts and their answers come from. Hard negatives of a sample are the answers of those that
            follow it in their order, which of docstrings are functions of the same file, mostly.
        similarity: where scored pairs come from.
        negatives: hard negatives of a sample of retrieval.
        tasks: of the training samples, as in ``CaptionTasks``.
    """

    def __init__(self, retrieval: Texts, similarity: Texts, negatives: Natural, tasks: str) -> None:
        refuse_tasks(tasks)
        self.retrieval = retrieval
        self.similarity = similarity
        self.negatives = negatives
        self.tasks = tasks
        self.found: dict[str, list[Said]] = {}

    def splits(self) -> Mapping[str, list[Said]]:
        """As ``Texts``; the label is the task.

        Raises:
            ValueError: a text of the one has no answer, or a pair of the other no score.
        """
        if not self.found:
            asked, scored = self.retrieval.splits(), self.similarity.splits()
            for name in ("train", "test"):
                if any(len(each.texts) < 2 for each in (*asked[name], *scored[name])):
                    raise ValueError("a text of data.texts has no second one: give all of them one")
                if any(each.score is None for each in scored[name]):
                    raise ValueError("a pair of data.texts.similarity has no score: give all of them one")
                answers = [each.texts[1] for each in asked[name]]
                of_one = [
                    Said((*each.texts[:2], *following(answers, n, self.negatives)), TASKS[0])
                    for n, each in enumerate(asked[name])
                ]
                of_other = [Said(each.texts[:2], TASKS[1], score=each.score) for each in scored[name]]
                chosen = "both" if name == "test" else self.tasks
                self.found[name] = of_one * (chosen != TASKS[1]) + of_other * (chosen != TASKS[0])
        return self.found


def following(answers: list[str], own: int, count: int) -> list[str]:
    """So many answers behind one, from the beginning again after the last."""
    return [answers[(own + step) % len(answers)] for step in range(1, count + 1)]


@guarded
class TaskTexts:
    """Token ids of joined texts, made on first use.

    Args:
        texts: of both tasks.
        words, tokens, vocabulary: as in ``WordedTexts``.
    """

    def __init__(self, texts: JoinedTexts, words: Vocabulary, tokens: Count, vocabulary: Count) -> None:
        self.texts = texts
        self.worded = WordedTexts(texts, words, tokens, vocabulary)
        self.loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """As ``CaptionTasks``.

        Raises:
            FileNotFoundError: the texts are not there.
            ValueError: they cannot be read.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.loaded:
            found = self.worded.load(name)
            assert isinstance(found.rows, Tensor) and found.numbers is not None
            said = self.texts.splits()[name]
            task = torch.tensor([TASKS.index(each.label) for each in said])  # [N]
            score = torch.tensor([-1.0 if each.score is None else each.score for each in said])  # [N]
            self.loaded[name] = of_tasks(found.rows, task, score, found.numbers["group"])
        return self.loaded[name]
