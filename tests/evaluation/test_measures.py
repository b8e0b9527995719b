"""Label-free measures against their definitions in loops, and on features whose answer is known."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_framework import functional
from ssl_framework.build import build
from ssl_framework.evaluation import spectrum
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.measures import Measures, alignment, feature_std, tolerance, tolerance_within, uniformity
from tests.golden import core_view, golden, mix_rows
from tests.small_runs import config

MEASURES = Measures(num_samples=2000, seed=0, t=2.0, epsilon=1e-7, alpha_ranks=[2, 6])
CLASSES = torch.tensor([0, 0, 1, 1, 2, 2])


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rows: int, columns: int, seed: int = 0) -> Tensor:
    """[rows, columns] with orthonormal columns."""
    return torch.linalg.qr(features(rows, columns, seed=seed))[0]


def with_spectrum(singular: Tensor, rows: int) -> Tensor:
    """[rows, D] of centred features with these singular values [D]."""
    left = features(rows, len(singular))
    left = torch.linalg.qr(left - left.mean(dim=0))[0]  # [rows, D] orthonormal columns of mean 0
    return left @ torch.diag(singular) @ orthonormal(len(singular), len(singular), seed=1).T


def simplex(count: int) -> Tensor:
    """[count, count - 1] unit rows, all at the same angle."""
    centred = torch.eye(count, dtype=torch.float64) - 1 / count
    u, s, _ = torch.linalg.svd(centred)
    return functional.unit(u[:, :-1] * s[:-1])


# --- the sphere


def test_golden_values_do_not_depend_on_the_length_of_features() -> None:
    z0, z1 = 3 * core_view(0), 0.1 * core_view(1)
    assert alignment(z0, z1) == pytest.approx(golden("alignment: mean squared distance Z0, Z1"), abs=1e-7)
    assert alignment(mix_rows(0), mix_rows(1)) == pytest.approx(golden("alignment: alignment of A, B"), abs=1e-7)
    assert uniformity(z0, 2.0) == pytest.approx(golden("uniformity: 6 points Z0"), abs=1e-7)
    both = uniformity(torch.cat([z0, z1]), 2.0)
    assert both == pytest.approx(golden("uniformity: 12 points Z0 and Z1"), abs=1e-7)
    assert uniformity(mix_rows(0), 2.0) == pytest.approx(golden("uniformity: uniformity of A"), abs=1e-7)
    name = "tolerance: all ordered pairs with self, labels [0,0,1,1,2,2], points Z0"
    assert tolerance(z0, CLASSES) == pytest.approx(golden(name), abs=1e-7)


@pytest.mark.parametrize("tile", [1, 30, 2**24])  # one row at a time; three rows, then two; all
@pytest.mark.parametrize("t", [0.5, 2.0, 400.0])  # the last underflows without a logsumexp
def test_uniformity_is_its_loop_in_tiles_of_any_size(monkeypatch: pytest.MonkeyPatch, tile: int, t: float) -> None:
    monkeypatch.setattr(functional, "TILE", tile)
    x = features(8, 4)
    x[3] = 0.0
    rows = [row / row.norm() if row.norm() > 0 else row for row in x]
    exponents = [-t * (a - b).square().sum() for a, b in itertools.combinations(rows, 2)]
    expected = torch.stack(exponents).logsumexp(dim=0).item() - math.log(28)
    assert uniformity(x, t) == pytest.approx(expected, abs=1e-9)


def test_uniformity_of_equal_opposite_and_simplex_features() -> None:
    one = features(1, 5)
    assert uniformity(one.repeat(9, 1), 2.0) == pytest.approx(0.0, abs=1e-12)
    assert uniformity(torch.cat([one, -one]), 2.0) == pytest.approx(-8.0, abs=1e-12)
    assert uniformity(simplex(5), 2.0) == pytest.approx(-2 * (2 + 2 / 4), abs=1e-12)  # |a - b|^2 = 2 + 2 / (C - 1)


def test_tolerance_is_its_loop_in_both_versions() -> None:
    x, y = features(7, 4), torch.tensor([2, 0, 2, 1, 0, 2, 5])
    cosine = {(i, j): float(x[i] @ x[j] / x[i].norm() / x[j].norm()) for i in range(7) for j in range(7)}
    same = {(i, j): value for (i, j), value in cosine.items() if y[i] == y[j]}
    others = [value for (i, j), value in same.items() if i != j]
    assert tolerance(x, y) == pytest.approx(sum(same.values()) / 49, abs=1e-12)
    assert tolerance_within(x, y) == pytest.approx(sum(others) / len(others), abs=1e-12)
    assert math.isnan(tolerance_within(x, torch.arange(7)))


def test_tolerance_of_collapsed_classes_is_its_largest_value() -> None:
    x = simplex(4).repeat_interleave(5, dim=0)
    y = torch.arange(4).repeat_interleave(5)
    assert tolerance(x, y) == pytest.approx(1 / 4) and tolerance_within(x, y) == pytest.approx(1.0)
    mixed = torch.arange(20) % 4  # each label has all four rows, whose sum is 0, and one of them twice
    assert tolerance_within(x, mixed) == pytest.approx((1 - 5) / 20)


def test_feature_std_of_isotropic_constant_and_rank_one_features() -> None:
    every_way = torch.cat([torch.eye(6), -torch.eye(6)])
    assert feature_std(every_way) == pytest.approx(1.0)
    assert feature_std(features(1, 6).repeat(9, 1)) == pytest.approx(0.0, abs=1e-7)
    line = torch.tensor([[1.0, 0, 0, 0], [-3.0, 0, 0, 0]])
    assert feature_std(line) == pytest.approx(1 / 4 * 2)  # one of four features, times sqrt(4)


# --- the spectrum


def test_spectra_are_those_the_features_were_made_with() -> None:
    wanted = torch.tensor([5.0, 3.0, 0.5, 0.0], dtype=torch.float64)
    x = with_spectrum(wanted, 20)
    torch.testing.assert_close(spectrum.singular_values(x), wanted)
    torch.testing.assert_close(spectrum.covariance_eigenvalues(x + 7), wanted.square() / 20)
    torch.testing.assert_close(spectrum.normalised(wanted), wanted / 5)
    assert spectrum.singular_values(x)[3] == 0  # not rounding, which would count as a direction
    wide = x.T.contiguous()  # more features than samples
    torch.testing.assert_close(spectrum.singular_values(wide), wanted)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_ranks_of_a_flat_spectrum_are_its_rank(rank: int) -> None:
    x = with_spectrum(torch.tensor([2.0] * rank + [0.0] * (8 - rank), dtype=torch.float64), 30)
    singular, eigenvalue = spectrum.singular_values(x), spectrum.covariance_eigenvalues(x)
    assert spectrum.effective_rank(singular) == pytest.approx(rank)
    assert spectrum.participation_ratio(eigenvalue) == pytest.approx(rank)
    assert spectrum.rankme(singular, 1e-7) == pytest.approx(rank, rel=3e-5)
    assert spectrum.rankme(singular, 0.0) == pytest.approx(spectrum.effective_rank(singular), abs=1e-12)


def test_ranks_are_their_definitions() -> None:
    singular = [4.0, 2.0, 1.0, 1.0]
    p = [s / 8 + 0.01 for s in singular]
    assert spectrum.rankme(torch.tensor(singular), 0.01) == pytest.approx(math.exp(-sum(q * math.log(q) for q in p)))
    assert spectrum.effective_rank(torch.tensor(singular)) == pytest.approx(2**1.75)  # an entropy of 1.75 bits
    assert spectrum.participation_ratio(torch.tensor(singular)) == pytest.approx(64 / 22)


def test_alpha_req_finds_a_power_law_and_is_a_weighted_fit() -> None:
    rank = torch.arange(1, 201, dtype=torch.float64)
    assert spectrum.alpha_req(rank**-1.5, 11, 100) == pytest.approx(1.5)
    assert spectrum.alpha_req(torch.ones(200), 11, 100) == pytest.approx(0.0, abs=1e-12)
    bent = rank**-1.0 * torch.exp(0.3 * torch.sin(rank / 7))
    k = np.arange(11, 101)
    slope = np.polyfit(np.log(k), np.log(bent[10:100].numpy()), 1, w=np.sqrt(1 / k))[0]
    assert spectrum.alpha_req(bent, 11, 100) == pytest.approx(-slope)
    assert spectrum.alpha_req(bent, 1, 100) != pytest.approx(-slope, abs=1e-3)


def test_alpha_req_stops_at_the_rank() -> None:
    broken = torch.cat([torch.arange(1, 31, dtype=torch.float64) ** -2, torch.zeros(20, dtype=torch.float64)])
    assert spectrum.fitted_ranks(broken, 11, 100) == (11, 30)
    assert spectrum.alpha_req(broken, 11, 100) == pytest.approx(2.0)
    assert math.isnan(spectrum.alpha_req(broken[:12], 11, 100))


def test_lidar_is_its_definition() -> None:
    x, (n, q, d), delta = features(6, 3, 4), (6, 3, 4), 0.05
    means = [sum(x[i]) / q for i in range(n)]
    centre = sum(means) / n
    between, within = torch.zeros(d, d).double(), delta * torch.eye(d).double()
    for i in range(n):
        between += torch.outer(means[i] - centre, means[i] - centre) / n
        for j in range(q):
            within += torch.outer(x[i, j] - means[i], x[i, j] - means[i]) / (n * q)
    value, vector = torch.linalg.eigh(within)
    root = vector @ torch.diag(value**-0.5) @ vector.T
    found = torch.linalg.eigvalsh(root @ between @ root)
    p = found / found.sum() + 1e-3
    assert spectrum.lidar(x, delta, 1e-3) == pytest.approx(math.exp(-(p * p.log()).sum()))


def test_lidar_counts_directions_between_samples_only_and_is_invariant_to_linear_maps() -> None:
    ways = torch.cat([torch.eye(9), -torch.eye(9)]).double()  # views differ in all nine directions alike
    means = torch.nn.functional.pad(simplex(5), (0, 5))  # [5, 9]: samples differ in four
    x = means[:, None] + ways  # [5, 18, 9]
    assert spectrum.lidar(x, 1e-9, 0.0) == pytest.approx(4.0)
    assert spectrum.effective_rank(spectrum.singular_values(x.flatten(0, 1), centred=True)) > 8
    assert spectrum.lidar(x @ features(9, 9), 1e-9, 0.0) == pytest.approx(4.0, abs=1e-4)
    assert spectrum.lidar(ways.expand(5, 18, 9), 1e-9, 0.0) == 0.0  # samples do not differ at all


@pytest.mark.parametrize("shape", [(1, 3, 4), (5, 1, 4), (5, 4)])
def test_lidar_refuses_too_few_samples_or_views(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"LiDAR takes \[N, q, D\]"):
        spectrum.lidar(features(*shape), 1e-4, 0.0)


def test_lidar_refuses_no_delta() -> None:
    with pytest.raises(ValueError, match="LiDAR's delta is 0"):
        spectrum.lidar(features(5, 3, 4), 0.0, 0.0)


# --- the probe


def frozen(x: Tensor, y: Tensor | None = None) -> Frozen:
    return Frozen(x.float(), torch.arange(len(x)) % 3 if y is None else y)


def test_the_probe_reports_each_measure_of_the_train_features() -> None:
    x = features(40, 8).float() + 1
    train = frozen(x)
    eigenvalue = spectrum.covariance_eigenvalues(x)
    prefix = "measures[n=40]/"
    assert MEASURES(train) == {
        f"{prefix}uniformity[t=2]": uniformity(x, 2.0),
        f"{prefix}feature_std": feature_std(x),
        f"{prefix}rankme": spectrum.rankme(spectrum.singular_values(x), 1e-7),
        f"{prefix}effective_rank": pytest.approx(spectrum.effective_rank(spectrum.singular_values(x, centred=True))),
        f"{prefix}participation_ratio": spectrum.participation_ratio(eigenvalue),
        f"{prefix}alpha_req[ranks=2-6]": spectrum.alpha_req(eigenvalue, 2, 6),
        f"{prefix}tolerance[pairs=all]": tolerance(x, train.y),
        f"{prefix}tolerance[pairs=same_class]": tolerance_within(x, train.y),
    }
    half = train._replace(x=x.bfloat16())
    assert MEASURES(half) == MEASURES(half._replace(x=half.x.float()))


def test_the_probe_takes_a_fixed_sample_and_no_label_chooses_it() -> None:
    train = frozen(features(90, 8), torch.arange(90) // 30)  # sorted by class
    few = Measures(num_samples=30, seed=0, t=2.0, epsilon=1e-7, alpha_ranks=[2, 6])
    first, again = few(train), few(train)
    assert first == again and all(name.startswith("measures[n=30]/") for name in first)
    assert first["measures[n=30]/tolerance[pairs=all]"] < 0.9 / 2  # not of one class
    shuffled = few(train._replace(y=train.y.flip(0) * 2 + 1))
    assert {k: v for k, v in shuffled.items() if "tolerance" not in k} == {
        k: v for k, v in first.items() if "tolerance" not in k
    }
    changed = train.x.clone()
    changed[torch.randperm(90, generator=torch.Generator().manual_seed(0))[30:]] = 100.0
    assert few(train._replace(x=changed)) == first


def test_without_labels_there_is_every_measure_but_tolerance() -> None:
    train = frozen(features(40, 8))
    found = MEASURES(train._replace(y=None))
    assert found == {name: value for name, value in MEASURES(train).items() if "tolerance" not in name}
    assert len(found) == 6


def test_numbers_as_labels_give_every_measure_but_tolerance() -> None:
    train = frozen(features(40, 8), torch.rand(40))
    with pytest.warns(UserWarning, match="tolerance skipped: it needs classes"):
        found = MEASURES(train)
    assert len(found) == 6 and not any("tolerance" in name for name in found)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(1, 4), "measures skipped: the train split has fewer than two samples"),
        (torch.full((5, 4), math.nan), "measures skipped: features are not finite"),
    ],
)
def test_what_cannot_be_measured_is_skipped_with_one_line(x: Tensor, words: str) -> None:
    with pytest.warns(UserWarning, match=words) as caught:
        assert MEASURES(frozen(x)) == {}
    assert len(caught) == 1


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_collapsed_features_have_no_rank_left(value: float) -> None:
    train = frozen(torch.full((6, 8), value), torch.arange(6))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = {name.partition("/")[2]: v for name, v in MEASURES(train).items()}
    assert [str(w.message).partition(":")[0] for w in caught] == [
        "alpha-ReQ skipped",
        "tolerance within classes skipped",
    ]
    assert found["effective_rank"] == found["participation_ratio"] == 0
    assert found["rankme"] == pytest.approx(1.0 if value else 0.0, abs=1e-4)
    assert found["uniformity[t=2]"] == pytest.approx(0.0, abs=1e-9) and found["feature_std"] < 1e-9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_samples": 1}, "num_samples is 1: it must be at least 2"),
        ({"t": 0.0}, r"t is 0\.0: it must be above 0"),
        ({"epsilon": -1.0}, r"epsilon is -1\.0: it must be at least 0"),
        ({"alpha_ranks": [0, 9]}, r"alpha_ranks is \[0, 9\]: it must be a list of 2 whole numbers"),
        ({"alpha_ranks": [5, 6]}, r"features\.alpha_ranks is \[5, 6\]"),
        ({"alpha_ranks": [5]}, r"alpha_ranks is \[5\]: it must be a list of 2 whole numbers"),
    ],
)
def test_bad_settings_are_refused(change: dict, words: str) -> None:
    settings: dict = {"num_samples": 10, "seed": 0, "t": 2.0, "epsilon": 0.0, "alpha_ranks": [2, 6]}
    with pytest.raises(ValueError, match=words):
        Measures(**{**settings, **change})


def test_the_config_has_the_probes_of_frozen_and_the_measures() -> None:
    evaluation = build(config("evaluation=measures").evaluation)
    assert list(evaluation.probes) == ["knn", "linear"] and list(evaluation.measures) == ["features"]
    assert isinstance(evaluation.measures["features"], Measures)
