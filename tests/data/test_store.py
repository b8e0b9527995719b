"""A store holds what decoding into memory gives, is whole or absent, and is made again when its files change."""

import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from ssl_framework.commands import prepare
from ssl_framework.data.images import decoding, folder, store
from ssl_framework.data.images.folder import FolderSource
from ssl_framework.data.images.store import Mapped, StoreSource
from tests.data.test_data import data_config, folder_source, truncate

SPLITS = ("pretrain", "train", "test")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve pictures of noise in two classes, of several sizes."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        for index in range(6):
            path = tmp_path / "images" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (12 + index, 20, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def made(images: Path, out: Path, *arguments: str) -> StoreSource:
    prepare.main([str(images), str(out), "--short-side", "8", "--workers", "2", *arguments])
    return StoreSource(str(out), channels=3, image_size=8)


def assert_same(a: Any, b: Any) -> None:
    """Two sources with the same images, labels and classes in every split."""
    for split in SPLITS:
        x, y = a.load(split), b.load(split)
        everything = torch.arange(len(x.rows))
        assert x.shape == y.shape and torch.equal(x.rows[everything], y.rows[everything]), split
        assert x.classes == y.classes and (x.label is y.label is None or torch.equal(x.label, y.label)), split


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A list that grows by every file that is decoded."""
    seen: list[Path] = []
    original = decoding.read_image

    def read(path: Path, size: int, channels: int, bits: int | None) -> torch.Tensor:
        seen.append(path)
        return original(path, size, channels, bits)

    monkeypatch.setattr(decoding, "read_image", read)
    return seen


# --- mapped files


def test_a_mapped_file_is_indexed_as_a_tensor(tmp_path: Path) -> None:
    expected = torch.randint(0, 256, (40, 3, 30, 31), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    count = store.write_pixels(tmp_path / "x.npy", iter(expected), 1000, expected.shape[1:])
    assert count == 40 and np.array_equal(np.load(tmp_path / "x.npy"), expected.numpy())  # the header is corrected
    pixels = Mapped(tmp_path / "x.npy")
    assert pixels.shape == (40, 3, 30, 31) and len(pixels) == 40 and pixels.device == torch.device("cpu")
    for index in (torch.arange(40), torch.tensor([39, 0, 7, 7, 39]), torch.tensor([], dtype=torch.int64)):
        chosen = pixels[index]
        assert chosen.dtype == torch.uint8 and torch.equal(chosen, expected[index])
    chosen = pixels[torch.tensor([3])]
    chosen.zero_()  # a copy: the file stays as it is
    assert torch.equal(pixels[torch.tensor([3])][0], expected[3])


@pytest.mark.parametrize("damage", ["shorter", "longer", "text", "float", "empty"])
def test_a_damaged_mapped_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 3, 5, 5), np.float32 if damage == "float" else np.uint8))
    content = path.read_bytes()
    changed = {"shorter": content[:-1], "longer": content + b"0", "text": b"text", "float": content, "empty": b""}
    path.write_bytes(changed[damage])
    with pytest.raises(ValueError, match=r"x\.npy .*make the store again") as caught:
        Mapped(path)
    assert "\n" not in str(caught.value)


# --- stores that the user makes


def test_a_store_holds_what_decoding_into_memory_gives(images: Path, tmp_path: Path, capsys: Any) -> None:
    source = made(images, tmp_path / "out")
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 10 train and 2 test images 8x8x3, 2 classes, 0.00 GB\n"
    assert isinstance(source.load("train").rows, Mapped) and source.load("pretrain") is source.load("train")
    assert_same(source, folder_source(images, image_size=8, stored_size=8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]  # nothing temporary is left
    given = json.loads((tmp_path / "out" / "store.json").read_text())
    assert given["short_side"] == 8 and given["channels"] == 3 and given["count"] == {"train": 10, "test": 2}


def test_a_store_of_grey_pictures_without_labels_or_test(images: Path, tmp_path: Path, capsys: Any) -> None:
    source = made(images / "a", tmp_path / "out", "--channels", "1", "--test-fraction", "0")
    assert "6 train images 8x8x1, no labels" in capsys.readouterr().out
    source.channels = 1
    expected = folder_source(images / "a", channels=1, test_fraction=0).load("train")
    train = source.load("train")
    assert torch.equal(train.rows[torch.arange(6)], expected.rows) and train.label is None
    with pytest.raises(ValueError, match=r"has no test images: make it again with --test-fraction above 0"):
        source.load("test")


def test_a_store_of_the_images_that_a_table_lists(images: Path, tmp_path: Path, capsys: Any) -> None:
    lines = [f"images/{name}/{number}.png,{name * 2},{split}" for name in "ab" for number, split in enumerate(SIX)]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["file,class,split", *lines]))
    source = made(table, tmp_path / "out", "--columns", "path=file", "label=class")
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 8 train and 4 test images 8x8x3, 2 classes, 0.00 GB\n"
    expected = folder_source(
        images, image_size=8, stored_size=8, table=str(table), columns={"path": "file", "label": "class"}
    )
    assert_same(source, expected)
    assert source.load("train").classes == ("aa", "bb")
    with pytest.raises(SystemExit, match=r"^error: .*has no column path, it has file, class, split: name yours.*--col"):
        made(table, tmp_path / "other")
    with pytest.raises(SystemExit, match=r"^error: --columns are of a CSV file, but .*images is none: leave them out"):
        made(images, tmp_path / "other", "--columns", "path=file")


SIX = ("train", "test", "train", "train", "testing", "train")
"""Splits of the six pictures of a class."""


def test_unreadable_files_are_refused_or_left_out_of_a_store(images: Path, tmp_path: Path) -> None:
    truncate(images / "a" / "2.jpg")
    (images / "b" / "9.png").write_text("not an image")
    arguments = ["--test-fraction", "0"]
    with pytest.raises(SystemExit, match=r"^error: 2 of 14 images of the train split .*a/2.jpg .*\(--on-error skip\)"):
        made(images, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="2 of 14 images .*left out"):
        source = made(images, tmp_path / "out", *arguments, "--on-error", "skip")
        expected = folder_source(images, test_fraction=0, on_error="skip").load("train")
    train = source.load("train")
    assert torch.equal(train.rows[torch.arange(12)], expected.rows)
    assert train.label.tolist() == expected.label.tolist() == [0] * 6 + [1] * 6
    assert json.loads((tmp_path / "out" / "store.json").read_text())["skipped"] == {"train": 2}


def test_a_store_is_not_overwritten(images: Path, tmp_path: Path) -> None:
    made(images, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(SystemExit, match=r"^error: .*out exists already: remove it, or name another"):
        made(images, tmp_path / "out")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "empty").mkdir()
    assert len(made(images, tmp_path / "empty").load("train").rows) == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--short-side", "0"], "--short-side is 0: it must be at least 1"),
        (["--workers", "0"], "--workers is 0"),
        (["--test-fraction", "1"], "data.test_fraction=1.0"),
    ],
)
def test_arguments_of_the_command_are_checked(images: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: .*{words}"):
        made(images, tmp_path / "out", *arguments)
    with pytest.raises(SystemExit, match=r"^error: data.root=.*nowhere does not exist"):
        made(images / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 1}, r"holds images of 3 channel\(s\) but data.channels=1: set data.channels to 3"),
        ({"image_size": 9}, r"8 x 8 pixels but data.image_size=9.*set data.image_size to at most 8.*--short-side 9"),
    ],
)
def test_a_store_that_does_not_fit_the_config(images: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    made(images, tmp_path / "out")
    with pytest.raises(ValueError, match=words):
        StoreSource(str(tmp_path / "out"), **{"channels": 3, "image_size": 8, **change}).load("train")


def test_a_store_that_is_not_there_or_not_whole(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"data.root=.*out does not exist: make one with python scripts/prep"):
        StoreSource(str(out), 3, 8).load("train")
    made(images, out)
    description = (out / "store.json").read_text()
    for text, words in (
        (description.replace('"version": 1', '"version": 7'), "is of version 7, not 1"),
        ("{}", "lacks version, short_side"),
        (description[:40], r"store.json is damaged"),
        (
            description.replace('"train": 10', '"train": 11'),
            r"train has images \[10, 3, 8, 8\], but store.json says \[11",
        ),
    ):
        (out / "store.json").write_text(text)
        with pytest.raises(ValueError, match=words) as caught:
            StoreSource(str(out), 3, 8).load("train")
        assert "\n" not in str(caught.value)
    (out / "store.json").write_text(description)
    (out / "train_label.npy").unlink()
    with pytest.raises(ValueError, match=r"is not the store its store\.json describes"):
        StoreSource(str(out), 3, 8).load("train")
    (out / "store.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no store.json, so it is no complete store"):
        StoreSource(str(out), 3, 8).load("train")


def test_the_config_builds_a_source(images: Path, tmp_path: Path) -> None:
    made(images, tmp_path / "out")
    cfg = data_config("store", f"data.root={tmp_path / 'out'}", "data.image_size=8")
    assert instantiate(cfg.source).load("train").shape == (10, 3, 8, 8)


# --- stores that a folder too large for the memory falls to


def from_disk(images: Path, **changes: Any) -> FolderSource:
    return folder_source(images, resident_share=0.0, **changes)


def stores(images: Path) -> list[str]:
    return sorted(path.name for path in (images / ".ssl_framework").iterdir() if path.name != ".lock")


def test_a_folder_too_large_for_the_memory_is_mapped_and_used_again(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = count_decoded(monkeypatch)
    with pytest.warns(UserWarning, match=r"more than data.resident_share=0.0 .*: making a memory-mapped store in"):
        first = from_disk(images)
        first.load("test")
    assert len(decoded) == 12 and isinstance(first.load("train").rows, Mapped)
    with pytest.warns(UserWarning, match=r"using the memory-mapped store in .*\.ssl_framework"):
        second = from_disk(images)
        second.load("train")
    assert len(decoded) == 12  # nothing is decoded again
    assert_same(first, folder_source(images))  # which does not list the store's files
    assert_same(second, first)


@pytest.mark.filterwarnings("ignore:.*memory-mapped store")
def test_other_files_or_settings_are_another_store(images: Path) -> None:
    from_disk(images).load("train")
    (before,) = stores(images)
    from_disk(images, stored_size=10).load("train")
    assert len(stores(images)) == 2 and before in stores(images)
    os.utime(images / "a" / "0.png", ns=(0, 0))
    source = from_disk(images)
    source.load("train")
    assert len(stores(images)) == 2 and before not in stores(images)  # the one of the old files is gone
    Image.new("RGB", (9, 9)).save(images / "b" / "7.png")
    changed = from_disk(images)
    assert len(changed.load("train").rows) + len(changed.load("test").rows) == 13
    assert_same(changed, folder_source(images))
    assert source.load("train").rows[torch.arange(3)].shape == (3, 3, 8, 8)  # a run on the old store goes on


@pytest.mark.filterwarnings("ignore:.*memory-mapped store")
def test_an_interrupted_store_is_not_used(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_description", interrupt)
        with pytest.raises(KeyboardInterrupt):
            from_disk(images).load("train")
    assert stores(images) == []
    left = images / ".ssl_framework" / ".x.1.partial"  # as a power cut leaves it
    left.mkdir()
    (left / "train.npy").write_text("half")
    source = from_disk(images)
    assert_same(source, folder_source(images))
    assert len(stores(images)) == 1 and not left.exists()


@pytest.mark.filterwarnings("ignore:.*memory-mapped store")
def test_of_processes_that_start_together_one_decodes(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = count_decoded(monkeypatch)
    sources = [from_disk(images) for _ in range(4)]
    threads = [threading.Thread(target=source.load, args=("train",)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 12
    for source in sources:
        assert_same(source, sources[0])


@pytest.mark.filterwarnings("ignore:.*memory-mapped store")
def test_without_locks_the_first_store_counts(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes the same store in the middle of making it."""
    original = store.write_description

    def late(partial: Path, description: dict[str, Any]) -> None:
        original(partial, description)
        if not [name for name in stores(images) if not name.startswith(".")]:
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: 1)
                patch.setattr(folder.fcntl, "flock", lambda *_: None)
                patch.setattr(folder.shutil, "rmtree", lambda *_, **__: None)
                patch.setattr(store, "write_description", original)
                other.load("train")

    other, source = from_disk(images), from_disk(images)
    monkeypatch.setattr(store, "write_description", late)
    source.load("train")
    assert_same(source, other)


@pytest.mark.filterwarnings("ignore:.*making a memory-mapped store")
def test_a_store_needs_a_place_that_can_be_written_and_room_in_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"cannot be written to .*file/x \(Not a directory\): set data.store to a folder"
    ):
        from_disk(images, store=str(tmp_path / "file" / "x")).load("train")
    elsewhere = tmp_path / "else" / "where"
    assert_same(from_disk(images, store=str(elsewhere)), folder_source(images))
    assert len(list(elsewhere.glob("*/store.json"))) == 1
    assert not (images / ".ssl_framework").exists()
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=r"needs 0.0 GB, but .*\.ssl_framework has 0.0 GB free: choose another folder"):
        from_disk(images).load("train")


@pytest.mark.filterwarnings("ignore:.*memory-mapped store")
def test_unreadable_files_are_left_out_of_the_store_aloud(images: Path) -> None:
    truncate(images / "a" / "2.jpg")
    with pytest.raises(ValueError, match=r"1 of \d+ images of the \w+ split .*a/2.jpg"):
        from_disk(images).load("train")
    with pytest.warns(UserWarning, match="cannot be read: a/2.jpg .*left out"):
        source = from_disk(images, on_error="skip")
        source.load("train")
    with pytest.warns(UserWarning, match=r"using the memory-mapped store .*, without 1 unreadable files"):
        assert_same(from_disk(images, on_error="skip"), source)


def test_what_fits_the_share_is_decoded_into_memory(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 12 * 3 * 8 * 8
    monkeypatch.setattr(folder, "free_memory", lambda: 2 * needed)
    source = folder_source(images, resident_share=0.5)
    assert isinstance(source.load("train").rows, torch.Tensor) and not (images / ".ssl_framework").exists()
    monkeypatch.setattr(folder, "free_memory", lambda: 2 * needed - 2)
    assert isinstance(source.load("test").rows, torch.Tensor)  # decided once for both splits
    with pytest.warns(UserWarning, match="making a memory-mapped store"):
        assert isinstance(folder_source(images, resident_share=0.5).load("train").rows, Mapped)
