"""Labels that are numbers: where they come from, what refuses them, and the probes that score them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from ssl_framework.build import build_module, check_labels
from ssl_framework.commands import prepare
from ssl_framework.data.base import Split
from ssl_framework.data.images.files import FilesSource
from ssl_framework.data.images.layout import Layout
from ssl_framework.data.images.shapes import FACTORS, NUMBERS, quantise
from ssl_framework.data.images.store import StoreSource
from ssl_framework.data.pseudo_labels import Classes
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.knn import KNN
from ssl_framework.evaluation.probes.linear import LinearProbe, LinearSGD
from ssl_framework.evaluation.probes.regression import KNNRegression, Ridge, ridge, spearman
from ssl_framework.runs.folder import read_json
from ssl_framework.runs.numbers import mean_and_spread, several, shown, speed_of, unit_of
from tests.data.test_data import folder_source, shapes
from tests.small_runs import run_in, small

# --- shapes


@pytest.mark.parametrize("label", NUMBERS)
def test_shapes_give_numbers(label: str) -> None:
    source, plain = shapes(label=label), shapes()
    test = source.load("test")
    assert test.label is not None and test.label.dtype == torch.float32 and test.classes == ()
    assert torch.equal(test.label, plain.factors("test")[label])
    assert torch.equal(test.rows, plain.load("test").rows)  # the choice does not change the drawing


def test_numbers_are_those_whose_bins_are_the_classes() -> None:
    factors = shapes(rotation=90).factors("train")
    scale, rotation = factors["scale_value"], factors["rotation_value"]
    assert torch.equal(quantise(scale, 0.5, 0.8, 4), factors["scale"]) and 0.5 <= scale.min() < 0.51
    assert torch.equal(quantise(rotation, -90, 90, len(FACTORS["rotation"])), factors["rotation"])
    assert rotation.max() > 85 and rotation.min() < -85 and 0.79 < scale.max() <= 0.8


# --- a folder with a CSV of targets


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve pictures of noise in two folders."""
    generator = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (12 + index, 20, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def table(images: Path, *more: str, left_out: int = 0, head: str = "path,target") -> Path:
    """A file that gives image i the number i / 8 - 0.5, without the first few, and with more lines."""
    lines = [f"{'ab'[i % 2]}/{i}.png,{i / 8 - 0.5}" for i in range(left_out, 12)]
    (images.parent / "targets.csv").write_text("\n".join([head, *lines, *more]) + "\n")
    return images.parent / "targets.csv"


def test_every_way_to_read_a_folder_gives_the_same_numbers(images: Path, tmp_path: Path, capsys: object) -> None:
    targets = str(table(images))
    in_memory = folder_source(images, targets=targets)
    prepare.main([str(images), str(tmp_path / "s"), "--short-side", "8", "--workers", "1", "--targets", targets])
    others = {
        "mapped": folder_source(images, targets=targets, resident_share=0.0),
        "prepared": StoreSource(str(tmp_path / "s"), channels=3, image_size=8),
        "decoded when asked for": FilesSource(str(images), 3, 8, 0.2, 0, num_workers=0, targets=targets),
    }
    for split in ("pretrain", "train", "test"):
        paths = Layout(images, 0.2, 0).split("test" if split == "test" else "train").paths  # stratified by the folders
        expected = torch.tensor([int(path.stem) / 8 - 0.5 for path in paths])
        for source in (in_memory, *others.values()):
            found = source.load(split)
            assert found.label is not None and found.label.dtype == torch.float32 and found.classes == ()
            assert torch.equal(found.label, expected)
    assert "numbers as labels" in capsys.readouterr().out  # type: ignore[attr-defined]


def test_other_numbers_are_another_store_and_unreadable_images_lose_theirs(images: Path) -> None:
    first = folder_source(images, targets=str(table(images)), resident_share=0.0).load("train")
    (images / "a" / "0.png").write_bytes(b"no image")
    text = table(images).read_text()
    table(images).write_text(text.replace("a/4.png,0.0", "./a/4.png,7"))
    with pytest.warns(UserWarning, match="1 of 10 images of the train split"):
        second = folder_source(images, targets=str(images.parent / "targets.csv"), resident_share=0.0, on_error="skip")
        label = second.load("train").label
    assert first.label is not None and label is not None and len(first.label) == 10 and len(label) == 9
    assert {-0.5, 0.0} <= set(first.label.tolist()) and not {-0.5, 0.0} & set(label.tolist()) and 7 in label


@pytest.mark.parametrize(
    ("more", "options", "words"),
    [
        (["a/99.png,1"], {}, r"has 1 paths that are not in .*, such as a/99.png: remove these lines"),
        ([], {"left_out": 3}, r"has no target for 3 of 12 images in .*, such as a/0.png: add a line"),
        (["a/0.png,old"], {"left_out": 1}, r"csv, line 13: the target of a/0.png is 'old', not a finite number"),
        (["a/0.png,nan"], {"left_out": 1}, r"line 13: the target of a/0.png is 'nan', not a finite number"),
        (["a/0.png,1e99"], {"left_out": 1}, r"the target of a/0.png is '1e99', not a finite number"),
        (["a/0.png,"], {"left_out": 1}, r"the target of a/0.png is '', not a finite number"),
        (["a/0.png"], {"left_out": 1}, r"the target of a/0.png is None, not a finite number"),
        (["a/0.png,1"], {}, r"line 14: a/0.png has a target already: keep one of the two lines"),
        ([], {"head": "file,age"}, r"has the columns file, age: its first line must name path and target"),
    ],
)
def test_tables_that_do_not_fit_are_refused(images: Path, more: list[str], options: dict, words: str) -> None:
    targets = table(images, *more, **options)
    with pytest.raises(ValueError, match=words) as error:
        folder_source(images, targets=str(targets)).load("train")
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_there_or_no_text(images: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.source\.targets=.*nothing\.csv does not exist"):
        folder_source(images, targets=str(images / "nothing.csv")).load("train")
    with pytest.raises(ValueError, match=r"data\.source\.targets=.*0\.png cannot be read as CSV"):
        folder_source(images, targets=str(images / "a" / "0.png")).load("train")


# --- what needs classes, and what takes numbers


@pytest.mark.parametrize(
    ("method", "overrides", "name"),
    [("supcon", (), "SupCon"), ("simlap", (), "SimLAP"), ("mocov2", ("objective.class_oracle=true",), "MoCo")],
)
def test_methods_of_classes_refuse_numbers(method: str, overrides: tuple[str, ...], name: str) -> None:
    module = build_module(small(method, *overrides), has_labels=True)
    with pytest.raises(ValueError) as error:
        check_labels(module.objective, torch.rand(5))
    assert str(error.value).startswith(f"{name} needs classes, but the labels of the training set are numbers: choose")
    assert str(error.value).endswith(
        "on a folder), method=balanced_mse, codiemb, conr, cosent, regression, sirl, supremix or another objective"
    )
    check_labels(module.objective, torch.arange(5))


@pytest.mark.parametrize("method", ["regression", "balanced_mse", "conr", "supremix"])
def test_methods_of_numbers_take_both_but_not_nothing(method: str) -> None:
    module = build_module(small(method), has_labels=True)
    check_labels(module.objective, torch.rand(5))
    check_labels(module.objective, torch.arange(5))
    with pytest.raises(ValueError, match="needs labels, but data=shapes has none for pretraining"):
        build_module(small(method), has_labels=False)


def test_pseudo_labels_of_classes_refuse_numbers() -> None:
    images = Split(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.rand(4))
    with pytest.raises(ValueError, match="pseudo_labels=classes takes classes, but the labels of this data set are"):
        Classes()(images, 0, torch.device("cpu"))


def test_a_run_on_numbers_ends_in_their_metrics(tmp_path: Path) -> None:
    mixer = ("mixer=c_mixup", "mixer.partners.bandwidth=0.05", "experiment=regression")
    run_in(tmp_path, small("regression", *mixer, "evaluation=regression", "evaluation.probes.knn.k=5"))
    result = read_json(tmp_path / "result.json")
    names = [f"knn[k=5]/{m}" for m in ("mae", "r2", "spearman")]
    names += [f"ridge[penalty=auto]/{m}" for m in ("mae", "r2", "spearman", "penalty")]
    assert list(result["metrics"]) == list(result["baselines"]["raw_pixels"]) == names
    assert 0 < result["metrics"]["ridge[penalty=auto]/mae"] < 0.3  # numbers in [0.4, 0.8]


def test_a_run_on_numbers_with_probes_of_classes_says_which_evaluation_to_choose(tmp_path: Path) -> None:
    cfg = small("regression", "experiment=regression", "evaluation=frozen", "evaluation.baselines=false")
    with pytest.warns(UserWarning, match="the linear probe skipped: it needs classes.*choose evaluation=regression"):
        run_in(tmp_path, cfg)
    assert read_json(tmp_path / "result.json")["metrics"] == {}


# --- probes


def line(n: int, dim: int, noise: float, seed: int) -> Frozen:
    """Numbers that are linear in features of very different lengths, and noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator) * torch.logspace(-1, 2, dim) + 3
    weight = torch.randn(dim, generator=torch.Generator().manual_seed(99)) / torch.logspace(-1, 2, dim)
    return Frozen(x, x @ weight + 5 + noise * torch.randn(n, generator=generator))


@pytest.mark.parametrize("dim", [8, 90])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_ridge_equals_scikit_learn(dim: int, penalty: float) -> None:
    """With fewer features than samples and with more."""
    train, test = line(60, dim, 0.5, 0), line(40, dim, 0.5, 1)
    scaler = StandardScaler().fit(train.x.double().numpy())
    theirs = SklearnRidge(alpha=60 * penalty).fit(scaler.transform(train.x.double().numpy()), train.y.double().numpy())
    expected = theirs.predict(scaler.transform(test.x.double().numpy()))
    (first, other) = ridge(train.x, train.y, [penalty, 7.0], test.x)
    np.testing.assert_allclose(first.numpy(), expected, rtol=1e-8)
    assert not torch.allclose(first, other)


def test_ridge_recovers_a_line_and_says_its_penalty() -> None:
    found = Ridge([1e-9, 100.0], 0.2, 0)(line(200, 6, 0.0, 0), line(100, 6, 0.0, 1))
    assert found == {
        "ridge[penalty=auto]/mae": pytest.approx(0, abs=1e-4),
        "ridge[penalty=auto]/r2": pytest.approx(1, abs=1e-6),
        "ridge[penalty=auto]/spearman": pytest.approx(1, abs=1e-3),
        "ridge[penalty=auto]/penalty": 1e-9,
    }


def test_the_penalty_is_chosen_without_the_test_split() -> None:
    """Numbers without any relation to the features: the most penalty is best, whatever the test split says."""
    train = line(60, 40, 0.0, 0)._replace(y=torch.randn(60, generator=torch.Generator().manual_seed(3)))
    for test in (line(50, 40, 0.0, 1), train):  # on the train split itself the least penalty would be the best
        assert Ridge([1e-6, 100.0], 0.3, 0)(train, test)["ridge[penalty=auto]/penalty"] == 100.0


@pytest.mark.parametrize("k", [1, 7])
def test_knn_regression_equals_scikit_learn(k: int) -> None:
    train, test = line(120, 5, 1.0, 0), line(70, 5, 1.0, 1)
    theirs = KNeighborsRegressor(k, metric="cosine", algorithm="brute").fit(train.x.numpy(), train.y.double().numpy())
    expected = theirs.predict(test.x.numpy())
    found = KNNRegression([k, 20], chunk=32)(train, test)
    assert found[f"knn[k={k}]/mae"] == pytest.approx(np.abs(expected - test.y.numpy()).mean(), rel=1e-5)
    assert found[f"knn[k={k}]/r2"] == pytest.approx(r2_score(test.y.numpy(), expected), abs=1e-5)
    assert found[f"knn[k={k}]/spearman"] == pytest.approx(spearmanr(expected, test.y.numpy()).statistic, abs=1e-5)
    assert KNNRegression(20)(train, test).items() <= found.items()


def test_ranks_of_equal_values_are_shared() -> None:
    x, y = torch.tensor([7.0, -1.0, 7.0, 0.0, 7.0, -1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 5.0])
    shared = [[sum(v < u for v in z) + (sum(v == u for v in z) + 1) / 2 for u in z.tolist()] for z in (x, y)]
    assert shared[0] == [5.0, 1.5, 5.0, 3.0, 5.0, 1.5]
    assert spearman(x, y) == pytest.approx(np.corrcoef(shared)[0, 1], abs=1e-12)
    assert spearman(x, -x.exp()) == pytest.approx(-1.0) and spearman(torch.ones(6), x) == 0.0


def test_classes_in_order_are_scored_as_numbers_too() -> None:
    train, test = (part._replace(y=part.y.round().long()) for part in (line(80, 5, 0.1, 0), line(40, 5, 0.1, 1)))
    assert Ridge([1e-3], 0.1, 0)(train, test)["ridge[penalty=auto]/r2"] > 0.8
    assert KNNRegression(3)(train, test)["knn[k=3]/mae"] > 0


PROBES = [Ridge([1e-3], 0.1, 0), KNNRegression(2)]


@pytest.mark.parametrize("probe", PROBES)
def test_dead_features_do_no_harm(probe: Ridge | KNNRegression) -> None:
    train, test = (
        part._replace(x=torch.full((len(part.x), 4), 2.0)) for part in (line(30, 4, 1, 0), line(20, 4, 1, 1))
    )
    found = probe(train, test)
    assert all(np.isfinite(value) for value in found.values())
    assert next(value for name, value in found.items() if name.endswith("spearman")) == 0.0


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_constant_numbers_are_skipped_with_one_line(probe: Ridge | KNNRegression, split: str) -> None:
    parts: dict[str, Frozen] = {"train": line(30, 4, 1.0, 0), "test": line(20, 4, 1.0, 1)}
    parts[split] = parts[split]._replace(y=torch.full_like(parts[split].y, 3.0))
    with pytest.warns(UserWarning, match=f"regression skipped: the labels of the {split} split are all the same"):
        assert probe(parts["train"], parts["test"]) == {}


def test_more_neighbours_than_samples_are_left_out_with_one_line() -> None:
    with pytest.warns(UserWarning, match=r"k-NN with k=\[200\] skipped: the train split has only 30 samples"):
        found = KNNRegression([5, 200])(line(30, 4, 1.0, 0), line(20, 4, 1.0, 1))
    assert list(found) == ["knn[k=5]/mae", "knn[k=5]/r2", "knn[k=5]/spearman"]


def test_probes_of_classes_skip_numbers_and_the_others_say_nothing() -> None:
    train, test = line(30, 4, 1.0, 0), line(20, 4, 1.0, 1)
    for probe in (KNN(5, 0.1), LinearProbe(1e-4, 5), LinearSGD([0.1], 1, 8, 0.9, 0.0, 0.1, 0)):
        with pytest.warns(UserWarning, match="skipped: it needs classes, but the labels are numbers: choose eval"):
            assert probe(train, test) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number_probe in PROBES:
            assert number_probe(train, test)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: Ridge([], 0.1, 0),
            r"Ridge's penalties is \[\]: it must be a list of one or more numbers",
        ),
        (lambda: Ridge([1.0, 0.0], 0.1, 0), r"penalties is \[1\.0, 0\.0\]"),
        (lambda: Ridge([1.0], 1.0, 0), r"Ridge's held_out is 1\.0: it must be above 0 and below 1"),
        (lambda: KNNRegression([5, 0]), r"KNNRegression's k is \[5, 0\]: it must be at least 1"),
    ],
)
def test_bad_settings_are_refused(build, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        build()


def test_errors_are_printed_with_the_digits_that_count() -> None:
    assert shown("knn[k=20]/mae", 0.012345) == "0.0123" and shown("linear[l2=0.0001]/top1", 51.26) == "51.3"
    assert mean_and_spread([0.011, 0.013], "ridge[penalty=auto]/mae") == "0.0120 ± 0.0014"
    assert mean_and_spread([62.3, 67.7], "effective_rank") == "65.0 ± 3.8" and mean_and_spread([65.0], "a") == "65"
    assert mean_and_spread([1.2e-8, 1.4e-8], "a") == "1.3e-08 ± 1.41e-09"
    assert mean_and_spread([1e4, 3e4], "a") == "2e+04 ± 1.41e+04" and mean_and_spread([-1.0, 1.0], "a") == "0 ± 1.41"
    assert unit_of(["a/mae"]) == "metric" and unit_of(["a/top1", "b/top1"]) == "top-1, percent"
    assert unit_of(["a/top1", "a/learning_rate"]) == "metric; top1 in percent"
    assert [several(x) for x in ("image", "series")] == ["images", "series"]
    assert speed_of({"images_per_second": 1500.4}) == "1,500 images/s"  # of an earlier version
    assert speed_of({"images_per_second": 2.0, "sample": "series"}) == "2 series/s"
