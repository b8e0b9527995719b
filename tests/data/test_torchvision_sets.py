"""Any data set of torchvision, by name: FakeData needs no file, the others are small folders written here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssl_framework.data.images.torchvision_sets import TorchvisionSet
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.paths import confined
from tests.small_runs import config, run_in

BASE = {"root": "none", "download": False, "channels": 3, "image_size": 8, "test_fraction": 0.25, "seed": 0}
FAKE: dict[str, Any] = {"size": 12, "image_size": [3, 10, 14], "num_classes": 4}


def made(dataset: str, **options: Any) -> TorchvisionSet:
    return TorchvisionSet(dataset, **{**BASE, "num_workers": 0, **options})


def test_pictures_and_classes_are_torchvision_s_and_a_share_is_held_out() -> None:
    from torchvision.datasets import FakeData

    source = made("FakeData", splits={"train": FAKE})
    train, test = source.load("train"), source.load("test")
    fake = FakeData(**FAKE)
    assert train.shape == (len(train.rows), 3, 8, 8) and len(train.rows) + len(test.rows) == 12
    assert source.load("pretrain") is train
    for split in (train, test):
        assert split.label is not None
        positions = split.rows.paths.positions  # type: ignore[attr-defined]
        assert split.label.tolist() == [int(fake[position][1]) for position in positions]
        whole = split.rows.paths.image(1)  # type: ignore[attr-defined]
        assert whole.tobytes() == fake[positions[1]][0].tobytes()
        assert split.rows[torch.tensor([1, 0])].shape == (2, 3, 8, 8)


def test_splits_are_found_by_what_the_class_takes(tmp_path: Path) -> None:
    base = tmp_path / "imagenette2"
    for split, count in (("train", 3), ("val", 2)):
        for wnid in ("n01440764", "n02102040"):
            (base / split / wnid).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (12, 12), (number, 0, 0)).save(base / split / wnid / f"{number}.JPEG", quality=100)
    source = made("Imagenette", root=str(tmp_path))
    train, test = source.load("train"), source.load("test")
    assert (len(train.rows), len(test.rows)) == (6, 4)  # there is no test, but val
    assert train.label is not None and train.label.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("dataset", "options", "error", "said"),
    [
        ("Flower102", {}, ValueError, r"does not have \(did you mean Flowers102\?\)"),
        ("EuroSAT", {}, FileNotFoundError, "EuroSAT: no usable files .* set data.download=true"),
        ("EMNIST", {}, ValueError, "EMNIST cannot be made .*say its arguments with"),
        ("FakeData", {"splits": {"test": {}}}, ValueError, "give it train, and test"),
    ],
)
def test_what_is_not_there_is_refused(dataset: str, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        made(dataset, **options).load("train")


def test_a_run_trains_on_it(tmp_path: Path) -> None:
    own = ("data=torchvision", "data.source.dataset=FakeData", "data.image_size=8", "data.batch_size=4")
    own += ("data.source.splits={train: {size: 12, image_size: [3, 10, 14], num_classes: 4}}", "data.num_workers=0")
    quiet = ("method=simclr", "backbone=tiny", "trainer=cpu", "report=none", "evaluation=none")
    cfg = config(*quiet, *own, "data.test_fraction=0.3", "trainer.max_epochs=1")
    assert run_in(tmp_path / "run", cfg) is None
    assert RunFolder(tmp_path / "run").read_result()["images"] == {"pretrain": 8, "train": 8, "test": 4}


def test_a_stored_config_names_no_set_that_runs_what_it_reads() -> None:
    target = "ssl_framework.data.images.torchvision_sets.TorchvisionSet"
    for dataset in ("LSUN", "PhotoTour", "../x"):
        with pytest.raises(ValueError, match=f"{dataset}'"):
            confined({"data": {"source": {"_target_": target, "dataset": dataset}}}, "config.yaml", Path("/run"))
    found = confined({"data": {"source": {"_target_": target, "dataset": "DTD", "download": True}}}, "c", Path("/run"))
    assert found["data"]["source"] == {"_target_": target, "dataset": "DTD", "download": False}
