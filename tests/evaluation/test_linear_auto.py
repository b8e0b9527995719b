"""The linear probe whose penalty is chosen on the train split: against scikit-learn, and without the test split."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ssl_framework.data.base import holdout
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.linear import LinearProbe
from ssl_framework.evaluation.probes.linear_auto import LinearAuto
from tests.evaluation.test_evaluation import clusters

PENALTIES = [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0]
TOP1, L2 = "linear[l2=auto]/top1", "linear[l2=auto]/l2"


def noisy(count: int, seed: int) -> Frozen:
    """Clusters that overlap, and three times as many features that say nothing."""
    part = clusters(count, 7, 2.0, seed)
    noise = torch.randn(count, 48, generator=torch.Generator().manual_seed(seed + 100))
    return Frozen(torch.cat([part.x, noise], dim=1), part.y)


TRAIN, TEST = noisy(600, 0), noisy(3000, 1)


def theirs(train: Frozen, test: Frozen, penalty: float) -> float:
    """Percent; scikit-learn's ``C`` stands before the sum of the cross-entropies."""
    scaler = StandardScaler().fit(train.x.numpy())
    model = LogisticRegression(C=1 / (penalty * len(train.x)), max_iter=2000, tol=1e-8)
    model.fit(scaler.transform(train.x.numpy()), train.y.numpy())
    return 100 * model.score(scaler.transform(test.x.numpy()), test.y.numpy())


@pytest.mark.parametrize("penalty", PENALTIES)
def test_at_each_penalty_it_is_within_a_tenth_of_a_point_of_scikit_learn(penalty: float) -> None:
    got = LinearAuto([penalty], 200, 0.25, 0)(TRAIN, TEST)
    assert got == {TOP1: pytest.approx(theirs(TRAIN, TEST, penalty), abs=0.1 + 1e-9), L2: penalty}
    assert got[TOP1].count == 3000  # type: ignore[attr-defined]


def test_it_chooses_what_scikit_learn_is_best_with_on_the_part_held_out() -> None:
    held = holdout(TRAIN.y, 600, 0.25, 0)
    rest, part = (Frozen(TRAIN.x[rows], TRAIN.y[rows]) for rows in (~held, held))
    accuracy = [theirs(rest, part, penalty) for penalty in PENALTIES]
    best = PENALTIES[max(range(6), key=lambda i: accuracy[i])]
    assert sorted(accuracy)[-1] - sorted(accuracy)[-2] > 2 and best == 0.1  # no tie, and inside the grid
    shuffled_grid = [PENALTIES[i] for i in (3, 0, 5, 1, 4, 2)]
    got = LinearAuto(shuffled_grid, 100, 0.25, 0)(TRAIN, TEST)
    assert got == {TOP1: pytest.approx(theirs(TRAIN, TEST, best), abs=0.1 + 1e-9), L2: best}


def test_no_test_label_reaches_the_choice_and_it_repeats() -> None:
    probe = LinearAuto([1e-2, 0.1, 1.0], 100, 0.25, 0)
    wrong = TEST._replace(y=(TEST.y + 1) % 7)
    first, again, other = probe(TRAIN, TEST), probe(TRAIN, TEST), probe(TRAIN, wrong)
    assert first == again and first[L2] == other[L2] and other[TOP1] < 30 < first[TOP1]


def test_separable_classes_take_the_strongest_penalty_and_shuffled_labels_are_chance() -> None:
    train, test = clusters(300, 5, 0.05, 0), clusters(200, 5, 0.05, 1)
    assert LinearAuto([1e-4, 1e-2, 1e-3], 50, 0.1, 0)(train, test) == {TOP1: 100.0, L2: 1e-2}
    train, test = (
        part._replace(y=part.y[torch.randperm(2000, generator=torch.Generator().manual_seed(seed))])
        for seed, part in enumerate((clusters(2000, 5, 0.05, 0), clusters(2000, 5, 0.05, 1)))
    )
    assert LinearAuto([1e-4, 1e-1], 50, 0.1, 0)(train, test)[TOP1] == pytest.approx(20, abs=4)


def test_a_fit_starts_where_the_next_stronger_penalty_ended_and_the_last_where_the_chosen_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fits, fit = [], LinearProbe.fit

    def listens(self, x, y, start=None, tolerance=1e-5):  # type: ignore[no-untyped-def]
        before = None if start is None else [part.clone() for part in start]
        found = fit(self, x, y, start, tolerance)
        assert before is None or all(torch.equal(a, b) for a, b in zip(before, start, strict=True))
        fits.append((self.weight_decay, len(x), start, found))
        return found

    monkeypatch.setattr(LinearProbe, "fit", listens)
    LinearAuto([1e-3, 0.1, 1.0], 50, 0.25, 0)(TRAIN, TEST)
    kept = int((~holdout(TRAIN.y, 600, 0.25, 0)).sum())
    assert [one[:2] for one in fits] == [(1.0, kept), (0.1, kept), (1e-3, kept), (0.1, 600)]
    assert fits[0][2] is None and fits[1][2] is fits[0][3] and fits[2][2] is fits[1][3] and fits[3][2] is fits[1][3]


def test_every_class_is_held_out_in_part_and_stays_in_part() -> None:
    """A class of two samples beside one of 200; a class of a single sample is only fitted."""
    y = torch.tensor([0] * 200 + [1] * 2 + [2])
    train = Frozen(torch.eye(3)[y] + 0.01 * torch.randn(203, 3, generator=torch.Generator().manual_seed(0)), y)
    assert LinearAuto([1e-4], 50, 0.1, 0)(train, Frozen(torch.eye(3), torch.arange(3))) == {TOP1: 100.0, L2: 1e-4}


def test_it_says_why_it_is_skipped() -> None:
    probe = LinearAuto([0.1], 10, 0.1, 0)
    with pytest.warns(UserWarning, match="l2=auto skipped: the train split has only one class"):
        assert probe(TRAIN._replace(y=torch.zeros(600, dtype=torch.long)), TEST) == {}
    lone = Frozen(torch.eye(6), torch.arange(6))
    with pytest.warns(UserWarning, match="skipped: the train split has no class with two samples, of which one could"):
        assert probe(lone, lone) == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (([], 10, 0.1, 0), r"penalties is \[\]: it must be a list of one or more numbers"),
        (
            ([0.1, 0.0], 10, 0.1, 0),
            r"penalties is \[0\.1, 0\.0\]: it must be a list of one or more numbers, each above 0",
        ),
        (([0.1], 0, 0.1, 0), r"max_iter is 0: it must be at least 1"),
        (([0.1], 10, 1.0, 0), r"held_out is 1\.0: it must be above 0 and below 1"),
    ],
)
def test_refused_settings(settings: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LinearAuto(*settings)
