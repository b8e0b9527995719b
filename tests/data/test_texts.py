"""Texts as samples: captions whose pairs are graded by what they share, files, docstrings and functions."""

import json
from pathlib import Path

import pytest
import torch

from ssl_framework.data.base import Split
from ssl_framework.data.images.shapes import FACTORS
from ssl_framework.data.pairs.captioned_shapes import NAMED, ShapeVocabulary
from ssl_framework.data.pairs.words import CaptionVocabulary
from ssl_framework.data.texts.caption_texts import CaptionPairs, CaptionTexts
from ssl_framework.data.texts.docstrings import Docstrings
from ssl_framework.data.texts.files import TextFiles
from ssl_framework.data.texts.worded import Said, WordedTexts
from ssl_framework.views.text import BEGIN, END, PADDING, UNKNOWN

WORDS = ShapeVocabulary()


def source(num_captions: int = 3, seed: int = 0, label: str = "colour") -> CaptionTexts:
    return CaptionTexts(30, 40, seed, label, num_captions, 20, WORDS, 96, 12)


def test_captions_are_texts_of_which_every_wording_names_the_factors_of_the_sample() -> None:
    split = source().load("test")
    assert split.shape == (40, 3, 20) and split.rows.dtype == torch.int32 and split.numbers is not None
    assert split.classes == FACTORS["colour"] and split.label is not None
    assert torch.equal(split.label, split.numbers["colour"])
    for row, sample in enumerate(split.rows.tolist()):  # type: ignore[attr-defined]
        for text in sample:
            said = {WORDS.names[token] for token in text if token > END}
            for factor, (slots, *_) in NAMED.items():
                if factor != "position":  # of two words
                    name = FACTORS[factor][int(split.numbers[factor][row])]
                    assert said & set(slots[name])


def test_drawing_is_a_function_of_its_seed_and_splits_are_drawn_apart() -> None:
    train, test, other = source().load("train"), source().load("test"), source(seed=1).load("test")
    assert torch.equal(source().load("pretrain").rows, train.rows)  # type: ignore[arg-type]
    assert train.graded is None
    assert not torch.equal(test.rows[:30], train.rows) and not torch.equal(test.rows, other.rows)  # type: ignore


@pytest.mark.parametrize("num_captions", [1, 3])
def test_pairs_are_graded_by_the_share_of_factors_in_common(num_captions: int) -> None:
    split = source(num_captions).load("test")
    assert split.graded is not None and split.numbers is not None
    pair, score = split.graded
    assert pair.shape == (len(score), 2, 2)
    for ((one, first), (two, second)), value in zip(pair.tolist(), score.tolist(), strict=True):
        shared = sum(int(split.numbers[factor][one] == split.numbers[factor][two]) for factor in NAMED)
        assert value == pytest.approx(shared / 5)
        assert (first, second) == ((0, 0) if one != two else (0, 1))
    counts = [(score - grade / 5).abs().lt(1e-6).sum().item() for grade in range(4)]
    assert counts == [12] * 4  # as many of each, as far as there are
    assert ((pair[:, 0, 0] == pair[:, 1, 0]).sum() > 0) == (num_captions > 1)


def test_a_factor_that_captions_do_not_name_is_no_label() -> None:
    with pytest.raises(ValueError, match=r"data\.source\.label is rotation: choose one of shape, colour, scale"):
        source(label="rotation")


# Files.


def loaded(root: Path, split: str = "train", tokens: int = 6, **columns: str) -> Split:
    texts = TextFiles(str(root), columns or None, 0.3, 0)
    return WordedTexts(texts, CaptionVocabulary(texts, 50, "words", None), tokens, 50).load(split)


def test_lines_of_text_files_are_texts_and_a_share_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n\n  two four \n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("five\nsix\nseven\neight one two three four five six\n")
    train, test = loaded(tmp_path), loaded(tmp_path, "test")
    assert train.shape == (4, 1, 6) and test.shape == (2, 1, 6)
    assert train.label is None and train.graded is None
    assert (train.rows[:, 0, 0] == BEGIN).all() and ((train.rows == END).sum(dim=2) == 1).all()  # type: ignore


def test_pairs_scores_labels_and_splits_are_columns(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("q,a,score,label\nred,a red one,1.5,x\nblue,a blue one,,y\nred,crimson,3,x\n")
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"q": "blue", "a": "red", "score": 0, "label": "y"}) + "\n\n"
        '{"q": "green", "a": "a", "score": 2, "label": "x"}\n'
    )
    train, test = (loaded(tmp_path, name, text="q", other="a") for name in ("train", "test"))
    assert train.shape == (3, 2, 6) and test.shape == (2, 2, 6)
    assert train.classes == ("x", "y") and train.label is not None and train.label.tolist() == [0, 1, 0]
    assert train.numbers is not None and train.numbers["group"].tolist() == [0, 1, 0]  # the same question
    assert train.graded is not None and train.graded.pair.tolist() == [[[0, 0], [0, 1]], [[2, 0], [2, 1]]]
    assert train.graded.score.tolist() == [1.5, 3.0]
    assert UNKNOWN in test.rows[1, 0].tolist() and PADDING in test.rows[1, 0].tolist()  # type: ignore[index]


def test_scores_of_all_pairs_are_the_labels_where_there_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,other,score\nred,a red one,1.5\nblue,red,0\nred,crimson,3\n")
    (tmp_path / "test.csv").write_text("text,other,score\ngreen,blue,0.5\nblue,azure,2\n")
    train = loaded(tmp_path, other="other")
    assert train.label is not None and train.label.tolist() == [1.5, 0.0, 3.0] and train.label.is_floating_point()
    assert train.graded is not None and train.graded.score.tolist() == [1.5, 0.0, 3.0]
    (tmp_path / "test.csv").write_text("text,other,score\ngreen,blue,0.5\nblue,azure,\n")
    assert loaded(tmp_path, other="other").label is None  # one has none


def test_a_list_of_wordings_in_jsonl_is_repeated_where_others_have_more(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ["a b", "b a", "c"]}\n{"text": ["d", "e"]}\n{"text": ["f", "g"]}\n')
    split = loaded(tmp_path)
    assert split.shape[1] == 3
    rows = split.rows.tolist()  # type: ignore[attr-defined]
    assert sum(row[2] == row[0] for row in rows) == len(rows) - sum(row[0] != row[2] for row in rows) >= 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text\nred\n  \n", r"a\.csv, line 3: a text is empty: write one, or remove the line\.$"),
        ("a.jsonl", '{"text": "red"}\n{"text": []}\n', r"line 2: a text is empty"),
        ("a.csv", "text,other\nred,\n", r"line 2: a text is empty"),
        ("a.csv", "line\nred\n", r"has no column text, it has line: name yours, as in 'data\.columns={text: question"),
        ("a.txt", b"caf\xe9\n", r"a\.txt is not UTF-8 \(byte 3\): save it as UTF-8\.$"),
        ("a.csv", b"text\ncaf\xe9\n", r"a\.csv is not UTF-8 \(byte 8\): save it"),
        ("a.csv", "text,score\nred,much\n", r"line 2: the score is 'much': write a number, or leave it empty\.$"),
        ("a.csv", "text,score\nred,nan\n", r"line 2: the score is 'nan'"),
        ("a.jsonl", '{"text": "a", "other": "b"}\n{"text": "c"}\n', r"texts without, such as 'c': give every text one"),
        ("a.jsonl", "{", r"a\.jsonl, line 1 is no JSON"),
        ("a.md", "red\n", r"has no \.txt, \.csv, \.tsv, \.jsonl file: put your texts there\.$"),
        ("a.txt", "\n", r"names no text: give it a line for each text\.$"),
        ("a.txt", "red\n", r"names 1 texts, of which none is left for test: change data\.test_fraction"),
        ("a.csv", "text,split\nred,dev\nblue,train\n", r"has the splits dev, train: a split is train, val or test"),
        (
            "a.csv",
            "text,label,split\nred,x,train\nblue,,test\n",
            r"1 of 2 texts have no label: give all of them one",
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words) as error:
        loaded(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_and_unknown_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist: name a folder of texts, or one file"):
        loaded(tmp_path / "none")
    with pytest.raises(ValueError, match=r"data\.columns has caption: it names text, other, score, label, split"):
        loaded(tmp_path, caption="text")


def test_more_words_than_the_vocabulary_are_refused() -> None:
    class Two:
        def splits(self) -> dict[str, list[Said]]:
            return {"train": [Said(("a b c",))], "test": [Said(("a",))]}

    with pytest.raises(ValueError, match=r"data\.vocabulary is 6, but there are 8 tokens: raise it to that"):
        WordedTexts(Two(), CaptionVocabulary(Two(), 50, "words", None), 6, 6).load("train")


# Functions.

CODE = '''
def add(a, b):
    """Return the sum of both.

    More is not said here.
    """
    total = a
    total += b
    return total


def short():
    """Too short a body to count."""
    return 1


class Box:
    async def open(self):
        """Open the box, and
        wait for it."""
        self.lid = None
        if self.lid:
            return
        await self.lid
'''


def test_functions_and_the_first_paragraph_of_their_docstrings_are_pairs(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"module_{number}.py").write_text(CODE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "no.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'")
    splits = Docstrings(str(tmp_path), 0.3).splits()
    assert sum(map(len, splits.values())) == 16 and splits["train"] and splits["test"]
    said = {each.texts[0]: each.texts[1] for each in splits["train"]}
    assert said.keys() == {"Return the sum of both.", "Open the box, and wait for it."}
    assert said["Return the sum of both."] == "def add(a, b):\n    total = a\n    total += b\n    return total"


def test_a_folder_without_functions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no function with a docstring for train: name a folder of Python files"):
        Docstrings(str(tmp_path), 0.3).splits()


def test_pairs_of_captions_are_labelled_with_what_they_share() -> None:
    split = CaptionPairs(300, 200, 0, 20, WORDS, 96).load("train")
    assert split.shape == (300, 2, 20) and split.label is not None and split.graded is not None
    assert split.label.is_floating_point() and torch.equal(split.label, split.graded.score)
    counts = (5 * split.label).round().long().bincount(minlength=6)
    assert counts.min() >= 15 and counts.sum() == 300
    number = {token: (factor, name) for factor, slots in NAMED.items() if factor != "position"
              for name, said in slots[0].items() for token in (WORDS.number[word] for word in said)}  # fmt: skip
    for texts, share in zip(split.rows.tolist(), split.label.tolist(), strict=True):  # type: ignore[attr-defined]
        found = [{number[token] for token in text if token in number} for text in texts]
        same = len(found[0] & found[1])  # of four, beside the position
        assert round(5 * share) - same in (0, 1)
