"""Vectors of images as a file: what is written, in which order, and what a stopped command leaves."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_framework.commands import embed as command
from ssl_framework.data.base import Split
from ssl_framework.data.images.files import Files
from ssl_framework.evaluation import embedding
from ssl_framework.evaluation.embedding import FileSamples, SplitSamples, embed_to
from ssl_framework.evaluation.features import Bare, extract_frozen
from ssl_framework.evaluation.foreign import Foreign, as_many_channels, foreign_config
from ssl_framework.runs.overrides import composed, merged, resolved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures in two splits and two classes, one of them broken, and one picture outside."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(10):
        place = root / ("train" if number % 2 else "test") / f"class {number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"ünder {number}.PNG")
    Image.fromarray(pixels).save(root / "=loose.png")
    (root / "test" / "class 0" / "broken.png").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def model() -> Bare:
    """A small random backbone."""
    foreign = Foreign.read("timm:ssl_tiny", None, None)
    data = composed("data", "files")
    return foreign.build(as_many_channels(resolved(merged(foreign_config(foreign), data), "test")), with_weights=True)


def silent(done: int) -> None:
    """Says nothing."""


def table(path: Path) -> dict[str, Any]:
    """Columns path, label, split and vector of an output."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    if path.suffix == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet")

        columns = pq.read_table(path).to_pydict()
        return {**columns, "vector": np.asarray(columns["vector"], np.float32)}
    with path.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    columns = dict(zip(("path", "label", "split"), zip(*(row[:3] for row in rows), strict=True), strict=True))
    return {**columns, "vector": np.asarray([[float(x) for x in row[3:]] for row in rows], np.float32)}


@pytest.mark.parametrize("ending", [".npz", ".csv", ".parquet"])
def test_each_kind_of_file_holds_every_readable_picture(folder: Path, model: Bare, tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")  # not among the requirements of the tests: litdata reads wrongly beside it
    out = tmp_path / f"vectors{ending}"
    found = embed_to(out, model, FileSamples(folder, 16, 3), {}, silent)
    columns = table(out)
    names = [
        path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and "broken" not in path.name
    ]
    assert list(columns["path"]) == [name.as_posix() for name in names]
    assert list(columns["label"]) == [name.parts[1] if len(name.parts) == 3 else "" for name in names]
    assert list(columns["split"]) == [name.parts[0] if len(name.parts) == 3 else "" for name in names]
    expected = extract_frozen(model, Split(Files([folder / name for name in names], 16, 3, 1)))
    torch.testing.assert_close(torch.from_numpy(columns["vector"]), expected, rtol=1e-5, atol=1e-6)
    assert (found.number, found.dim, found.computed) == (11, expected.shape[1], 12)
    assert (
        list(found.failed) == ["test/class 0/broken.png"]
        and "no image of a known format" in found.failed["test/class 0/broken.png"]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name]


def test_a_table_of_files_is_taken_in_the_order_of_its_lines(
    folder: Path, model: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    names = ["test/class 2/ünder 2.PNG", "missing.png", "train/class 1/ünder 1.PNG"]
    lines = [f"{folder / names[0]};7.5;validation", f"{names[1]};1;train", f"{folder / names[2]};2;train"]
    (tmp_path / "list.csv").write_text("\n".join(["file;age;split", *lines]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = ["backbone=timm:ssl_tiny", "images=list.csv", "columns={path: file, target: age}", "out=v.npz"]
    command.main([*arguments, "views.image_size=16"])
    said = capsys.readouterr()
    assert "2 vectors of 192 numbers" in said.out
    assert "note: 1 files could not be read and were left out: missing.png (" in said.err
    columns = table(tmp_path / "v.npz")
    assert list(columns["path"]) == [(folder / names[0]).as_posix(), (folder / names[2]).as_posix()]
    assert list(columns["label"]) == ["7.5", "2"] and list(columns["split"]) == ["val", "train"]
    samples = FileSamples(Path("list.csv"), 16, 3, {"path": "file", "target": "age"})
    embed_to(Path("own.npz"), model, samples, {}, silent)
    expected = extract_frozen(model, Split(Files([folder / names[0], folder / names[2]], 16, 3, 1)))
    torch.testing.assert_close(torch.from_numpy(table(Path("own.npz"))["vector"]), expected, rtol=1e-5, atol=1e-6)


def test_a_stopped_command_goes_on_and_writes_the_same_file(
    folder: Path, model: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "PART", 5)
    samples = FileSamples(folder, 16, 3)
    embed_to(tmp_path / "whole.npz", model, samples, {}, silent)

    def stop(done: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_to(tmp_path / "parts.npz", model, samples, {}, stop)
    assert not (tmp_path / "parts.npz").exists()
    with pytest.raises(ValueError, match="vectors of another backbone or of other samples: remove it"):
        embed_to(tmp_path / "parts.npz", model, samples, {"backbone": "another"}, silent)
    found = embed_to(tmp_path / "parts.npz", model, samples, {}, silent)
    assert found.computed == 2 and len(found.failed) == 1
    whole, parts = table(tmp_path / "whole.npz"), table(tmp_path / "parts.npz")
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_the_splits_of_a_data_set_come_one_after_another(model: Bare, tmp_path: Path) -> None:
    rows = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train, test = Split(rows[:4], torch.tensor([1, 0, 1, 1]), ("cat", "dog")), Split(rows[4:])
    embed_to(tmp_path / "v.npz", model, SplitSamples({"train": train, "test": test}, "x"), {}, silent)
    columns = table(tmp_path / "v.npz")
    assert list(columns["split"]) == ["train"] * 4 + ["test"] * 3
    assert list(columns["path"]) == ["0", "1", "2", "3", "0", "1", "2"]
    assert list(columns["label"]) == ["dog", "cat", "dog", "dog", "", "", ""]
    expected = extract_frozen(model, Split(rows))
    torch.testing.assert_close(torch.from_numpy(columns["vector"]), expected, rtol=1e-5, atol=1e-6)


def test_another_process_is_refused(folder: Path, model: Bare, tmp_path: Path) -> None:
    samples, out = FileSamples(folder, 16, 3), tmp_path / "v.npz"

    def again(done: int) -> None:
        with pytest.raises(ValueError, match="another process writes"):
            embed_to(out, model, samples, {}, silent)

    assert embed_to(out, model, samples, {}, again).number == 11


PICTURE = Path(__file__).resolve().parents[2] / "docs" / "speed.png"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of run= and backbone=: run=outputs/latest, or backbone=timm:resnet18"),
        (["run=a", "backbone=b", "images=c", "out=v.npz"], "give one of run= and backbone="),
        (["run=a", "out=v.npz"], "give one of images= and data=: images=<folder>, or data=<name>"),
        (["run=a", "images=c"], "say where the vectors go: out=vectors.npz, .csv or .parquet"),
        (["run=a", "images=c", "out=v.txt"], "out=v.txt ends in .txt: choose one of .npz, .csv, .parquet"),
        (["run=a", "image=c", "out=v.npz"], "there is no image= (did you mean images?): embed takes run=, backbone=,"),
        (["backbone=timm:ssl_tiny", "images=nowhere", "out=v.npz"], "images=nowhere is no folder"),
        (["backbone=timm:ssl_tiny", f"images={PICTURE}", "out=v.npz"], ".png is one file: give the folder it lies in"),
        (["run=a", "data=b", "columns={path: file}", "out=v.npz"], "columns= are of the CSV file that images= names"),
        (
            ["backbone=timm:ssl_tiny", "images=.", "data.table=list.csv", "out=v.npz"],
            "data.table=list.csv goes with data=files: give images=list.csv in the place of images=.",
        ),
        (
            ["backbone=timm:ssl_tiny", "images=.", "columns={path: file}", "out=v.npz"],
            "columns= are of a CSV file, but images=. is a folder: leave them out",
        ),
        (
            ["backbone=timm:ssl_tiny", "images=.", "columns=path", "out=v.npz"],
            "columns=path names no columns: write columns={path: file, label: class}",
        ),
        (["backbone=timm:ssl_tiny", "data=waves", "out=v.npz"], "reads pictures, but data=waves is of series"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert said in str(ended.value) and not list(tmp_path.iterdir())


def test_the_command_writes_a_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    command.main(["backbone=timm:ssl_tiny", f"images={folder}", "views.image_size=16", "out=v.csv"])
    said = capsys.readouterr()
    assert "11 vectors of 192 numbers in" in said.out and said.out.endswith("v.csv\n")
    assert "1 files could not be read and were left out: test/class 0/broken.png (it is no image" in said.err
    assert len(table(Path("v.csv"))["path"]) == 11
