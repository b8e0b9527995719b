"""Texts of domains, whose first token says which, and texts of two tasks."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ssl_framework.data.base import Split
from ssl_framework.data.pairs.captioned_shapes import NAMED, TEMPLATES, ShapeVocabulary
from ssl_framework.data.pairs.words import CaptionVocabulary
from ssl_framework.data.texts.caption_texts import CaptionPairs
from ssl_framework.data.texts.docstrings import Docstrings
from ssl_framework.data.texts.domains import CaptionDomains, DomainVocabulary, OfDomains
from ssl_framework.data.texts.tasks import CaptionTasks, JoinedTexts, ScoredCaptions, TaskTexts
from ssl_framework.data.texts.worded import Said, WordedTexts
from ssl_framework.types import Samples
from ssl_framework.views.text import BEGIN, END, TextViews

SHAPES = ShapeVocabulary()
WORDS = DomainVocabulary(SHAPES, 4, 96)


class Given:
    """Texts as they are told."""

    def __init__(self, train: Sequence[Said], test: Sequence[Said]) -> None:
        self.found = {"train": train, "test": test}

    def splits(self) -> dict[str, Sequence[Said]]:
        return self.found


def tensor(split: Split) -> Tensor:
    assert isinstance(split.rows, Tensor)
    return split.rows


# Domains.


def domains(words: DomainVocabulary = WORDS) -> CaptionDomains:
    return CaptionDomains(30, 40, 0, 3, 20, words, 96, 12)


def test_texts_of_a_template_begin_with_its_token_and_have_its_fixed_words() -> None:
    split = domains().load("test")
    rows = tensor(split)
    assert rows.shape == (40, 3, 20) and rows.dtype == torch.int32 and split.label is not None
    assert torch.equal(rows[:, :, 0], (92 + split.label)[:, None].expand(-1, 3).int())
    assert not (rows[:, :, 1:] >= len(SHAPES)).any() and len(split.label.unique()) == 4
    fixed = [{word for word in template.split() if "{" not in word} for template in TEMPLATES]
    for sample, domain in zip(rows.tolist(), split.label.tolist(), strict=True):
        for text in sample:
            assert fixed[domain] <= {SHAPES.names[token] for token in text[1:]}
    assert split.numbers is not None and {*split.numbers} == {*NAMED, "group"} and split.graded is not None


def test_views_show_the_domain_and_never_take_it_out() -> None:
    rows = tensor(domains().load("train"))
    views = TextViews(20, WORDS, 2, deletion=0.9, masking=0.5, span=[0.1, 0.2])
    batch = views(Samples(rows, torch.arange(30)), torch.Generator().manual_seed(0))
    for view in batch.views:
        assert torch.equal(view[:, 0], rows[:, 0, 0].long()) and ((view == END).sum(dim=1) == 1).all()
    said = views.picture(rows[0, 0])
    assert isinstance(said, str) and said.startswith(f"<domain {int(rows[0, 0, 0]) - 92}> ")
    assert views.raw(rows).shape == (30, 96) and not views.raw(rows)[:, 92:].any()


def test_too_small_a_table_and_other_numbers_of_domains_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.vocabulary is 80, but there are 84 tokens and 4 domains: set it to"):
        len(DomainVocabulary(SHAPES, 4, 80))
    with pytest.raises(ValueError, match=r"data\.domains is 3: set it to 4, one for each template"):
        domains(DomainVocabulary(SHAPES, 3, 96)).load("train")


def test_classes_of_texts_become_domains(tmp_path) -> None:  # type: ignore[no-untyped-def]
    code = '\n\ndef {0}(x):\n    """Does what {0} does to it."""\n    x = x + 1\n    x = x * 2\n    return x\n'
    for name in ("net/a.py", "net/b.py", "disk.py", "maths.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code.format(name[:3]))
    source = Docstrings(str(tmp_path), 0.3, {"network": ["net"], "files": ["disk"]})
    found = {said.label for part in source.splits().values() for said in part}
    assert found == {"network", "files", "other"}
    words = DomainVocabulary(CaptionVocabulary(source, 40, "words", None), 3, 50)
    texts = WordedTexts(source, words, 12, 50)
    for name in ("train", "test"):
        split = OfDomains(texts, words).load(name)
        assert split.label is not None and split.classes == ("files", "network", "other")
        assert torch.equal(tensor(split)[:, :, 0], (47 + split.label)[:, None].expand(-1, 2).int())
        assert torch.equal(tensor(split)[:, :, 1:], tensor(texts.load(name))[:, :, 1:])
    with pytest.raises(ValueError, match=r"data\.domains is 4, but the texts are of 3 classes: set it to their number"):
        OfDomains(texts, DomainVocabulary(words.words, 4, 50)).load("train")


def test_chosen_domains_alone_are_trained_on_with_the_numbers_and_words_of_all() -> None:
    train = [Said((f"{name} {n}", f"{n} of it"), name) for n in range(3) for name in ("code", "net", "other")]
    given = Given(train, train[:3])
    words = DomainVocabulary(CaptionVocabulary(given, 20, "words", None), 3, 30)
    texts = WordedTexts(given, words, 8, 30)
    every = OfDomains(texts, words)
    some = OfDomains(texts, words, ["other", "code"])
    label = every.load("train").label
    assert label is not None and label.tolist() == [0, 1, 2] * 3
    rows = (label != 1).nonzero()[:, 0]
    found = some.load("pretrain")
    assert found.label is not None and found.label.tolist() == [0, 2] * 3 and found.classes == ("code", "net", "other")
    assert torch.equal(tensor(found), tensor(every.load("train"))[rows])
    assert found.numbers is not None and found.numbers["group"].tolist() == rows.tolist()
    assert torch.equal(tensor(some.load("test")), tensor(every.load("test")))
    with pytest.raises(ValueError, match=r"data\.train_domains names nets, but the domains are code, net, other: name"):
        OfDomains(texts, words, ["nets"]).load("train")
    with pytest.raises(ValueError, match="train_domains"):
        OfDomains(texts, words, [])


# Tasks.


def tasks(choice: str = "both", negatives: int = 2) -> CaptionTasks:
    return CaptionTasks(30, 40, 0, negatives, choice, 20, SHAPES, 96)


def factors(text: Sequence[int]) -> dict[str, frozenset[int]]:
    """What a caption names: factor -> the number of its word in each slot that it fills."""
    said = {SHAPES.names[token] for token in text if token > END}
    return {
        factor: frozenset(
            100 * place + number
            for place, slot in enumerate(slots)
            for number, words in enumerate(slot.values())
            if said & {*words}
        )
        for factor, slots in NAMED.items()
    }


def test_answers_say_the_same_and_hard_negatives_one_thing_otherwise() -> None:
    split = tasks().load("test")
    assert split.label is not None and split.numbers is not None and split.graded is not None
    assert split.numbers["task"].tolist() == [0, 1] * 20
    rows = tensor(split)
    assert rows.shape == (40, 4, 20) and (rows[:, :, 0] == BEGIN).all()
    for n in range(0, 40, 2):
        asked, answer, *wrong = map(factors, rows[n].tolist())
        assert asked == answer and split.label[n] == -1
        assert all(sum(asked[f] != other[f] for f in NAMED) == 1 for other in wrong)
    own = CaptionPairs(30, 40, 0, 20, SHAPES, 96).load("test")
    assert own.label is not None
    assert torch.equal(rows[1::2, :2], tensor(own)[1::2]) and torch.equal(rows[:, 2:][1::2], rows[:, :2][1::2])
    assert torch.equal(split.label[1::2], own.label[1::2])
    assert torch.equal(split.graded.score, own.label[1::2])
    assert split.graded.pair[:3].tolist() == [[[1, 0], [1, 1]], [[3, 0], [3, 1]], [[5, 0], [5, 1]]]
    assert (split.numbers["group"][1::2] == -1).all() and (split.numbers["group"][::2] >= 0).all()


def test_training_may_be_of_one_task_alone() -> None:
    for number, choice in enumerate(("retrieval", "similarity")):
        source = tasks(choice)
        train, test = source.load("train"), source.load("test")
        assert train.numbers is not None and (train.numbers["task"] == number).all()
        assert torch.equal(tensor(test), tensor(tasks().load("test")))
    with pytest.raises(ValueError, match=r"data\.tasks is all: choose one of both, retrieval, similarity"):
        tasks("all")


def test_two_sources_become_one_of_two_tasks() -> None:
    asked = [Said((f"question {n}", f"answer {n}")) for n in range(3)]
    scored = ScoredCaptions(4, 2, 0)
    texts = JoinedTexts(Given(asked, asked[:2]), scored, 2, "both")
    words = CaptionVocabulary(texts, 90, "words", None)
    split = TaskTexts(texts, words, 20, 90).load("train")
    assert split.label is not None and split.numbers is not None and split.graded is not None
    assert split.numbers["task"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert split.numbers["group"].tolist() == [0, 1, 2, -1, -1, -1, -1]
    said = [[words.decode(text) for text in sample] for sample in tensor(split)]
    assert said[1] == ["question 1", "answer 1", "answer 2", "answer 0"]
    assert said[3] == [*scored.splits()["train"][0].texts] * 2
    own = CaptionPairs(4, 2, 0, 20, SHAPES, 96).load("train")
    assert own.label is not None and torch.equal(split.label[3:], own.label) and (split.label[:3] == -1).all()
    assert torch.equal(split.graded.score, own.label) and split.graded.pair[0].tolist() == [[3, 0], [3, 1]]
    alone = JoinedTexts(Given(asked, asked[:2]), scored, 2, "similarity").splits()
    assert len(alone["train"]) == 4 and len(alone["test"]) == 4


def test_texts_without_an_answer_or_a_score_are_refused() -> None:
    pairs = [Said(("a", "b"))]
    with pytest.raises(ValueError, match="has no score: give all of them one"):
        JoinedTexts(Given(pairs, pairs), Given(pairs, pairs), 1, "both").splits()
    with pytest.raises(ValueError, match="has no second one: give all of them one"):
        JoinedTexts(Given([Said(("a",))], pairs), ScoredCaptions(2, 2, 0), 1, "both").splits()
