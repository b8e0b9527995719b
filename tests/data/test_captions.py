"""Captioned pictures of files: tables, their errors in one sentence, tokens, and emoji of a folder as npm has it."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_framework.build import build, build_data
from ssl_framework.data.pairs.captions import Captioned, CaptionTable
from ssl_framework.data.pairs.emoji import EmojiFolder
from ssl_framework.data.pairs.shards import CaptionShards
from ssl_framework.data.pairs.words import CaptionVocabulary, words_in
from ssl_framework.training.vocabulary import write_vocabulary
from ssl_framework.views.text import BEGIN, END, PADDING, SPECIAL, UNKNOWN
from tests.small_runs import config

LINES = (
    "path,caption,label,split",
    "a/0.png,A red square,square,train",
    "a/0.png,the square is red,square,train",
    "a/1.png,a blue disc!,disc,train",
    "a/2.png,a red disc,disc,test",
)


def pictures(root: Path, count: int) -> None:
    (root / "a").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (12, 10), (40 * number, 0, 255)).save(root / "a" / f"{number}.png")


def table(
    root: Path, content: str | bytes = "\n".join(LINES), name: str = "captions.csv", **changed: object
) -> CaptionTable:
    pictures(root, 3)
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return CaptionTable(str(root), name, **{"columns": None, "test_fraction": 0.4, "seed": 0, **changed})  # type: ignore


def composed(root: Path, data: str, *overrides: str):  # type: ignore[no-untyped-def]
    return config("method=clip", f"data={data}", f"data.root={root}", "data.batch_size=2", *overrides)


def test_lines_of_one_path_are_captions_of_one_picture(tmp_path: Path) -> None:
    found = table(tmp_path).splits()
    first = Captioned(tmp_path / "a/0.png", ("A red square", "the square is red"), "square", "train")
    assert found["train"][0] == first and [len(found[name]) for name in ("train", "test")] == [2, 1]


def test_jsonl_and_tsv_say_the_same(tmp_path: Path) -> None:
    lines = [
        {"path": "a/0.png", "caption": ["A red square", "the square is red"], "label": "square", "split": "train"},
        {"path": "a/1.png", "caption": "a blue disc!", "label": "disc", "split": "train"},
        {"path": "a/2.png", "caption": "a red disc", "label": "disc", "split": "test"},
    ]
    expected = table(tmp_path).splits()
    assert table(tmp_path, "\n".join(map(json.dumps, lines)), "c.jsonl").splits() == expected
    assert table(tmp_path, "\n".join(LINES).replace(",", "\t"), "c.tsv").splits() == expected


def test_a_table_without_splits_holds_out_a_share_of_every_class(tmp_path: Path) -> None:
    pictures(tmp_path, 10)
    lines = ["file,text,class", *(f"a/{n}.png,number {n},{n % 2}" for n in range(10))]
    columns = {"path": "file", "caption": "text", "label": "class"}
    found = table(tmp_path, "\n".join(lines), columns=columns).splits()
    assert [len(found[name]) for name in ("train", "test")] == [6, 4]
    assert sorted(each.label for each in found["test"]) == ["0", "0", "1", "1"]
    other = table(tmp_path, "\n".join(lines), columns=columns, seed=1).splits()
    assert other["test"] != found["test"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LINES[0], "names no picture: give it a line for each caption"),
        ("path,text\na/0.png,x", r"has no column caption, it has path, text: name yours, as in 'data.columns="),
        ("path,caption\na/0.png,", "line 2: the caption of a/0.png is empty: write one, or remove the line"),
        ("path,caption\na/0.png", "line 2: the caption of a/0.png is empty"),
        ("path,caption\n,x", "line 2: the path is empty"),
        ("path,caption\na/9.png,x", r"1 of the 1 pictures of data.table=\S+ are missing, such as \S+a/9.png: correct"),
        ("path,caption\na/0.png,caf\u00e9".encode("latin-1"), r"is not UTF-8 \(byte \d+\): save it as UTF-8"),
        ("path,caption,label\na/0.png,x,b\na/0.png,y,c", "line 3: a/0.png has another label or split than in a line"),
        ("path,caption,split\na/0.png,x,train\na/1.png,y,dev", "has the splits dev, train: a split is train, val or"),
        ("path,caption\na/0.png,x", "names 1 pictures, of which none is left for test: change data.test_fraction"),
    ],
)
def test_a_bad_table_is_refused_in_one_sentence(content: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as error:
        table(tmp_path, content).splits()
    assert "\n" not in str(error.value)


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1 is no JSON \(.*\): write one object a line"):
        table(tmp_path, "path: a", "c.jsonl").splits()
    with pytest.raises(ValueError, match=r"is none of \.csv, \.tsv, \.jsonl"):
        table(tmp_path, "x", "c.txt").splits()
    with pytest.raises(ValueError, match=r"data\.columns has text: it names path, caption, label, split"):
        table(tmp_path, columns={"text": "caption"}).splits()
    with pytest.raises(FileNotFoundError, match=r"captions\.csv does not exist: name a CSV or JSONL file of captions"):
        CaptionTable(str(tmp_path / "none"), "captions.csv", None, 0.2, 0).splits()


def test_a_folder_loads_as_pictures_tokens_classes_and_prompts(tmp_path: Path) -> None:
    table(tmp_path)
    cfg = composed(tmp_path, "image_text_folder", "data.image_size=8", "data.stored_size=8", "data.tokens=6")
    data = build_data(cfg)
    split, words = data.train, build(cfg.data.words)
    assert split.rows.shape == (2, 3, 8, 8) and split.classes == ("disc", "square") and split.label.tolist() == [1, 0]
    texts = split.beside["text"]
    assert texts.shape == (2, 2, 6) and texts.dtype == torch.int32
    assert words.decode(texts[0, 1]) == "the square is red"
    assert torch.equal(texts[1, 0], texts[1, 1])  # one caption: it comes again
    assert words.decode(split.prompts["class"][1, 1]) == "a <unknown> <unknown> square"
    assert [words.decode(row) for row in data.test.beside["text"][0]] == ["a red disc"] * 2
    assert data.test.numbers["group"].tolist() == [0] and data.test.numbers["class"].tolist() == [0]


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    table(tmp_path)
    (tmp_path / "a" / "1.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"1 of 2 images of the train split in .* cannot be read: a/1\.png"):
        build_data(composed(tmp_path, "image_text_folder"))


def test_some_labels_are_refused_and_a_prompt_needs_its_place(tmp_path: Path) -> None:
    lines = ["path,caption,label", "a/0.png,x,b", "a/1.png,y,", "a/2.png,z,b"]
    table(tmp_path, "\n".join(lines))
    with pytest.raises(ValueError, match="1 of 3 pictures have no label: give all of them one, or none"):
        build_data(composed(tmp_path, "image_text_folder"))
    with pytest.raises(ValueError, match=r"data\.prompts has 'a picture', which has no \{\} for the class"):
        build_data(composed(tmp_path, "image_text_folder", "data.prompts=[a picture]"))


class Said:
    """Captions without pictures."""

    root = Path()

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)

    def splits(self) -> dict[str, list[Captioned]]:
        return {"train": [Captioned(Path(), self.texts)], "test": [Captioned(Path(), ("unseen",))]}


def test_words_of_any_language_and_the_most_frequent_first() -> None:
    assert words_in("A Red-Square, don\u2019t! \uff21 5") == ["a", "red", "square", "don", "t", "a", "5"]
    assert words_in("\u7f9e\u6da9 \u5fae\u7b11 Caf\u00e9") == ["\u7f9e", "\u6da9", "\u5fae", "\u7b11", "caf\u00e9"]
    words = CaptionVocabulary(Said(["b a", "a c", "a b d"]), 8, "words", None)
    assert words.names == [*SPECIAL, "a", "b", "c"] and len(words) == 8
    found = words.encode(["a unseen B", "a b c a b c"], 5)
    assert found.tolist() == [[BEGIN, 5, UNKNOWN, 6, END], [BEGIN, 5, 6, 7, END]]
    assert words.encode(["c"], 5)[0].tolist() == [BEGIN, 7, END, PADDING, PADDING]


def test_a_run_keeps_its_words_and_another_one_reads_them(tmp_path: Path) -> None:
    words = CaptionVocabulary(Said(["b a", "a c"]), 100, "words", None)
    write_vocabulary(words, tmp_path)
    file = str(tmp_path / "vocabulary.json")
    again = CaptionVocabulary(Said(["other words"]), 100, "words", file)
    assert again.names == words.names and torch.equal(again.encode(["a b"], 6), words.encode(["a b"], 6))
    with pytest.raises(
        ValueError, match=r"has 8 tokens of the kind words: set data\.tokenizer=words and data\.vocabulary"
    ):
        len(CaptionVocabulary(Said(["x"]), 7, "words", file))
    with pytest.raises(FileNotFoundError, match=r"does not exist: name vocabulary\.json of a run's folder"):
        len(CaptionVocabulary(Said(["x"]), 7, "words", str(tmp_path / "none")))
    (tmp_path / "vocabulary.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"vocabulary\.json cannot be read"):
        len(CaptionVocabulary(Said(["x"]), 7, "words", file))


def test_pieces_of_words(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    words = CaptionVocabulary(Said(["a red square", "a reddish squared disc"] * 3), 280, "bpe", None)
    assert words.names[:5] == list(SPECIAL) and len(words) <= 280
    tokens = words.encode(["a red disc"], 12)
    assert tokens[0, 0] == BEGIN and words.decode(tokens[0]).strip() == "a red disc"
    assert not (words.encode(["never \u7f9e seen"], 30) == UNKNOWN).any()  # bytes at the least
    write_vocabulary(words, tmp_path)
    again = CaptionVocabulary(Said(["other"]), 280, "bpe", str(tmp_path / "vocabulary.json"))
    assert torch.equal(again.encode(["a red disc"], 12), tokens)


def test_pieces_of_words_want_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"data\.tokenizer=bpe needs the package tokenizers: pip install"):
        len(CaptionVocabulary(Said(["x"]), 280, "bpe", None))
    with pytest.raises(ValueError, match=r"data\.tokenizer is letters: choose one of words, bpe"):
        CaptionVocabulary(Said(["x"]), 280, "letters", None)


def emoji(root: Path) -> Path:
    """Two packages as npm lays them out, of ten emoji of two groups, a flag and a part."""
    images, words = root / "node_modules" / "emoji-datasource-google", root / "node_modules" / "emojibase-data"
    (images / "img" / "google" / "64").mkdir(parents=True)
    codes = [f"1F60{n}" for n in range(10)] + ["1F1E6-FE0F", "1F9B0"]
    about = []
    for number, code in enumerate(codes):
        Image.new("RGBA", (64, 64), (20 * number, 9, 9, 128)).save(images / "img/google/64" / f"{code.lower()}.png")
        about.append({"unified": code, "image": f"{code.lower()}.png"})
    (images / "emoji.json").write_text(json.dumps(about))
    for language, word in (("en", "face"), ("zh", "\u8138")):
        said = [
            {
                "label": f"{word} {n}",
                "tags": [word, "x"] if n else [],
                "hexcode": code.replace("-FE0F", ""),
                "group": group,
            }
            for n, (code, group) in enumerate(zip(codes, [0] * 5 + [4] * 5 + [9, 2], strict=True))
        ]
        (words / language).mkdir(parents=True)
        (words / language / "data.json").write_text(json.dumps([*said, {"label": "letter", "hexcode": "1F1FF"}]))
    groups = [{"order": n, "message": name} for n, name in ((0, "smileys"), (2, "parts"), (4, "food"), (9, "flags"))]
    (words / "en" / "messages.json").write_text(json.dumps({"groups": groups}))
    return root


def test_emoji_with_their_names_in_two_languages(tmp_path: Path) -> None:
    found = EmojiFolder(str(emoji(tmp_path)), ["en", "zh"], False, 0.2, 0).splits()
    assert [len(found[name]) for name in ("train", "test")] == [8, 2]
    every = {each.path.stem: each for part in found.values() for each in part}
    assert every["1f603"].texts == ("face 3", "face x", "\u8138 3", "\u8138 x") and every["1f603"].label == "smileys"
    assert every["1f600"].texts == ("face 0", "face 0", "\u8138 0", "\u8138 0") and every["1f607"].label == "food"
    flags = EmojiFolder(str(tmp_path), ["zh"], True, 0.2, 0)
    assert any(each.label == "flags" for part in flags.splits().values() for each in part)


def test_emoji_train_and_lie_on_white(tmp_path: Path) -> None:
    cfg = composed(emoji(tmp_path), "emoji", "data.languages=[en,zh]")
    data = build_data(cfg)
    assert data.train.rows.shape == (8, 3, 40, 40) and data.train.beside["text"].shape == (8, 4, 16)
    assert data.train.classes == ("food", "smileys") and data.test.prompts["class"].shape == (2, 1, 16)
    assert data.train.rows.min() >= 127  # half transparent


def test_emoji_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no emoji-datasource-google: run npm install emoji-datasource-"):
        EmojiFolder(str(tmp_path), ["en"], False, 0.2, 0).splits()
    with pytest.raises(FileNotFoundError, match=r"data\.languages has it, but \S+ has en, zh\."):
        EmojiFolder(str(emoji(tmp_path)), ["en", "it"], False, 0.2, 0).splits()
    (tmp_path / "node_modules" / "emojibase-data" / "en" / "data.json").write_text("{")
    with pytest.raises(ValueError, match=r"data\.json cannot be read as JSON .* install the package again"):
        EmojiFolder(str(tmp_path), ["en"], False, 0.2, 0).splits()


def shard(path: Path, **members: bytes) -> None:
    """A tar file of members named key__ending."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo("some/" + name.replace("__", "."))
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), (level, 0, 255)).save(file, "png")
    return file.getvalue()


def test_shards_are_read_where_they_lie(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", a__png=png(10), a__txt=b"a red thing\n\nit is red", a__cls=b"red", b__json=b"{}")
    shard(tmp_path / "train-1.tar", a__txt="caf\u00e9".encode(), a__cls=b"blue", a__png=png(20), c__txt=b"no picture")
    shard(tmp_path / "test-0.tar", x__jpg=png(30), x__txt=b"a red cup", x__cls=b"red")
    found = CaptionShards(str(tmp_path), 0.2, 0).splits()
    assert [each.texts for each in found["train"]] == [("a red thing", "it is red"), ("caf\u00e9",)]
    split = build_data(composed(tmp_path, "image_text_shards", "data.image_size=8", "data.stored_size=8")).train
    assert split.rows[:, 0, 0, 0].tolist() == [10, 20] and split.classes == ("blue", "red")
    assert split.label.tolist() == [1, 0] and split.beside["text"].shape == (2, 2, 32)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a__png": b"x"}, r"some/a\.png has no caption: a sample is a picture and a text of the same name"),
        ({"a__png": b"x", "a__txt": b" \n"}, r"some/a\.png has an empty caption"),
        ({"a__png": b"x", "a__txt": b"\xff\xfe"}, r"some/a\.txt is not UTF-8 \(byte 0\): save it as UTF-8"),
    ],
)
def test_bad_shards_are_refused_in_one_sentence(members: dict[str, bytes], words: str, tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", **members)
    with pytest.raises(ValueError, match=words):
        CaptionShards(str(tmp_path), 0.2, 0).splits()


def test_no_shards_and_no_tar_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no \.tar file: name the folder of your shards"):
        CaptionShards(str(tmp_path), 0.2, 0).splits()
    (tmp_path / "0.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"0\.tar cannot be read as an uncompressed tar file"):
        CaptionShards(str(tmp_path), 0.2, 0).splits()
