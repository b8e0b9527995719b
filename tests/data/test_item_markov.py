"""Sequences of items: what is shown and asked at which moment, the drawing, and tables of one's own."""

from pathlib import Path

import pytest
import torch

from ssl_framework.data.sequences.histories import last_ends, windows
from ssl_framework.data.sequences.interactions import Interactions
from ssl_framework.data.sequences.item_markov import ItemMarkov


def markov(**changed: object) -> ItemMarkov:
    plain = {"num_train": 40, "num_test": 20, "items": 20, "categories": 4, "length": 6, "history": [3, 9]}
    plain |= {"taste": 2.0, "stay": 0.6, "follow": 0.5, "noise": 0.05, "prefixes": 3, "seed": 0}
    return ItemMarkov(**{**plain, **changed})  # type: ignore[arg-type]


def test_windows_show_the_items_before_a_moment_and_ask_for_the_next() -> None:
    histories = [torch.tensor([5, 2, 9, 4]), torch.tensor([1, 3])]
    ends = last_ends(histories, 0, 2)
    assert ends == [(0, 3), (0, 2), (1, 1)]  # the first item of a user is never asked for
    rows, label = windows(histories, ends, 2)
    assert rows.tolist() == [[2, 9], [5, 2], [0, 1]] and label.tolist() == [3, 8, 2]
    assert last_ends(histories, 1, 5) == [(0, 2), (0, 1)]  # nothing is left of the second


def test_splits_have_samples_of_their_own_users() -> None:
    source = markov()
    pretrain, train, test = (source.load(name) for name in ("pretrain", "train", "test"))
    assert pretrain.shape == (40, 6) and test.shape == (20, 6) and 80 < len(train.rows) <= 120
    for split in (pretrain, train, test):
        rows = split.rows[torch.arange(len(split.rows))]
        assert rows.dtype == torch.int64 and rows.min() >= 0 and rows.max() <= 20 and (rows[:, -1] > 0).all()
        assert split.label.min() >= 0 and split.label.max() < 20 and len(split.classes) == 20  # type: ignore[union-attr]
        assert ((rows > 0).diff(dim=1).int() >= 0).all()  # padding stands in front
    again = markov().load("train")
    assert torch.equal(train.rows, again.rows) and torch.equal(train.label, again.label)  # type: ignore[arg-type]
    assert not torch.equal(pretrain.rows, markov(seed=1).load("pretrain").rows)  # type: ignore[arg-type]


def test_without_noise_a_category_is_left_as_often_as_is_said_and_successors_follow() -> None:
    source = markov(num_train=400, history=[9, 9], length=9, stay=1.0, follow=1.0, noise=0.0)
    rows = source.load("pretrain").rows[torch.arange(400)][:, 1:] - 1  # [N, 8]
    assert (rows % 4 == rows[:, :1] % 4).all()  # nobody leaves
    pairs = torch.stack([rows[:, :-1].flatten(), rows[:, 1:].flatten()], 1)
    kinds, counts = pairs.unique(dim=0, return_counts=True)
    per_item = kinds[:, 0].bincount()
    assert per_item.max() == 3  # successors of an item
    first = torch.tensor([int(counts[kinds[:, 0] == i].max()) for i in range(20)]).sum() / counts.sum()
    assert abs(first - 0.6) < 0.03
    away = markov(num_train=400, stay=0.0, taste=0.0, noise=0.0).load("pretrain").rows[torch.arange(400)]
    both = (away[:, -1] > 0) & (away[:, -2] > 0)
    assert abs((away[both, -1] % 4 == away[both, -2] % 4).float().mean() - 0.25) < 0.08


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"categories": 6}, r"data\.source\.categories is 6, but there are 20 items: set it to at most 5"),
        ({"history": [9, 3]}, r"data\.source\.history is \[9, 3\]: give two whole numbers, lo <= hi"),
        ({"history": [2, 3]}, r"history is \[2, 3\]: it must be a list of 2 whole numbers, each at least 3"),
        ({"noise": 1.5}, r"noise is 1\.5: it must be between 0 and 1"),
    ],
)
def test_numbers_out_of_range_are_refused(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        markov(**changed)
    with pytest.raises(ValueError, match="There is no split"):
        markov().load("valid")


TABLE = """user,item,time
u2,b,3
u1,a,1
u1,c,2
u1,b,2
u1,b,2
u2,a,1
u2,c,9.5
u3,a,1
"""
"""u1 has a, then b and c at the same time; one line twice; u3 has a single item."""


def interactions(folder: Path, text: str = TABLE, **changed: object) -> Interactions:
    (folder / "t.csv").write_text(text)
    plain = {"root": str(folder), "table": "t.csv", "items": 3, "length": 4, "prefixes": 5}
    return Interactions(**{**plain, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_holds_histories_in_the_order_of_times_without_the_last_item(delimiter: str, tmp_path: Path) -> None:
    source = interactions(tmp_path, TABLE.replace(",", delimiter))
    with pytest.warns(UserWarning, match="1 of the 3 users in .* have fewer than 3 items: left out"):
        test = source.load("test")
    assert test.rows.tolist() == [[0, 0, 1, 2], [0, 0, 1, 2]] and test.label.tolist() == [2, 2]  # type: ignore
    assert test.classes == ("a", "b", "c")
    for name in ("pretrain", "train"):
        split = source.load(name)
        assert split.rows.tolist() == [[0, 0, 0, 1]] * 2 and split.label.tolist() == [1, 1]  # type: ignore[union-attr]


def test_columns_of_other_names_and_lines_that_are_left_out(tmp_path: Path) -> None:
    text = "movieId,when,userId\n" + "".join(f"{item},{time},u\n" for time, item in enumerate(("10", "9", "x")))
    named = {"user": "userId", "item": "movieId", "time": "when"}
    assert interactions(tmp_path, text, columns=named).load("test").classes == ("9", "10", "x")  # natural order
    broken = text + "7,soon,u\n,3,u\n"
    with pytest.warns(UserWarning, match="2 lines of .* cannot be read and are left out, the first is 5"):
        assert len(interactions(tmp_path, broken, columns=named, on_error="skip").load("train").rows) == 1
    with pytest.raises(ValueError, match=r"t\.csv, line 5: user, item and time are \['u', '7', 'soon'\]"):
        interactions(tmp_path, broken, columns=named).load("train")


@pytest.mark.parametrize(
    ("text", "changed", "words"),
    [
        (TABLE, {"items": 9}, r"has 3 items, but data\.items is 9: set data\.items=3$"),
        (TABLE, {"on_error": "keep"}, r"data\.on_error is keep: choose refuse or skip"),
        (TABLE, {"columns": {"when": "time"}}, r"data\.columns names when: there are user, item, time"),
        ("user,item\nu,a\n", {}, r"has no column time, but user, item: set data\.columns, such as"),
        ("", {}, "has no column user, but none"),
        ("user,item,time\nu,a,1\nv,b,2\n", {}, "has no user of 3 items or more"),
        ("user,item,time\nu,a,nan\n", {}, "line 2: user, item and time are"),
    ],
)
@pytest.mark.filterwarnings("ignore:1 of the 3 users")
def test_what_cannot_be_a_table_is_refused_in_one_sentence(
    text: str, changed: dict, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words) as found:
        interactions(tmp_path, text, **changed).load("train")
    assert "\n" not in str(found.value)


def test_no_table_and_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no table .*u\.csv: set data\.root"):
        interactions(tmp_path, table="u.csv").load("train")
    source = interactions(tmp_path)
    source.path.write_bytes(b"user,item,time\n\xff,\xff,1\n")
    with pytest.raises(ValueError, match="is no table in UTF-8"):
        source.load("train")
