"""Data sets of Hugging Face, saved here: which rows, columns and splits are read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssl_framework.data.images.hub_sets import HubSet
from ssl_framework.runs.paths import confined

TARGET = "ssl_framework.data.images.hub_sets.HubSet"


def test_a_stored_config_names_no_data_elsewhere() -> None:
    stored = {"data": {"source": {"_target_": TARGET, "root": "a", "dataset": "owner/name"}}}
    with pytest.raises(ValueError, match="'owner/name', which names data elsewhere"):
        confined(stored, "config.yaml", Path("/run"))
    stored["data"]["source"]["dataset"] = None  # type: ignore[assignment]
    assert confined(stored, "config.yaml", Path("/run"))["data"]["source"]["make_cache"] is False


def rows(numbers: list[int], label: list[Any], kind: Any) -> Any:
    """Pictures of the grey value of their number."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"id": datasets.Value("int64"), "picture": datasets.Image(), "label": kind})
    pictures = [Image.new("L", (10, 8), number) for number in numbers]
    return datasets.Dataset.from_dict({"id": numbers, "picture": pictures, "label": label}, features=features)


def made(root: Path, **options: Any) -> HubSet:
    base = {"dataset": None, "download": False, "channels": 1, "image_size": 8, "test_fraction": 0.25, "seed": 0}
    return HubSet(str(root), **{**base, "num_workers": 0, **options})


def greys(split: Any) -> list[int]:
    return split.rows[torch.arange(len(split.rows))][:, 0, 0, 0].tolist()


def test_splits_and_classes_are_those_of_the_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["cat", "dog"])
    both = {"train": rows([5, 6, 7], [0, 1, 1], kind), "validation": rows([8, 9], [1, 0], kind)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "set")
    source = made(tmp_path / "set", make_cache=False)
    train, test = source.load("train"), source.load("test")
    assert (greys(train), greys(test), train.classes) == ([5, 6, 7], [8, 9], ("cat", "dog"))
    assert train.label is not None and train.label.tolist() == [0, 1, 1]
    assert test.label is not None and test.label.tolist() == [1, 0]


def test_a_share_is_held_out_of_a_folder_of_parquet_whose_classes_are_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    words = ["b", "a", "b", "a"]
    (tmp_path / "set").mkdir()
    rows([1, 2, 3, 4], words, datasets.Value("string")).to_parquet(tmp_path / "set" / "train.parquet")
    source = made(tmp_path / "set")
    train, test = source.load("train"), source.load("test")
    assert sorted(greys(train) + greys(test)) == [1, 2, 3, 4] and len(greys(test)) == 2
    for split in (train, test):
        assert split.label is not None
        assert [split.classes[i] for i in split.label.tolist()] == [words[grey - 1] for grey in greys(split)]
    with pytest.raises(ValueError, match="read through a cache that a run that is loaded does not write"):
        made(tmp_path / "set", make_cache=False).load("train")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        made(tmp_path / "no").load("train")
    rows([1, 2], [0, 1], datasets.Value("int64")).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=r"no column of images called x, it has id \(Value\), picture \(Image\)"):
        made(tmp_path / "set", image="x").load("train")
    with pytest.raises(ValueError, match="no column y, it has id, picture, label"):
        made(tmp_path / "set", label="y").load("train")
