"""A classifier judged on clean images: calibration and neural collapse in closed cases and against loops."""

import math
from pathlib import Path

import pytest
import torch

from ssl_framework.build import build_data, build_module
from ssl_framework.evaluation.features import Frozen, Readout, extract_frozen
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.evaluation.probes.calibration import Calibration, aece, ece
from ssl_framework.evaluation.probes.neural_collapse import ClassifierCollapse, NeuralCollapse
from ssl_framework.evaluation.probes.tasks import TaskAccuracy
from ssl_framework.evaluation.request import evaluate
from ssl_framework.evaluation.score_all import references
from ssl_framework.runs.folder import read_json
from tests.small_runs import config, run_in, small


def answers(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences, some of them equal, and whether each answer was right."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(n, generator=generator, dtype=torch.float64)
    confidence[::5] = 0.6
    return confidence, torch.rand(n, generator=generator) < confidence.sqrt()


def of_bins(confidence: torch.Tensor, correct: torch.Tensor, bins: list[list[int]]) -> float:
    """Sum over bins of |bin| / M |accuracy - mean confidence|, by loops."""
    total = 0.0
    for members in (b for b in bins if b):
        mean = sum(float(confidence[i]) for i in members) / len(members)
        accuracy = sum(float(correct[i]) for i in members) / len(members)
        total += len(members) / len(confidence) * abs(accuracy - mean)
    return total


def test_calibration_error_equals_the_loop() -> None:
    confidence, correct = answers(61)
    bins = [[i for i, p in enumerate(confidence) if k / 15 < p <= (k + 1) / 15] for k in range(15)]
    assert ece(confidence, correct, 15) == pytest.approx(of_bins(confidence, correct, bins), abs=1e-12)
    lower = [sum(float(q) < float(p) for q in confidence) for p in confidence]
    bins = [[i for i, rank in enumerate(lower) if rank * 15 // 61 == k] for k in range(15)]
    assert aece(confidence, correct, 15) == pytest.approx(of_bins(confidence, correct, bins), abs=1e-12)
    assert ece(confidence, correct, 1) == pytest.approx(abs(confidence.mean() - correct.double().mean()).item())


def test_bins_of_equal_mass_hold_equally_many() -> None:
    """Ten in each of three bins: the gap of every bin is that of its tenths of the sorted confidences."""
    confidence = torch.linspace(0.1, 0.99, 30, dtype=torch.float64)[torch.randperm(30)]
    correct = confidence > 0.5
    order = confidence.argsort().tolist()
    expected = of_bins(confidence, correct, [order[:10], order[10:20], order[20:]])
    assert aece(confidence, correct, 3) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("error", [ece, aece])
def test_calibration_error_in_closed_cases(error) -> None:  # type: ignore[no-untyped-def]
    three_of_four = torch.tensor([True, True, False, True] * 5)
    assert error(torch.full((20,), 0.75), three_of_four, 15) == 0
    assert error(torch.ones(20), torch.zeros(20, dtype=torch.bool), 15) == 1
    assert error(torch.ones(20), torch.ones(20, dtype=torch.bool), 15) == 0
    assert error(torch.zeros(20), torch.zeros(20, dtype=torch.bool), 15) == 0  # the lowest confidence has a bin
    confidence, correct = answers(40)
    order = torch.randperm(40)
    assert error(confidence, correct, 7) == pytest.approx(error(confidence[order], correct[order], 7), abs=1e-12)


def test_calibration_of_a_classifier() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    readout = Readout(weight, torch.tensor([0.0, 0.5, 0.0]))
    test = Frozen(torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0, 1, 0, 2]))
    got = Calibration(15)(test, test, readout)
    assert list(got) == ["top1", "nll", "ece[bins=15]", "aece[bins=15]"]
    logits = [[3.0, 0.5, 0.0], [0.0, 2.5, 0.0], [1.0, 1.5, 0.0], [-1.0, -0.5, 0.0]]
    p = [[math.exp(v) / sum(math.exp(u) for u in row) for v in row] for row in logits]
    assert got["top1"] == 75.0
    assert got["nll"] == pytest.approx(-sum(math.log(row[y]) for row, y in zip(p, [0, 1, 0, 2], strict=True)) / 4)
    gaps = [abs(max(row) - right) for row, right in zip(p, [1, 1, 0, 1], strict=True)]
    assert got["aece[bins=15]"] == pytest.approx(100 * sum(gaps) / 4, abs=1e-6)  # every sample a bin of its own
    with pytest.raises(ValueError, match="num_bins is 0: it must be at least 1"):
        Calibration(0)


def simplex(classes: int, dim: int, shift: float = 2.0) -> torch.Tensor:
    """[classes, dim] vertices of a regular simplex, turned and moved away from the origin."""
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    return 3 * centred @ turn[:classes] + shift


def test_a_simplex_is_collapsed() -> None:
    vertices, y = simplex(4, 7), torch.arange(20) % 4
    split = Frozen(vertices[y], y)
    for name, value in NeuralCollapse()(split, split).items():
        assert value == pytest.approx(100 if name == "nearest_mean/top1" else 0, abs=1e-9), name
    weight = 0.4 * (vertices - vertices.mean(dim=0))
    got = ClassifierCollapse()(split, split, Readout(weight.float(), -weight.float() @ vertices.mean(dim=0).float()))
    assert list(got) == ["nc2_equinorm", "nc2_equiangular", "nc3", "nc4_agreement"]
    for name, value in got.items():
        assert value == pytest.approx(100 if name == "nc4_agreement" else 0, abs=1e-6), name


def test_neural_collapse_equals_the_definitions() -> None:
    """NC1 through the pseudo-inverse of a D x D matrix, angles by loops; classes 0, 2 and 5, unequally often."""
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 2, 5, 5, 2, 5, 0, 5, 5, 2])
    x = torch.randn(10, 6, generator=generator, dtype=torch.float64) + y[:, None] * torch.eye(6)[0] + 1
    test = Frozen(torch.randn(30, 6, generator=generator, dtype=torch.float64) + 2, torch.tensor([0, 2, 5] * 10))
    mu = torch.stack([torch.stack([row for row, c in zip(x, y, strict=True) if c == k]).mean(0) for k in (0, 2, 5)])
    m = mu - mu.mean(dim=0)
    within = torch.zeros(6, 6, dtype=torch.float64)
    for k, c in enumerate((0, 2, 5)):
        rows = [row - mu[k] for row, label in zip(x, y, strict=True) if label == c]
        within += sum(torch.outer(row, row) for row in rows) / len(rows) / 3
    between = sum(torch.outer(row, row) for row in m) / 3
    got = NeuralCollapse()(Frozen(x, y), test)
    assert got["nc1"] == pytest.approx(torch.trace(within @ torch.linalg.pinv(between, rtol=1e-9)).item() / 3)

    def gaps(rows: torch.Tensor) -> tuple[float, float]:
        norms = [math.sqrt(sum(float(v) ** 2 for v in row)) for row in rows]
        mean = sum(norms) / 3
        cosines = [float(rows[i] @ rows[j]) / norms[i] / norms[j] for i in range(3) for j in range(3) if i != j]
        return math.sqrt(sum((n - mean) ** 2 for n in norms) / 3) / mean, sum(abs(c + 1 / 2) for c in cosines) / 6

    assert (got["nc2_equinorm"], got["nc2_equiangular"]) == pytest.approx(gaps(m))
    near = [(0, 2, 5)[min(range(3), key=lambda k: float((row - mu[k]).norm()))] for row in test.x]
    right = sum(a == b for a, b in zip(near, test.y.tolist(), strict=True))
    assert got["nearest_mean/top1"] == pytest.approx(100 * right / 30) and 0 < right < 30

    readout = Readout(torch.randn(6, 6, generator=generator), torch.randn(6, generator=generator))
    found = ClassifierCollapse()(Frozen(x, y), test, readout)
    w = readout.weight[[0, 2, 5]].double()
    assert (found["nc2_equinorm"], found["nc2_equiangular"]) == pytest.approx(gaps(w))
    cosine = (w * m).sum().item() / w.norm().item() / m.norm().item()
    assert found["nc3"] == pytest.approx(2 - 2 * cosine)
    agree = sum(int(row.argmax()) == c for row, c in zip(readout.logits(test.x), near, strict=True))
    assert found["nc4_agreement"] == pytest.approx(100 * agree / 30) and 0 < agree < 30


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_neural_collapse_does_not_depend_on_the_scale_of_features(factor: float) -> None:
    split = Frozen(torch.randn(40, 5, generator=torch.Generator().manual_seed(2)), torch.arange(40) % 4)
    scaled = split._replace(x=factor * split.x)
    for probe in (NeuralCollapse(), lambda *s: ClassifierCollapse()(*s, Readout(torch.eye(5)[:4], torch.zeros(4)))):
        assert probe(scaled, scaled) == pytest.approx(probe(split, split), rel=1e-4)


def test_equal_class_means_are_left_out_with_one_line() -> None:
    split = Frozen(torch.ones(6, 3), torch.arange(6) % 2)
    for probe in (NeuralCollapse(), lambda *s: ClassifierCollapse()(*s, Readout(torch.ones(2, 3), torch.zeros(2)))):
        with pytest.warns(UserWarning, match="neural collapse skipped: all class means are equal"):
            assert probe(split, split) == {}


def test_numbers_have_no_classes_that_could_collapse() -> None:
    split = Frozen(torch.eye(6), torch.arange(6.0))
    with pytest.warns(UserWarning, match="neural collapse skipped: it needs classes"):
        assert NeuralCollapse()(split, split) == {}


SHORT = ("evaluation=classifier", "evaluation.probes.knn.k=5", "evaluation.probes.linear=null", "trainer.max_epochs=1")


def test_the_students_own_classifier_is_judged_beside_the_probes_and_again_later(tmp_path: Path) -> None:
    cfg = small("supervised", *SHORT)
    run_in(tmp_path, cfg)
    result = read_json(tmp_path / "result.json")
    frozen = ["knn[k=5,T=0.1]/top1", "nc1", "nc2_equinorm", "nc2_equiangular", "nearest_mean/top1"]
    judged = ["top1", "nll", "ece[bins=15]", "aece[bins=15]", "nc2_equinorm", "nc2_equiangular", "nc3", "nc4_agreement"]
    own = [f"classifier/{name}" for name in judged]
    assert list(result["metrics"]) == list(result["baselines"]["untrained"]) == frozen + own
    assert list(result["baselines"]["raw_pixels"]) == frozen
    assert evaluate(tmp_path, []) == result["metrics"]
    assert references(tmp_path) == result["baselines"]
    others = ("probes.knn", "probes.neural_collapse", "head_probes.classifier.neural_collapse")
    alone = evaluate(tmp_path, [f"evaluation.{key}=null" for key in others])
    assert alone == {name: result["metrics"][name] for name in own[:4]}


def test_the_answers_judged_are_those_of_the_student_on_clean_images_in_eval_mode() -> None:
    cfg = small("supervised", *SHORT, "evaluation.baselines=false")
    data, module = build_data(cfg), build_module(cfg, True)
    seen: list[torch.Tensor] = []

    def probe(train: Frozen, test: Frozen, readout: Readout) -> dict[str, float]:
        seen.append(readout.logits(test.x))
        return {}

    evaluation = FrozenEvaluation({}, 0, head_probes={"classifier": {"probe": probe}})
    assert evaluation.score(evaluation.features_of(module), data, module.student) == {}
    module.eval()
    with torch.no_grad():
        expected = module.student.encode(module.views.clean(data.test.rows))["classifier"]
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)
    assert extract_frozen(module, data.test).shape[1] == module.student.heads["classifier"].linear.in_features


def test_a_classifier_of_several_tasks_is_judged_on_old_and_new_classes() -> None:
    readout = Readout(torch.eye(4), torch.zeros(4))
    y = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    test = Frozen(torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 2, 2, 0, 2]), 4).float(), y)
    assert TaskAccuracy(2, 3)(test, test, readout) == {
        "tasks[first=2,end=3]/old_top1": pytest.approx(100 * 2 / 3),
        "tasks[first=2,end=3]/new_top1": pytest.approx(100 * 2 / 3),
    }
    assert TaskAccuracy(0, None)(test, test, readout) == {"tasks[first=0,end=4]/new_top1": pytest.approx(100 * 4 / 7)}


def test_a_student_without_a_classifier_is_refused_before_the_first_epoch(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        run_in(tmp_path, small("simclr", *SHORT))
    assert str(error.value) == (
        "evaluation.head_probes names classifier, but the student has no classifier of that name on its pooled "
        "features: choose method=augmented_tuning, cl4srec, coconut, coconut_text, decoupled_mixup, deep_cotraining, "
        "fixmatch, m3col, mclrec, mean_teacher, mixmatch, rankmixup_mndcg, rankmixup_mrl, remixmatch, supcon_ce, "
        "supervised, wad or evaluation=frozen"
    )
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(ValueError, match=r"evaluators read those of student\.scored and student.earlier"):
        run_in(tmp_path / "stages", small("supervised", *SHORT, "+student.earlier=1"))


@pytest.mark.parametrize("method", ["supervised", "decoupled_mixup", "rankmixup_mrl", "rankmixup_mndcg"])
def test_methods_with_a_classifier_judge_it(method: str) -> None:
    assert list(config(f"method={method}").evaluation.head_probes) == ["classifier"]


def test_the_command_and_an_experiment_choose_another_evaluation() -> None:
    for choice in ("evaluation=none", "experiment=comparison"):
        assert "head_probes" not in config("method=supervised", choice).evaluation


def test_a_number_of_classes_that_is_not_known() -> None:
    with pytest.raises(ValueError) as error:
        build_module(small("supervised", "data.num_classes=null"), has_labels=True)
    assert str(error.value) == (
        "student.heads.classifier.num_classes is null: it must be a whole number, at least 2: "
        "set data.num_classes to the number of classes"
    )


@pytest.mark.parametrize(
    ("method", "mixer", "views", "add"),
    [
        ("supervised", "rankmixup", [0], True),
        ("decoupled_mixup", "resizemix", [0], False),
        ("rankmixup_mrl", "cutmix", [0], True),
        ("rankmixup_mndcg", "mixup_cutmix_switch", [0, 0, 0], True),
    ],
)
def test_any_mixer_goes_with_the_methods_that_read_it(method: str, mixer: str, views: list[int], add: bool) -> None:
    cfg = config(f"method={method}", f"mixer={mixer}")
    assert (cfg.mixer.views, cfg.mixer.add) == (views, add)
    assert build_module(cfg, has_labels=True).mixer is not None


def test_mixtures_that_are_missing_or_stand_in_the_wrong_place_are_refused() -> None:
    for overrides, words in (
        (("method=decoupled_mixup", "mixer=none"), "DecoupledMixup needs a mixer, but the config has mixer=none"),
        (("method=rankmixup_mrl", "mixer.add=false"), "set mixer.add=true"),
    ):
        with pytest.raises(ValueError, match=words):
            build_module(config(*overrides), has_labels=True)
