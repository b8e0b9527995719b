"""Probes on long-tailed labels: which samples are kept, which class is of which group, and what the groups score."""

import warnings

import pytest
import torch

from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.few_labels import drawn_by_class
from ssl_framework.evaluation.probes.knn import KNN
from ssl_framework.evaluation.probes.linear import LinearProbe
from ssl_framework.evaluation.probes.long_tail import Answering, LongTail
from tests.evaluation.test_evaluation import clusters

KNN5, LINEAR = KNN(5, 0.1), LinearProbe(1e-2, 30)
BOTH: dict[str, Answering] = {"knn": KNN5, "linear": LINEAR}
GROUPS = ["many=101+", "medium=20-100", "few=0-19"]


def long_tail(imbalance: float | None = 100, seed: int = 0) -> LongTail:
    return LongTail(imbalance, 100, 20, BOTH, seed)


def names(imbalance: str = "100") -> list[str]:
    ends = [f",imbalance={imbalance}{part}]/top1" for part in ("", *(f",{group}" for group in GROUPS))]
    return [probe + end for probe in ("knn[k=5,T=0.1", "linear[l2=0.01") for end in ends]


EASY = clusters(2000, 5, 0.05, 0), clusters(500, 5, 0.05, 1)
HARD = clusters(2000, 5, 1.5, 0), clusters(500, 5, 1.5, 1)
COUNTS = [400, 126, 40, 12, 4]  # 400 / 100^(c / 4), rounded down


def test_separable_classes_are_100_in_every_group() -> None:
    assert long_tail()(*EASY) == dict.fromkeys(names(), 100.0)


def test_shuffled_labels_are_chance_over_all_groups_and_the_many_hide_the_few() -> None:
    train, test = (
        part._replace(y=part.y[torch.randperm(len(part.y), generator=torch.Generator().manual_seed(seed))])
        for seed, part in enumerate((clusters(5000, 5, 0.05, 0), clusters(2000, 5, 0.05, 1)))
    )
    got = list(long_tail()(train, test).values())
    for top1, many, medium, few in (got[:4], got[4:]):
        assert top1 == pytest.approx(20, abs=4) and many > medium > few - 1e-9 and few < 5


def test_the_part_has_the_exponential_profile_and_each_group_is_the_probe_on_its_test_samples() -> None:
    train, test = HARD
    rows = [rows[:count] for rows, count in zip(drawn_by_class(train.y, 0), COUNTS, strict=True)]
    part = Frozen(train.x[torch.cat(rows)], train.y[torch.cat(rows)])
    assert torch.bincount(part.y).tolist() == COUNTS
    expected = {}
    members = {"": range(5), ",many=101+": [0, 1], ",medium=20-100": [2], ",few=0-19": [3, 4]}
    for probe, name in ((KNN5, "knn[k=5,T=0.1"), (LINEAR, "linear[l2=0.01")):
        for group, classes in members.items():
            of = torch.isin(test.y, torch.tensor(list(classes)))
            (expected[f"{name},imbalance=100{group}]/top1"],) = probe(part, Frozen(test.x[of], test.y[of])).values()
    got = long_tail()(train, test)
    assert got == expected and list(got) == names()
    assert [value.count for value in got.values()] == [500, 200, 100, 200] * 2  # type: ignore[attr-defined]
    assert got[names()[1]] > got[names()[3]] + 10


def test_the_thresholds_belong_to_the_medium_group() -> None:
    y = torch.tensor([0] * 101 + [1] * 100 + [2] * 20 + [3] * 19)
    masks = long_tail(None).groups(y, torch.arange(6))  # 4 and 5 have no training sample
    assert {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()} == dict(
        zip(GROUPS, ([0], [1, 2], [3, 4, 5]), strict=True)
    )


def test_a_class_keeps_no_more_than_it_has_and_null_keeps_all() -> None:
    y = torch.tensor([0] * 50 + [1] * 300 + [2] * 300 + [7] * 300)
    classes = drawn_by_class(y, 0)
    assert LongTail(8, 100, 20, BOTH, 0).sizes(classes) == [50, 150, 75, 37]
    assert LongTail(300, 100, 20, BOTH, 0).sizes(classes)[-1] == 1
    assert LongTail(None, 100, 20, BOTH, 0).sizes(classes) == [50, 300, 300, 300]


def test_no_imbalance_is_the_probes_themselves() -> None:
    with pytest.warns(UserWarning, match="no test sample is of a class of the group medium or few"):
        one = long_tail(1)(*HARD)
    with pytest.warns(UserWarning, match="no test sample is of a class of the group medium or few"):
        own = long_tail(None)(*HARD)
    plain = [*KNN5(*HARD).values(), *LINEAR(*HARD).values()]
    assert [one[name] for name in one if "many" not in name] == pytest.approx(plain, abs=0.5)  # rows in another order
    assert list(own) == [name.replace("imbalance=1,", "imbalance=own,").replace("=1]", "=own]") for name in one]
    assert list(own.values()) == list(one.values())


def test_which_samples_are_kept_is_a_matter_of_the_seed_alone() -> None:
    assert long_tail()(*HARD) == long_tail()(*HARD) != long_tail(seed=1)(*HARD)


def test_a_probe_that_is_null_is_left_out() -> None:
    probe = LongTail(100, 100, 20, {"knn": None, "linear": LINEAR}, 0)  # type: ignore[dict-item]
    assert list(probe(*EASY)) == names()[4:]


def test_it_says_why_it_is_skipped_and_nothing_else() -> None:
    small = clusters(250, 5, 0.05, 0)
    with pytest.warns(UserWarning, match="largest class has 50 samples, too few for imbalance=100: set .* at most 50"):
        assert long_tail()(small, small) == {}
    with pytest.warns(UserWarning, match="the long tail skipped: the train split has only one class"):
        assert long_tail()(small._replace(y=torch.zeros(250, dtype=torch.long)), small) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        long_tail()(*EASY)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((0.5, 100, 20), r"imbalance is 0\.5: it must be at least 1, or null"),
        ((100, 10, 20), r"long_tail has few=20, many=10"),
        ((100, 10, 0), "few is 0: it must be at least 1"),
    ],
)
def test_refused_settings(settings: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LongTail(*settings, probes=BOTH, seed=0)
