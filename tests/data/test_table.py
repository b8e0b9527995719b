"""Images that a CSV file lists."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_framework.data.images.files import FilesSource
from ssl_framework.data.images.folder import FolderSource
from ssl_framework.data.images.table import tabled

BASE = {"root": "unused", "channels": 1, "image_size": 8, "test_fraction": 0.25, "seed": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures, each of the grey value of its number, in two folders beside the table's."""
    (tmp_path / "lists").mkdir()
    for number in range(8):
        place = tmp_path / ("a b" if number % 2 else "ünder")
        place.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(place / f"{number}.png")
    return tmp_path


def path_of(folder: Path, number: int) -> Path:
    return folder / ("a b" if number % 2 else "ünder") / f"{number}.png"


def written(folder: Path, *lines: str) -> str:
    path = folder / "lists" / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def greys(split: object) -> list[int]:
    return split.rows[torch.arange(len(split.rows))][:, 0, 0, 0].tolist()  # type: ignore[attr-defined]


def test_paths_labels_and_splits_are_those_of_the_lines(folder: Path) -> None:
    lines = [
        "split,path,label",
        f"train,{path_of(folder, 3)},10",
        "Validation,../ünder/4.png,9",
        "training,../ünder/0.png,9",
        r"train,..\a b\1.png,2",
    ]
    source = FilesSource(**BASE, table=written(folder, *lines), num_workers=0)
    train, test = source.load("train"), source.load("test")
    assert (greys(train), greys(test)) == ([3, 0, 1], [4])
    assert train.classes == ("2", "9", "10")  # as numbers
    assert train.label is not None and train.label.tolist() == [2, 1, 0] and test.label.tolist() == [1]


def test_names_of_columns_and_the_delimiter_are_the_user_s_and_numbers_are_targets(folder: Path) -> None:
    lines = ["age;file", *(f"{number / 2};../{path_of(folder, number).relative_to(folder)}" for number in range(8))]
    source = FolderSource(
        **BASE,
        stored_size=8,
        on_error="refuse",
        table=written(folder, *lines),
        columns={"path": "file", "target": "age"},
    )
    train, test = source.load("train"), source.load("test")
    assert len(greys(train)) == 6 and sorted(greys(train) + greys(test)) == [*range(8)]
    for split in (train, test):
        assert split.label is not None and split.label.tolist() == [grey / 2 for grey in greys(split)]


def test_a_table_is_kept_in_a_store_and_a_changed_one_makes_another(folder: Path) -> None:
    pictures = [f"../{path_of(folder, number).relative_to(folder)}" for number in range(8)]
    for label in ("old", "new"):
        table = written(folder, "path,label", *(f"{path},{label} {i % 2}" for i, path in enumerate(pictures)))
        source = FolderSource(**BASE, stored_size=8, on_error="refuse", table=table, resident_share=0.0)
        assert source.load("train").classes == (f"{label} 0", f"{label} 1")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["file,label", "../a b/1.png,x"], "has no column path, it has file, label: name yours"),
        (["path", "../a b/1.png", "no.png", "../a b/7.jpg"], "2 of the 3 files that .* are missing: .*no.png, .*7.jpg"),
        (["path,label", "../a b/1.png,x", "../a b/3.png,"], "no label for 1 of 2 images, such as .*3.png"),
        (["path", "../a b/1.png", "../a b/1.png"], "lists 1 files more than once"),
        (["path,split", "../a b/1.png,train", "../a b/3.png,fold1"], "the split 'fold1'"),
        (["path,split", "../a b/1.png,val"], "no line of the split train, it has val"),
        (["path,split", "../a b/1.png,train", "../a b/3.png,val", "../a b/5.png,test"], "set data.test_folder"),
        (["path,target", "../a b/1.png,old"], "the target of .*1.png is 'old', not a finite number"),
        (["path,label,target", "../a b/1.png,x,1"], r"both label \(classes\) and target \(numbers\)"),
        (["path,label", ",x"], "line 2: the path is empty"),
        (["path"], "lists no image"),
    ],
)
def test_a_table_that_says_something_odd_is_refused_with_what_was_found(
    folder: Path, lines: list[str], said: str
) -> None:
    table = tabled(written(folder, *lines), None, "refuse")
    assert table is not None
    with pytest.raises(ValueError, match=said):
        table.splits(0.2, 0, None)


def test_missing_files_are_left_out_and_counted_where_that_is_wanted(folder: Path) -> None:
    table = tabled(written(folder, "path", "../a b/1.png", "no.png", "../a b/3.png"), None, "skip")
    assert table is not None
    with pytest.warns(UserWarning, match="1 of the 3 files .* left out"):
        found = table.splits(0.0, 0, None)
    assert [path.name for path in found["train"].paths] == ["1.png", "3.png"]
