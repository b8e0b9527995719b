"""Images as they are: many bands, sixteen bits, folders of splits by any name, broken files in the middle of a run."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ssl_framework.data.images.bands import read_bands, to_eight_bits
from ssl_framework.data.images.decoding import FORMATS, open_image, read_crops, read_image
from ssl_framework.data.images.dicom import ENDINGS as DICOM
from ssl_framework.data.images.files import Cutter, Files, FilesSource
from ssl_framework.data.images.layout import SUFFIXES, Layout
from ssl_framework.runs.folder import RunFolder
from ssl_framework.views.image import Views
from tests.data.test_files import views
from tests.small_runs import config, run_in

MOST = 10**6
QUIET = ("trainer=cpu", "trainer.log_every_n_steps=1", "report=none", "evaluation=none")


def bands(seed: int, count: int = 13, size: int = 20, highest: int = 4095) -> np.ndarray:
    """[C, size, size] uint16 up to ``highest``, which occurs."""
    values = np.random.default_rng(seed).integers(0, highest + 1, (count, size, size), dtype=np.uint16)
    values[0, 0, 0] = highest
    return values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen bands of twelve bits in .tif and .npy, train and validation, two classes."""
    root = tmp_path_factory.mktemp("bands")
    for number in range(24):
        place = root / ("Training" if number < 16 else "Validation") / f"class {number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        values = bands(number)
        if number % 3:
            tifffile.imwrite(place / f"{number}.TIF", values if number % 3 == 1 else np.moveaxis(values, 0, -1))
        else:
            np.save(place / f"{number}.npy", values)
    return root


def test_bands_are_read_whichever_way_they_lie(tmp_path: Path) -> None:
    values = bands(0)
    expected = torch.from_numpy(np.round(values * (255 / 4095)).astype(np.uint8))
    for name, array in (("first", values), ("last", np.moveaxis(values, 0, -1))):
        np.save(tmp_path / f"{name}.npy", array)
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric="minisblack")
        for ending in ("npy", "tif"):
            assert torch.equal(read_bands(tmp_path / f"{name}.{ending}", 13, 12, MOST), expected)
    assert torch.equal(read_image(tmp_path / "first.npy", 20, 13, 12), expected)
    np.save(tmp_path / "grey.npy", values[0])
    assert torch.equal(read_image(tmp_path / "grey.npy", 20, 1, 12), expected[:1])


def test_the_middle_square_and_the_crops_are_cut_from_all_bands(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 10, 14), dtype=np.uint8)
    np.save(tmp_path / "a.npy", values)
    assert torch.equal(read_image(tmp_path / "a.npy", 10, 5), torch.from_numpy(values[:, :, 2:12].copy()))
    opened = open_image(tmp_path / "a.npy", 5)
    assert (opened.height, opened.width) == (10, 14)
    (crop,) = read_crops(opened, [(1, 2, 8, 8)], [8], 5)
    assert torch.equal(crop, torch.from_numpy(values[:, 1:9, 2:10].copy()))


@pytest.mark.parametrize(
    ("values", "bits", "expected"),
    [
        (np.array([0, 65535, 32768], np.uint16), None, [0, 255, 128]),
        (np.array([0, 4095, 2048], np.uint16), 12, [0, 255, 128]),
        (np.array([0, 1023], np.int32), 10, [0, 255]),
        (np.array([7, 255], np.uint8), 12, [7, 255]),
        (np.array([True, False]), None, [255, 0]),
    ],
)
def test_the_highest_bit_that_is_used_becomes_white(values: np.ndarray, bits: int | None, expected: list[int]) -> None:
    assert to_eight_bits(values, bits).tolist() == expected


@pytest.mark.parametrize(
    ("array", "channels", "said"),
    [
        (bands(0), 12, "it has the shape 13 x 20 x 20, but data.channels is 12"),
        (bands(0, highest=4096), 13, "it has the value 4096, but data.bits=12 ends at 4095"),
        (bands(0).astype(np.float32), 13, "float32 values have no known range"),
        (bands(0).astype(np.int32) - 1, 13, "int32 values have no known range"),
        (np.zeros((13, 2000, 2000), np.uint8), 13, "2000 x 2000 pixels is more than the limit of 1000000"),
        (np.array([None]), 13, "Python objects in dtype"),
    ],
)
def test_what_has_no_place_is_refused(array: np.ndarray, channels: int, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=said):
        read_bands(tmp_path / "a.npy", channels, 12, MOST)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"\.png has at most three colours, but data\.channels is 13"):
        read_bands(tmp_path / "a.png", 13, None, MOST)


def test_grey_files_of_twelve_bits_are_scaled_by_what_was_said(tmp_path: Path) -> None:
    values = bands(0, count=1)[0]
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="has no value above 4095, and becomes dark: if the files use 12 bits"):
        dark = read_image(tmp_path / "a.png", 20, 1)
    assert dark.max() == 16
    assert read_image(tmp_path / "a.png", 20, 1, 12).tolist() == [np.round(values * (255 / 4095)).astype(int).tolist()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read_image(tmp_path / "a.png", 20, 1, 16), dark)


BANDS = ("data.channels=13", "data.bits=12", "data.mean=[0.5]", "data.std=[0.3]", "data.image_size=16")


@pytest.mark.parametrize("data", ["folder", "files"])
def test_thirteen_bands_of_twelve_bits_train(data: str, folder: Path, tmp_path: Path) -> None:
    stored = ("data.stored_size=20",) if data == "folder" else ("data.num_workers=0",)
    own = (f"data={data}", f"data.root={folder}", *BANDS, *stored, "views=multiband", "data.batch_size=8")
    own += ("evaluation=frozen", "evaluation.probes.knn.k=2", "evaluation.probes.linear=null", "trainer.max_epochs=1")
    assert run_in(tmp_path, config("method=simclr", *QUIET, *own)) is None
    result = RunFolder(tmp_path).read_result()
    assert result["steps"] == 2 and result["images"] == {"pretrain": 16, "train": 16, "test": 8}
    assert "knn[k=2,T=0.1]/top1" in result["metrics"]


def test_every_band_has_a_factor_of_its_own() -> None:
    images = torch.full((6, 5, 8, 8), 100, dtype=torch.uint8)
    made = Views([{"band_jitter": 0.2}], 8, 5, [0.0], [1.0]).of(images, torch.Generator().manual_seed(0))[0]
    factors = made[:, :, 0, 0] / (100 / 255)  # [B, C]
    torch.testing.assert_close(made, factors[:, :, None, None].expand_as(made) * (100 / 255))
    assert factors.min() >= 0.8 and factors.max() <= 1.2 and len(factors.unique()) == 30
    with pytest.raises(ValueError, match=r"gray changes the colours of RGB images.* or choose views=multiband"):
        Views([{"gray": 0.5}], 8, 5, [0.0], [1.0])


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "val"), ("Train", "Test"), ("training", "valid"), ("TRAIN", "validation"), ("train", "dev")],
)
def test_folders_of_splits_have_many_names(train: str, test: str, tmp_path: Path) -> None:
    for name, count in ((train, 3), (test, 2)):
        for number in range(count):
            for kind in ("cat", "dog"):
                (tmp_path / name / kind).mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4)).save(tmp_path / name / kind / f"{number}.png")
    splits = Layout(tmp_path, 0.2, 0).splits()
    assert [len(splits[name].paths) for name in ("train", "test")] == [6, 4]
    assert splits["train"].classes == ("cat", "dog")
    (tmp_path / test.swapcase()).mkdir()
    with pytest.raises(ValueError, match="which are the same split: rename or remove one"):
        Layout(tmp_path, 0.2, 0).splits()


def test_files_that_are_left_out_are_counted(tmp_path: Path) -> None:
    for name in ("a.pgm", "b.JFIF", "c.png"):
        Image.new("L", (4, 4)).save(tmp_path / name, "JPEG" if name.endswith("JFIF") else None)
    for name in ("d.heic", "e.heic", "f", ".hidden"):
        (tmp_path / name).write_text("")
    with pytest.warns(
        UserWarning, match=r"3 files below .* of other kinds and left out: \.heic \(2\), no ending \(1\)"
    ):
        splits = Layout(tmp_path, 0, 0).splits()
    assert [path.name for path in splits["train"].paths] == ["a.pgm", "b.JFIF", "c.png"]


def test_every_ending_that_is_listed_can_be_read(tmp_path: Path) -> None:
    known = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
    assert set(SUFFIXES) - {".npy", *DICOM} - ({".avif"} if "AVIF" not in FORMATS else set()) <= known


def broken(folder: Path, count: int = 12) -> Path:
    """Pictures of which the third and the fourth are cut."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(path)
    for number in (2, 3):
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        path.write_bytes(path.read_bytes()[:300])
    return folder


def test_the_next_readable_file_takes_the_place_of_a_broken_one(tmp_path: Path) -> None:
    paths = sorted(broken(tmp_path).rglob("*.png"), key=lambda path: path.name)
    groups = views().groups
    cut = Cutter(Files(paths, 24, 3, 0, on_error="skip"), groups, seed=0)[3, [1, 3, 2, 11]]
    assert not isinstance(cut, str)
    crops, boxes, positions, skipped = cut
    assert positions == [1, 4, 4, 11] and sorted(skipped) == [2, 3]
    whole = Cutter(Files(paths, 24, 3, 0), groups, seed=0)[3, [1, 4, 4, 11]]
    assert not isinstance(whole, str)
    assert all(torch.equal(*pair) for pair in zip(crops + boxes, whole[0] + whole[1], strict=True))
    refused = Cutter(Files(paths, 24, 3, 0), groups, seed=0)[3, [1, 3, 2, 11]]
    assert isinstance(refused, str) and "03.png cannot be read" in refused


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_with_broken_files_ends_and_counts_them(workers: int, tmp_path: Path) -> None:
    root = broken(tmp_path / "photos", 20)
    own = ("data=files", f"data.root={root}", "data.image_size=16", "data.batch_size=6", f"data.num_workers={workers}")
    own += ("data.test_fraction=0.1", "trainer.max_epochs=1", "data.on_error=skip")
    with pytest.warns(UserWarning, match=r"0[23]\.png cannot be read \(.*\): left out, as data\.on_error=skip says"):
        assert run_in(tmp_path / "run", config("method=simclr", *QUIET, *own)) is None
    skipped = RunFolder(tmp_path / "run").read_result()["skipped_files"]
    trained = {path.name for path in Layout(root, 0.1, 0).split("train").paths}
    assert {Path(name).name for name in skipped} == trained & {"02.png", "03.png"} != set()


def test_a_run_that_goes_on_names_what_was_broken_before(tmp_path: Path) -> None:
    root = broken(tmp_path / "photos", 16)
    own = ("data=files", f"data.root={root}", "data.image_size=16", "data.batch_size=7", "data.num_workers=0")
    own += ("data.test_fraction=0.125", "data.on_error=skip", "method=simclr", *QUIET)
    with pytest.warns(UserWarning, match="cannot be read"):
        run_in(tmp_path / "run", config(*own, "trainer.max_epochs=1"))
    before = RunFolder(tmp_path / "run").read_result()
    for path in (root / "a" / "02.png", root / "b" / "03.png"):  # mended meanwhile
        Image.new("RGB", (30, 30)).save(path)
    run_in(tmp_path / "run", config(*own, "trainer.max_epochs=2"), resume=True)
    after = RunFolder(tmp_path / "run").read_result()
    assert (before["steps"], after["steps"]) == (2, 4)
    assert after["skipped_files"] == before["skipped_files"] != {}


def test_an_evaluation_sees_black_where_a_file_is_broken(tmp_path: Path) -> None:
    source = FilesSource(str(broken(tmp_path)), 3, 16, 0.0, 0, on_error="skip")
    rows = source.load("train").rows
    with pytest.warns(UserWarning, match="cannot be read"):
        pixels = rows[torch.arange(12)]
    assert [bool((image == 0).all()) for image in pixels].count(True) == 2
    assert isinstance(rows, Files) and len(rows.skipped) == 2
