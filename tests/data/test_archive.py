"""Files of the UCR and UEA archives: the same samples in every form, the rules for gaps and lengths, and refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_framework.data.series.archive import SUFFIXES, Archive, read_file
from tests.small_runs import SMALL, config, run_in

TRAIN = [([1.0, 2.0, 3.0, 4.0], "2"), ([4.0, 3.0, math.nan, 1.0], "10"), ([0.0, 0.0, 2.0, 2.0], "2")]
TEST = [([1.0, 1.0, 1.0, 5.0], "10"), ([math.nan, 2.0, 2.0, math.nan], "2")]
"""Gaps in the middle and at both ends; the classes are in the order of numbers, 2 before 10."""


def written(folder: Path, suffix: str) -> Path:
    """A data set of one channel in one of the forms."""
    folder.mkdir(exist_ok=True)
    for ending, samples in (("TRAIN", TRAIN), ("TEST", TEST)):
        path = folder / f"Toy_{ending}{suffix}"
        texts = [["?" if math.isnan(x) else f"{x}" for x in values] for values, _ in samples]
        names = [name for _, name in samples]
        if suffix == ".ts":
            head = "# a comment\n@problemName Toy\n@timeStamps false\n@univariate true\n@classLabel true 2 10\n@data\n"
            path.write_text(head + "".join(f"{','.join(t)}:{name}\n" for t, name in zip(texts, names, strict=True)))
        elif suffix == ".tsv":
            lines = ["\t".join([name, *t]).replace("?", "NaN") for t, name in zip(texts, names, strict=True)]
            path.write_text("\n".join(lines) + "\n")
        elif suffix == ".arff":
            head = "@relation toy\n" + "".join(f"@attribute a{i} numeric\n" for i in range(4))
            lines = "".join(f"{','.join([*t, name])}\n" for t, name in zip(texts, names, strict=True))
            path.write_text(f"{head}@attribute target {{2,10}}\n@data\n{lines}")
        else:
            np.savez(path, X=np.array([values for values, _ in samples]), y=np.array(names))
    return folder


def expected() -> tuple[torch.Tensor, torch.Tensor]:
    """The rules by hand."""
    train = np.array([[1, 2, 3, 4], [4, 3, 2, 1], [0, 0, 2, 2]], dtype=float)
    test = np.array([[1, 1, 1, 5], [2, 2, 2, 2]], dtype=float)
    mean, std = train.mean(), train.std()
    one, other = (torch.from_numpy((x - mean) / std).float()[:, None] for x in (train, test))
    return one, other


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_form_holds_the_same_samples(suffix: str, tmp_path: Path) -> None:
    source = Archive(str(written(tmp_path / "toy", suffix)), 4, 1)
    train, test = source.load("train"), source.load("test")
    # .tsv fills shorter series up with NaN, so that one at the end means a shorter series there
    want = expected()
    assert torch.allclose(train.rows, want[0], atol=1e-6) and torch.allclose(test.rows, want[1], atol=1e-6)  # type: ignore[arg-type]
    assert train.classes == ("2", "10") and train.label.tolist() == [0, 1, 0] and test.label.tolist() == [1, 0]  # type: ignore[union-attr]
    assert source.load("pretrain") is train and train.rows.dtype == torch.float32


def test_other_lengths_are_stretched_linearly_and_channels_normalised_apart(tmp_path: Path) -> None:
    head = "@univariate false\n@dimensions 2\n@classLabel true a b\n@data\n"
    (tmp_path / "M_TRAIN.ts").write_text(head + "0,2:10,10,30:a\n4,4,4:20,20,20:b\n")
    (tmp_path / "M_TEST.ts").write_text(head + "1,1,1:10,20,30:a\n")
    read = read_file(tmp_path / "M_TRAIN.ts").series[0]
    assert read.shape == (2, 3) and math.isnan(read[0, 2])  # the shorter channel is missing at its end
    train = Archive(str(tmp_path), 5, 2).load("train").rows
    raw = np.array([[[0, 1, 2, 2, 2], [10, 10, 10, 20, 30]], [[4] * 5, [20] * 5]], dtype=float)
    normal = (raw - raw.mean((0, 2), keepdims=True)) / raw.std((0, 2), keepdims=True)
    assert torch.allclose(train, torch.from_numpy(normal).float(), atol=1e-6)  # type: ignore[arg-type]


def test_several_channels_of_weka_are_read_as_those_of_arrays(tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(3, 2, 4)
    head = "@relation m\n@attribute m relational\n" + "".join(f"@attribute t{i} numeric\n" for i in range(4))
    rows = "".join('"' + "\\n".join(",".join(map(str, row)) for row in sample) + '",a\n' for sample in x)
    (tmp_path / "M_TRAIN.arff").write_text(f"{head}@end m\n@attribute class {{a,b}}\n@data\n{rows}")
    found = read_file(tmp_path / "M_TRAIN.arff")
    assert np.array_equal(np.stack(found.series), x) and found.label == ["a"] * 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("A_TRAIN.ts", "1,2:a\n", "A_TRAIN.ts, line 1: values come before @data"),
        ("A_TRAIN.ts", "@data\n1,2\n", 'A_TRAIN.ts, line 2: there is no ":" before a class'),
        ("A_TRAIN.ts", "@data\n1,x:a\n", "A_TRAIN.ts, line 2: could not convert string to float: 'x'"),
        ("A_TRAIN.ts", "@timestamps true\n@data\n", "A_TRAIN.ts, line 1: time stamps or numbers as labels"),
        ("A_TRAIN.ts", "@data\n1,2:a\n?,?:a\n", "A_TRAIN.ts, sample 2: a channel has fewer than two values, or only"),
        ("A_TRAIN.ts", "@data\n", "A_TRAIN.ts has no samples"),
        ("A_TRAIN.tsv", "1\t2\t3\n1\tx\t3\n", "A_TRAIN.tsv, line 2: could not convert"),
        ("A_TRAIN.arff", "nothing", "A_TRAIN.arff cannot be read as .arff"),
        ("A_TRAIN.npz", "nothing", "A_TRAIN.npz cannot be read as .npz with X and y"),
    ],
)
def test_what_is_no_such_file_is_refused_in_one_sentence(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as found:
        read_file(tmp_path / name)
    assert "\n" not in str(found.value)


def test_settings_that_do_not_fit_the_files_are_refused_with_those_that_do(tmp_path: Path) -> None:
    folder = written(tmp_path / "toy", ".tsv")
    with pytest.warns(UserWarning, match=r"toy have 3 to 4 points and are stretched to data\.length=8"):
        assert Archive(str(folder), 8, 1).load("train").shape == (3, 1, 8)
    with pytest.raises(ValueError, match=r"have 1 channel\(s\), but data\.channels is 3: set data\.channels=1"):
        Archive(str(folder), 4, 3).load("train")
    (folder / "Toy_TEST.tsv").write_text("7\t1\t2\n")
    with pytest.raises(ValueError, match="has the class 7, which the training file has not"):
        Archive(str(folder), 4, 1).load("train")
    (folder / "Toy_TEST.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file called \*_TEST\.ts, .* but Toy_TRAIN\.tsv: put"):
        Archive(str(folder), 4, 1).load("test")
    with pytest.raises(FileNotFoundError, match="which is no folder"):
        Archive(str(tmp_path / "none"), 4, 1).load("test")
    with pytest.raises(ValueError, match="There is no split"):
        Archive(str(folder), 4, 1).load("valid")


def test_a_run_trains_on_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    folder = tmp_path / "toy"
    folder.mkdir()
    for ending, number in (("TRAIN", 48), ("TEST", 24)):
        y = np.arange(number) % 2
        x = np.sin(np.linspace(0, 6 + 6 * y[:, None], 32, axis=-1))[:, 0] + 0.1 * generator.normal(size=(number, 32))
        np.savez(folder / f"Toy_{ending}.npz", X=x, y=y)
    own = (f"data.root={folder}", "data.length=32", "data.num_classes=2")
    cfg = config("method=simclr", "data=ucr", *own, *(item for item in SMALL if not item.startswith("data.source")))
    assert run_in(tmp_path / "run", cfg, data="ucr") is None
