"""Probes on features whose answer is known, against loops, closed forms and scikit-learn."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.naive_bayes import GaussianNB

from ssl_framework.build import build
from ssl_framework.evaluation.features import Accuracy, Frozen
from ssl_framework.evaluation.probes.clusters import Clustering, agreement, kmeans
from ssl_framework.evaluation.probes.few_labels import FewLabels, drawn_by_class, rows_by_class
from ssl_framework.evaluation.probes.few_shot import FewShot, Transport, episode, nearest_mean
from ssl_framework.evaluation.probes.knn import KNN
from ssl_framework.evaluation.probes.leave_one_out import LeaveOneOut
from ssl_framework.evaluation.probes.linear import LinearProbe, LinearSGD
from ssl_framework.evaluation.probes.linear_auto import LinearAuto
from ssl_framework.evaluation.probes.long_tail import LongTail
from ssl_framework.evaluation.probes.naive_bayes import NaiveBayes, naive_bayes
from ssl_framework.evaluation.probes.out_of_distribution import OutOfDistribution
from ssl_framework.evaluation.probes.retrieval import Retrieval
from ssl_framework.runs.groups import CONFIGS
from tests.evaluation.test_evaluation import clusters
from tests.golden import core_view
from tests.small_runs import config


def shuffled(part: Frozen, seed: int = 5) -> Frozen:
    return part._replace(y=part.y[torch.randperm(len(part.y), generator=torch.Generator().manual_seed(seed))])


def numbers(part: Frozen) -> Frozen:
    return part._replace(y=part.y.float())


EASY = clusters(300, 5, 0.05, 0), clusters(200, 5, 0.05, 1)
HARD = clusters(300, 5, 2.0, 0), clusters(200, 5, 2.0, 1)


# --- few-shot


def few_shot(shots: Any = 1, **change: Any) -> FewShot:
    return FewShot(**{"ways": 3, "shots": shots, "queries": 10, "episodes": 60, "seed": 0, **change})


def test_few_shot_of_separable_classes_is_100_with_no_interval_and_of_shuffled_ones_chance() -> None:
    name = "few_shot[3-way,1-shot,episodes=60]"
    assert few_shot()(*EASY) == {f"{name}/top1": 100.0, f"{name}/interval": 0.0}
    got = few_shot()(EASY[0], shuffled(EASY[1]))
    assert got[f"{name}/top1"] == pytest.approx(100 / 3, abs=4)
    assert 0.3 < got[f"{name}/interval"] < 4


@pytest.mark.parametrize("shots", [1, 5])
def test_few_shot_equals_a_loop_over_episodes_and_queries(shots: int) -> None:
    test = HARD[1]._replace(x=HARD[1].x * torch.linspace(0.1, 10, 200)[:, None])  # lengths that must not count
    got = few_shot(shots)(HARD[0], test)
    z = test.x.double().numpy() / np.linalg.norm(test.x.double().numpy(), axis=1, keepdims=True)
    y, generator, shares = test.y.numpy(), torch.Generator().manual_seed(0), []
    for _ in range(60):
        rows = episode([torch.arange(c, 200, 5) for c in range(5)], 3, shots + 10, generator).numpy()
        known, asked = rows[:, :shots].ravel(), rows[:, shots:].ravel()
        assert len(set(y[known])) == 3 and not set(known) & set(asked) and len(set(asked)) == 30
        means = {c: z[known[y[known] == c]].mean(axis=0) for c in set(y[known])}
        answers = [min(means, key=lambda c: np.linalg.norm(z[row] - means[c])) for row in asked]
        shares.append(np.mean(answers == y[asked]))
    name = f"few_shot[3-way,{shots}-shot,episodes=60]"
    assert got[f"{name}/top1"] == pytest.approx(100 * np.mean(shares), abs=1e-4)
    assert got[f"{name}/interval"] == pytest.approx(100 * 1.96 * np.std(shares, ddof=1) / math.sqrt(60), abs=1e-4)
    assert 40 < got[f"{name}/top1"] < 95


def test_the_nearest_mean_of_one_episode_by_hand() -> None:
    first = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.4, 0.0], [1.6, 0.0]])  # mean (1, 0)
    second = torch.tensor([[2.0, 1.0], [2.0, -1.0], [2.0, 0.0], [0.0, 0.0]])  # mean (2, 0); half way is 1.5
    assert nearest_mean(torch.stack([first, second]), 2).item() == 0.5


def test_rows_by_class() -> None:
    got = rows_by_class(torch.tensor([7, 2, 7, 2, 5]))
    assert [rows.tolist() for rows in got] == [[1, 3], [4], [0, 2]]


def test_few_shot_leaves_small_classes_out_and_repeats() -> None:
    rare = Frozen(torch.cat([HARD[1].x, torch.ones(10, 16)]), torch.cat([HARD[1].y, torch.full((10,), 9)]))
    with pytest.warns(UserWarning, match="with 1 shots: 1 classes of the test split are left out, .* than 11 images"):
        assert few_shot()(HARD[0], rare) == few_shot()(*HARD)
    large = EASY[1]._replace(y=EASY[1].y.clamp(max=2))  # 40, 40 and 120 images
    with pytest.warns(UserWarning, match="with 60 shots skipped: 1 classes .* have 70 images .* takes 3"):
        assert few_shot([1, 60])(EASY[0], large) == few_shot(1)(EASY[0], large)
    assert few_shot(seed=1)(*HARD) == few_shot(seed=1)(*HARD) != few_shot()(*HARD)


# --- few-shot with transport


def transported(mean: np.ndarray, query: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """By loops over the plan, not in logarithms."""
    ways, count = len(mean), len(query)
    cost = [[sum((a - b) ** 2 for a, b in zip(m, q, strict=True)) for q in query] for m in mean]
    largest = max(max(row) for row in cost)
    plan = [[math.exp(-c / largest / epsilon) for c in row] for row in cost]
    for _ in range(iterations):
        for w in range(ways):
            total = sum(plan[w])
            plan[w] = [p / total / ways for p in plan[w]]
        for q in range(count):
            total = sum(plan[w][q] for w in range(ways))
            for w in range(ways):
                plan[w][q] /= total * count
    moved = [sum(p * q for p, q in zip(row, query, strict=True)) / sum(row) for row in plan]
    return np.stack(moved)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 1), (0.05, 60), (0.5, 3)])
def test_transport_equals_a_loop_over_the_plan_for_one_episode_and_for_several(epsilon: float, iterations: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    query = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    both = Transport(epsilon, iterations)(mean, query)
    for e in range(2):
        expected = torch.from_numpy(transported(mean[e].numpy(), query[e].numpy(), epsilon, iterations))
        torch.testing.assert_close(both[e], expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(Transport(epsilon, iterations)(mean[e], query[e]), expected, rtol=1e-9, atol=1e-9)


def test_where_the_queries_are_the_shots_moved_by_one_vector_transport_moves_the_means_by_it() -> None:
    """A translation is the cheapest transport, however far, also where the nearest mean is that of another class."""
    shots = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    moved = shots + torch.tensor([3.0, 0.5], dtype=torch.float64)
    z = torch.stack([shots, moved, moved], dim=1)  # [3, 1 + 2, 2]
    move = Transport(0.01, 1000)
    torch.testing.assert_close(move(shots, moved.repeat_interleave(2, dim=0)), moved, rtol=0, atol=2e-3)
    assert nearest_mean(z, 1).item() == pytest.approx(1 / 3)  # the second mean is the nearest of all queries
    assert nearest_mean(z, 1, move).item() == 1.0


def test_with_much_entropy_all_means_become_the_mean_of_the_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    query = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(Transport(1e9, 5)(mean, query), query.mean(dim=0).expand(3, 4))


def test_few_shot_with_transport_is_the_mean_over_the_same_episodes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    move, name = Transport(0.05, 20), "few_shot[3-way,1-shot,episodes=60,transport,epsilon=0.05,iterations=20]"
    got = few_shot(transport=move)(*HARD)
    z, generator, shares = torch.nn.functional.normalize(HARD[1].x, dim=1), torch.Generator().manual_seed(0), []
    for _ in range(60):
        rows = episode(rows_by_class(HARD[1].y), 3, 11, generator)
        shares.append(nearest_mean(z[rows], 1, move).item())
    assert got[f"{name}/top1"] == pytest.approx(100 * np.mean(shares))
    assert got[f"{name}/interval"] == pytest.approx(100 * 1.96 * np.std(shares, ddof=1) / math.sqrt(60))
    without = few_shot()(*HARD)
    assert got[f"{name}/top1"] > without["few_shot[3-way,1-shot,episodes=60]/top1"] + 2
    monkeypatch.setattr("ssl_framework.evaluation.probes.few_shot.EPISODE_VALUES", 7 * 3 * 11 * 16)
    assert few_shot(transport=move)(*HARD) == got and few_shot()(*HARD) == without
    monkeypatch.setattr("ssl_framework.evaluation.probes.few_shot.EPISODE_VALUES", 1)
    assert few_shot(transport=move)(*HARD) == got


def test_transport_of_separable_classes_is_100_and_of_shuffled_or_collapsed_ones_chance() -> None:
    move = Transport(0.05, 100)
    assert next(iter(few_shot(transport=move)(*EASY).values())) == 100.0
    assert next(iter(few_shot(transport=move)(EASY[0], shuffled(EASY[1])).values())) == pytest.approx(100 / 3, abs=4)
    zeros = EASY[1]._replace(x=torch.zeros_like(EASY[1].x))
    assert next(iter(few_shot(transport=move)(EASY[0], zeros).values())) == pytest.approx(100 / 3)


def test_the_shipped_config_scores_the_same_episodes_with_and_without_transport() -> None:
    probes = build(config("evaluation=few_shot_transport").evaluation).probes
    plain, moved = vars(probes["few_shot"]), vars(probes["few_shot_transport"])
    assert plain == vars(build(config("evaluation=few_shot").evaluation).probes["few_shot"])
    assert plain["transport"] is None and isinstance(moved["transport"], Transport)
    assert {**plain, "transport": None} == {**moved, "transport": None}


# --- clustering


def test_clusters_of_separable_classes_are_the_classes_and_of_shuffled_ones_chance() -> None:
    names = [f"kmeans[seeds=3]/{name}" for name in ("acc", "nmi", "ari")]
    assert Clustering(3)(*EASY) == {name: pytest.approx(100.0, abs=1e-9) for name in names}
    acc, nmi, ari = Clustering(3)(EASY[0], shuffled(EASY[1])).values()
    assert 20 < acc < 32 and nmi < 8 and abs(ari) < 3


def test_clustering_is_the_mean_over_seeds_on_features_of_length_1_and_reads_no_train_split() -> None:
    z = torch.nn.functional.normalize(HARD[1].x.double(), dim=1)
    each = [agreement(kmeans(z, 5, seed), HARD[1].y) for seed in range(3)]
    assert len(set(each)) > 1
    nothing = Frozen(torch.zeros(0, 16), torch.zeros(0, dtype=torch.long))
    gaps = Frozen(1000 * HARD[1].x, 3 * HARD[1].y + 2)  # neither length nor the numbers of classes count
    got = list(Clustering(3)(nothing, gaps).values())
    assert got == pytest.approx([100 * sum(one) / 3 for one in zip(*each, strict=True)], abs=1e-9)


def test_agreement_equals_loops_over_maps_pairs_and_cells() -> None:
    generator = torch.Generator().manual_seed(3)
    y, found = torch.randint(4, (60,), generator=generator), torch.randint(4, (60,), generator=generator)
    found = found.where(torch.rand(60, generator=generator) < 0.5, (y + 1) % 4)
    acc, nmi, ari = agreement(found, y)
    a, b, n = y.tolist(), found.tolist(), 60
    maps = itertools.permutations(range(4))
    assert acc == max(sum(m[j] == i for i, j in zip(a, b, strict=True)) / n for m in maps) > 0.5

    def entropy(labels: list) -> float:
        return -sum(labels.count(one) / n * math.log(labels.count(one) / n) for one in set(labels))

    shared = entropy(a) + entropy(b) - entropy(list(zip(a, b, strict=True)))
    assert nmi == pytest.approx(2 * shared / (entropy(a) + entropy(b)), abs=1e-9)
    pairs = list(itertools.combinations(range(n), 2))
    both = sum(a[i] == a[j] and b[i] == b[j] for i, j in pairs)
    first, second = (sum(labels[i] == labels[j] for i, j in pairs) for labels in (a, b))
    chance = first * second / len(pairs)
    assert ari == pytest.approx((both - chance) / ((first + second) / 2 - chance), abs=1e-9)


def test_clustering_says_why_it_is_skipped() -> None:
    one = EASY[1]._replace(y=torch.zeros(200, dtype=torch.long))
    with pytest.warns(UserWarning, match="clustering skipped: the test split has only one class"):
        assert Clustering(1)(EASY[0], one) == {}
    with pytest.warns(UserWarning, match="clustering skipped: some features are not finite"):
        assert Clustering(1)(EASY[0], EASY[1]._replace(x=EASY[1].x / 0)) == {}


# --- few labels


LINEAR = LinearProbe(1e-4, 20)


def test_few_labels_of_separable_classes_are_enough_and_of_shuffled_ones_chance() -> None:
    names = ["linear[labels=1%,l2=0.0001]/top1", "linear[labels=10%,l2=0.0001]/top1"]
    assert FewLabels([0.01, 0.1], LINEAR, 0)(*EASY) == dict.fromkeys(names, 100.0)
    train, test = clusters(2000, 5, 0.05, 0), clusters(2000, 5, 0.05, 1)
    values = FewLabels([0.1], LINEAR, 0)(shuffled(train), shuffled(test, 6)).values()
    assert list(values) == [pytest.approx(20, abs=4)]


def test_few_labels_are_the_linear_probe_on_the_same_share_of_every_class() -> None:
    seen: list[Frozen] = []

    class Listens(LinearProbe):
        def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
            seen.append(train)
            return super().__call__(train, test)

    y = torch.tensor([0] * 200 + [1] * 90 + [4] * 10)
    train = Frozen(torch.arange(300.0)[:, None] + HARD[0].x, y)
    got = FewLabels([0.01, 0.1, 1], Listens(1e-4, 20), 0)(train, HARD[1])
    assert [torch.bincount(part.y).tolist() for part in seen] == [
        [2, 1, 0, 0, 1],
        [20, 9, 0, 0, 1],
        [200, 90, 0, 0, 10],
    ]
    rows = [{tuple(row) for row in part.x.tolist()} for part in seen]
    assert rows[0] < rows[1] < rows[2] and len(rows[2]) == 300
    assert list(got.values()) == [LINEAR(part, HARD[1])["linear[l2=0.0001]/top1"] for part in seen]


def test_the_labels_kept_are_drawn_with_the_seed() -> None:
    y = torch.arange(100) % 2
    first, again, other = (drawn_by_class(y, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first) == sorted(other) == list(range(1, 100, 2)) != first


# --- naive Bayes


def bayes(sizes: list[int], floor: float = 1e-3) -> NaiveBayes:
    return NaiveBayes(sizes, floor, LINEAR, 0)


def test_naive_bayes_and_logistic_regression_of_separable_classes_and_of_shuffled_ones() -> None:
    names = [
        f"{name}[n={n}{l2}]/top1" for n in (1, 4, 16) for name, l2 in (("naive_bayes", ""), ("logistic", ",l2=0.0001"))
    ]
    assert bayes([1, 4, 16])(*EASY) == dict.fromkeys(names, 100.0)
    train, test = clusters(2000, 5, 0.05, 0), clusters(2000, 5, 0.05, 1)
    assert list(bayes([64])(shuffled(train), shuffled(test, 6)).values()) == [pytest.approx(20, abs=4)] * 2


def test_scores_of_naive_bayes_equal_the_golden_values() -> None:
    x, y = torch.cat([core_view(v) for v in range(4)]), torch.tensor([0, 0, 1, 1, 2, 2] * 4)
    classes, score = naive_bayes(Frozen(x, y), x, 1e-9, chunk=5)
    assert score[0].tolist() == pytest.approx([-3.07046688, -13.29342389, -10.59132032], abs=2e-7)
    assert int((classes[score.argmax(dim=1)] == y).sum()) == 22


def test_naive_bayes_is_that_of_scikit_learn_with_shared_variances() -> None:
    keep = torch.arange(300) % 10 != 3  # classes of unequal size
    x, y = HARD[0].x[keep].double(), 2 * HARD[0].y[keep]
    theirs = GaussianNB(var_smoothing=0).fit(x.numpy(), y.numpy())
    theirs.var_ = np.broadcast_to(theirs.class_prior_ @ theirs.var_, theirs.var_.shape)
    classes, score = naive_bayes(Frozen(x, y), HARD[1].x, 1e-9)
    assert classes.tolist() == theirs.classes_.tolist() == [0, 2, 4, 6, 8]
    expected = theirs.predict_log_proba(HARD[1].x.double().numpy())
    np.testing.assert_allclose(score.log_softmax(dim=1).numpy(), expected, atol=1e-8)


def test_with_one_sample_a_class_naive_bayes_is_the_nearest_sample_and_a_dead_feature_is_harmless() -> None:
    train = Frozen(torch.cat([HARD[0].x[:5], torch.full((5, 1), 3.0)], dim=1), HARD[0].y[:5])
    at = torch.cat([HARD[1].x, torch.full((200, 1), 3.0)], dim=1)
    _, score = naive_bayes(train, at, 1e-3)
    assert torch.equal(score.argmax(dim=1), torch.cdist(at, train.x).argmin(dim=1))


def test_larger_sizes_than_the_smallest_class_are_left_out_with_one_line() -> None:
    with pytest.warns(UserWarning, match=r"naive Bayes with n=\[61, 99\] skipped: the smallest class has only 60 sa"):
        assert list(bayes([60, 61, 99])(*EASY)) == ["naive_bayes[n=60]/top1", "logistic[n=60,l2=0.0001]/top1"]


@pytest.mark.parametrize("probe", [bayes([1]), FewLabels([0.1], LINEAR, 0)])
def test_one_class_is_skipped_with_one_line(probe: Any) -> None:
    with pytest.warns(UserWarning, match="skipped: the train split has only one class"):
        assert probe(EASY[0]._replace(y=torch.full((300,), 2)), EASY[1]) == {}


# --- k-NN with k by leave-one-out


def test_leave_one_out_on_separable_classes_and_on_shuffled_ones() -> None:
    name = "knn[k=loo,T=0.1]"
    assert LeaveOneOut([20, 1, 5], 0.1)(*EASY) == {f"{name}/top1": 100.0, f"{name}/k": 1.0}  # the smallest of equals
    train, test = clusters(2000, 5, 0.05, 0), clusters(2000, 5, 0.05, 1)
    assert LeaveOneOut([5, 20], 0.1)(shuffled(train), shuffled(test, 6))[f"{name}/top1"] == pytest.approx(20, abs=4)


def test_leave_one_out_counts_what_a_loop_over_samples_and_votes_gets_right() -> None:
    ks = [1, 4, 9, 30]
    z, y = torch.nn.functional.normalize(HARD[0].x.double(), dim=1), HARD[0].y.tolist()
    cosine = (z @ z.T).tolist()
    expected = dict.fromkeys(ks, 0)
    for row in range(300):
        others = sorted((other for other in range(300) if other != row), key=lambda other: -cosine[row][other])
        for k in ks:
            votes = [sum(math.exp(cosine[row][o] / 0.1) for o in others[:k] if y[o] == c) for c in range(5)]
            expected[k] += votes.index(max(votes)) == y[row]
    probe = LeaveOneOut(ks, 0.1, chunk=7)
    assert probe.right(ks, HARD[0]) == expected
    best = max(expected.values())
    chosen = next(k for k in ks if expected[k] == best)
    assert chosen != 1
    (top1,) = KNN(chosen, 0.1)(*HARD).values()
    assert probe(*HARD) == {"knn[k=loo,T=0.1]/top1": top1, "knn[k=loo,T=0.1]/k": chosen}


def test_no_sample_votes_for_itself_among_equal_ones_and_no_test_label_chooses() -> None:
    y = torch.tensor([0] * 6 + [1] * 6)
    same = Frozen(torch.eye(2)[y], y)
    assert LeaveOneOut([1], 0.1).right([1, 5], same) == {1: 12, 5: 12}
    lone = Frozen(torch.eye(12), torch.arange(12))  # only itself is of its class
    assert LeaveOneOut([1], 0.1).right([1, 3], lone) == {1: 0, 3: 0}
    wrong = EASY[1]._replace(y=(EASY[1].y + 1) % 5)
    assert LeaveOneOut([1, 5], 0.1)(EASY[0], wrong) == {"knn[k=loo,T=0.1]/top1": 0.0, "knn[k=loo,T=0.1]/k": 1.0}


def test_k_that_the_others_do_not_reach_is_left_out_with_one_line() -> None:
    with pytest.warns(UserWarning, match=r"k=\[300\] skipped: a sample of the train split has only 299 others"):
        assert len(LeaveOneOut([5, 300], 0.1)(*EASY)) == 2
    with pytest.warns(UserWarning, match=r"k=\[300\] skipped"):
        assert LeaveOneOut([300], 0.1)(*EASY) == {}


# --- classes left out


def test_separable_classes_left_out_are_told_and_shuffled_ones_are_not() -> None:
    assert OutOfDistribution([1, 4])(*EASY) == {"ood[classes=1+4]/auroc": 100.0}
    train, test = clusters(2000, 5, 0.05, 0), clusters(2000, 5, 0.05, 1)
    (auroc,) = OutOfDistribution([1, 4])(shuffled(train), shuffled(test, 6)).values()
    assert auroc == pytest.approx(50, abs=5)


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    train, test = HARD
    bank = torch.nn.functional.normalize(train.x[train.y != 2], dim=1)
    near = (torch.nn.functional.normalize(test.x, dim=1) @ bank.T).amax(dim=1)
    known, gone = near[test.y != 2], near[test.y == 2]
    share = (known[:, None] > gone).double().mean().item()
    got = OutOfDistribution([2], chunk=33)(Frozen(3 * train.x, train.y), test)
    assert got == {"ood[classes=2]/auroc": pytest.approx(100 * share, abs=0.02)}  # a tie in float32 counts half
    assert 50 < 100 * share < 95


@pytest.mark.parametrize(
    ("classes", "test", "words"),
    [
        ([1, 9], EASY[1], r"ood skipped: the test split has no images of the classes \[9\]"),
        ([0, 1, 2, 3, 4], EASY[1], "ood skipped: without the classes left out nothing is left"),
        ([1], EASY[1]._replace(x=EASY[1].x / 0), "ood skipped: some features are not finite"),
    ],
)
def test_ood_says_why_it_is_skipped(classes: list[int], test: Frozen, words: str) -> None:
    with pytest.warns(UserWarning, match=words):
        assert OutOfDistribution(classes)(EASY[0], test) == {}


# --- every probe


PROBES: dict[str, Callable[[], Any]] = {
    "knn": lambda: KNN([1, 20], 0.1),
    "linear": lambda: LINEAR,
    "linear_sgd": lambda: LinearSGD([0.1, 1.0], 2, 64, 0.9, 0.0, 0.2, 0),
    "retrieval": lambda: Retrieval([1]),
    "few_shot": few_shot,
    "clustering": lambda: Clustering(2),
    "semi_supervised": lambda: FewLabels([0.1], LINEAR, 0),
    "naive_bayes": lambda: bayes([1, 8]),
    "knn_loo": lambda: LeaveOneOut([1, 5], 0.1),
    "ood": lambda: OutOfDistribution([0, 1]),
    "linear_auto": lambda: LinearAuto([1e-4, 1e-1], 20, 0.2, 0),
    "long_tail": lambda: LongTail(10, 30, 10, {"knn": KNN(1, 0.1), "linear": LINEAR}, 0),
}


@pytest.mark.parametrize("name", PROBES)
def test_numbers_are_skipped_with_one_line(name: str) -> None:
    with pytest.warns(UserWarning, match="skipped: it needs classes") as caught:
        assert PROBES[name]()(numbers(EASY[0]), numbers(EASY[1])) == {}
    assert len(caught) == 1


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("broken", [0, 1])
def test_features_that_are_not_finite_are_skipped_with_one_line(name: str, broken: int) -> None:
    """Of the train or the test split; a score of them would look like chance."""
    parts = [EASY[0], EASY[1]]
    x = parts[broken].x.clone()
    x[7, 3] = math.nan
    parts[broken] = parts[broken]._replace(x=x)
    if broken == 0 and name in ("few_shot", "clustering", "retrieval"):  # these read the test split alone
        assert PROBES[name]()(*parts) == PROBES[name]()(*EASY)
        return
    with pytest.warns(UserWarning, match="skipped: some features are not finite") as caught:
        assert PROBES[name]()(*parts) == {}
    assert len(caught) == 1


@pytest.mark.parametrize("name", PROBES)
def test_probes_read_bfloat16_repeat_and_give_finite_numbers_of_collapsed_features(name: str) -> None:
    half = [Frozen(part.x.bfloat16(), part.y) for part in EASY]
    probe = PROBES[name]()
    assert probe(*half) == probe(*half) != {}
    values = probe(*(Frozen(torch.zeros_like(part.x), part.y) for part in EASY)).values()
    assert all(math.isfinite(value) for value in values)


@pytest.mark.parametrize("name", ["semi_supervised", "naive_bayes", "knn_loo", "linear_auto", "long_tail"])
def test_where_each_test_sample_is_scored_once_the_accuracy_has_its_interval(name: str) -> None:
    """Not so for episodes, which draw samples again, and for k-means, whose clusters are named by the labels scored."""
    values = [value for metric, value in PROBES[name]()(*HARD).items() if metric.endswith("top1")]
    assert values
    for value in values:
        assert isinstance(value, Accuracy) and 0 < value.count <= 200 and value.interval[0] < value < value.interval[1]


WITHIN_OTHERS = ("knn", "linear", "linear_sgd")
"""Probes without a protocol of their own name."""


@pytest.mark.parametrize("name", [name for name in PROBES if name not in WITHIN_OTHERS])
def test_the_shipped_config_builds_the_probe(name: str) -> None:
    evaluation = build(OmegaConf.load(CONFIGS / "evaluation" / f"{name}.yaml"))
    assert list(evaluation.probes) == [name]
    assert type(evaluation.probes[name]) is type(PROBES[name]())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: few_shot([]), r"shots is \[\]: it must be a whole number, at least 1"),
        (
            lambda: few_shot(0),
            "shots is 0: it must be at least 1",
        ),
        (lambda: Transport(0.0, 5), r"epsilon is 0\.0: it must be above 0"),
        (lambda: Transport(0.1, 0), "iterations is 0: it must be at least 1"),
        (lambda: few_shot(ways=1), "ways is 1: it must be at least 2"),
        (lambda: Clustering(0), "seeds is 0: it must be between 1 and 1000"),
        (
            lambda: FewLabels([0.1, 0.0], LINEAR, 0),
            r"shares is \[0\.1, 0\.0\]: it must be a list of one or more numbers",
        ),
        (
            lambda: FewLabels([], LINEAR, 0),
            r"shares is \[\]: it must be a list of one or more numbers",
        ),
        (lambda: bayes([]), r"sizes is \[\]: it must be a list of one or more whole numbers"),
        (lambda: bayes([0, 4]), r"sizes is \[0, 4\]: it must be a list of one or more whole numbers"),
        (lambda: bayes([4], floor=0.0), r"floor is 0\.0: it must be above 0"),
        (lambda: LeaveOneOut([], 0.1), r"k is \[\]: it must be a list of one or more whole numbers"),
        (lambda: LeaveOneOut([0], 0.1), r"k is \[0\]: it must be a list of one or more whole numbers"),
        (lambda: LeaveOneOut([1], 0.0), r"temperature is 0\.0: it must be above 0"),
        (
            lambda: OutOfDistribution([]),
            r"classes is \[\]: it must be a list of one or more whole numbers",
        ),
        (lambda: OutOfDistribution([1, 1]), r"ood\.classes is \[1, 1\]"),
    ],
)
def test_refused_settings(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
