"""Texts against texts: Spearman as SciPy has it, retrieval as loops have it, right where planted, chance where not."""

import math

import pytest
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from ssl_framework.data.base import Graded, Split
from ssl_framework.evaluation.features import Accuracy
from ssl_framework.evaluation.probes.construct_score import ConstructScore
from ssl_framework.evaluation.probes.retrieval_by_class import RetrievalByClass
from ssl_framework.evaluation.probes.text_retrieval import TextRetrieval
from ssl_framework.evaluation.probes.text_reward import TextReward, reward
from ssl_framework.evaluation.probes.text_similarity import TextSimilarity, below, ranks, spearman
from ssl_framework.evaluation.wordings import AcrossWordings, Wordings
from ssl_framework.functional import unit
from tests.golden import golden, mix_rows


def rows(count: int, seed: int, dim: int = 8) -> Tensor:
    return unit(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def wordings(noise: float, count: int = 60, group: Tensor | None = None) -> Wordings:
    first = rows(count, 0)
    z = torch.stack([first, unit(first + noise * rows(count, 1))], dim=1)
    return Wordings(z, torch.arange(count) if group is None else group, None)


def test_ranks_and_correlation_are_those_of_scipy_with_ties() -> None:
    a = torch.tensor([0.3, -1.0, 0.3, 2.0, 5.0, 2.0, 2.0])
    b = torch.tensor([1.0, 1.0, 0.0, 2.0, 2.0, 3.0, 4.0])
    assert ranks(a).tolist() == (rankdata(a.numpy()) - 1).tolist()
    assert spearman(a, b) == pytest.approx(spearmanr(a.numpy(), b.numpy()).statistic, abs=1e-12)
    assert spearman(a, a.exp()) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    assert math.isnan(spearman(torch.ones(7), b))


def test_the_share_of_ordered_pairs_is_counted_with_ties_by_half() -> None:
    a, b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.5])
    expected = sum((x < y) + 0.5 * (x == y) for x in a.tolist() for y in b.tolist()) / 6
    assert below(a, b) == pytest.approx(expected)


def test_similarity_reads_the_wordings_that_the_pairs_name() -> None:
    test = wordings(0.5)
    pair = torch.tensor([[[0, 0], [0, 1]], [[1, 0], [2, 0]], [[3, 1], [4, 1]], [[5, 0], [6, 1]]])
    cosines = torch.stack([test.z[a, k] @ test.z[b, m] for (a, k), (b, m) in pair.tolist()])
    found = TextSimilarity()(test._replace(graded=Graded(pair, cosines.exp())))
    assert found == {"sts[pairs=4]/spearman": pytest.approx(100)}
    assert TextSimilarity()(test) == TextSimilarity().chance(test) == {}


def test_samples_of_no_group_neither_look_nor_are_found() -> None:
    test = wordings(2.5, 20)
    odd = torch.arange(20) % 3 == 0
    some = test._replace(group=test.group.masked_fill(odd, -1))
    alone = Wordings(test.z[~odd], test.group[~odd], None)
    probe = TextRetrieval([1, 5], num_samples=10)
    assert probe(some) == probe(alone) and probe.chance(some) == probe.chance(alone)
    nobody = test._replace(group=test.group.masked_fill(odd | ~odd, -1))
    assert probe(nobody) == probe.chance(nobody) == {}


def test_retrieval_is_that_of_loops() -> None:
    count = 40
    group = torch.arange(count) // 2 * 2  # two samples of a meaning
    test = wordings(2.5, count, group)
    found = TextRetrieval([1, 5], chunk=7)(test)
    places, right, wrong = [], [], []
    for q in range(count):
        best: dict[int, float] = {}
        for c in range(count):
            value = float(test.z[q, 0] @ test.z[c, 1])
            best[int(group[c])] = max(value, best.get(int(group[c]), -2.0))
            (right if group[c] == group[q] else wrong).append(value)
        places.append(sum(value >= best[int(group[q])] for value in best.values()))
    auc = sum((x < y) + 0.5 * (x == y) for x in wrong for y in right) / (len(wrong) * len(right))
    name = "retrieval[first-to-second,n=40]"
    assert found == {
        f"{name}/recall@1": pytest.approx(100 * sum(p <= 1 for p in places) / count),
        f"{name}/recall@5": pytest.approx(100 * sum(p <= 5 for p in places) / count),
        f"{name}/mrr": pytest.approx(100 * sum(1 / p for p in places) / count),
        f"{name}/ndcg@10": pytest.approx(100 * sum((p <= 10) / math.log2(p + 1) for p in places) / count),
        f"{name}/pooled_auc": pytest.approx(100 * auc, rel=1e-5),
    }
    assert isinstance(found[f"{name}/recall@1"], Accuracy)
    assert 0 < found[f"{name}/recall@1"] < 100


def test_planted_wordings_are_found_and_a_collapse_is_at_chance() -> None:
    probe = TextRetrieval([1, 5], num_samples=50)
    assert set(probe(wordings(0.0)).values()) == {100.0}
    collapsed = wordings(0.0)._replace(z=torch.ones(60, 2, 4) / 2)
    found, chance = probe(collapsed), probe.chance(collapsed)
    assert found.keys() == chance.keys()
    name = "retrieval[first-to-second,n=50]"
    assert found[f"{name}/recall@1"] == 0 and found[f"{name}/pooled_auc"] == 50
    assert chance[f"{name}/recall@1"] == 2 and chance[f"{name}/pooled_auc"] == 50


def test_one_wording_alone_finds_nothing() -> None:
    test = wordings(0.0)
    alone = test._replace(z=test.z[:, :1])
    assert TextRetrieval([1])(alone) == TextRetrieval([1]).chance(alone) == {}


def test_every_class_is_scored_alone() -> None:
    test = wordings(2.5, 40)
    kind = torch.arange(40) % 3
    probe = RetrievalByClass(TextRetrieval([1, 5], num_samples=12))
    found = probe(test._replace(kind=kind, kinds=("a", "b, c", "none")))
    for number, name in enumerate(("a", "b-c")):
        own = kind == number
        alone = TextRetrieval([1, 5], num_samples=12)(Wordings(test.z[own], test.group[own], None))
        for metric in ("recall@1", "recall@5", "mrr", "ndcg@10", "pooled_auc"):
            named = f"retrieval[first-to-second,{name},n=12]/{metric}"
            assert found[named] == alone[f"retrieval[first-to-second,n=12]/{metric}"]
    assert found.keys() == probe.chance(test._replace(kind=kind, kinds=("a", "b, c", "none"))).keys()
    assert probe(test) == probe.chance(test) == {}


def test_classes_that_have_names_come_with_the_wordings() -> None:
    rows, label = torch.arange(24, dtype=torch.int32).view(4, 3, 2), torch.tensor([1, 0, 1, 1])
    across = AcrossWordings({"by_class": RetrievalByClass(TextRetrieval([1]))})
    split = Split(rows, label, ("a", "b"))
    found = across.embedded(lambda each: {"": each.rows[:].float()}, split)[""]  # type: ignore
    assert found.kind is not None and found.kind.tolist() == [1, 0, 1, 1] and found.kinds == ("a", "b")
    assert across.chance(split)["retrieval[first-to-second,b,n=3]/recall@1"] == pytest.approx(100 / 3)
    assert across.kinds(split._replace(label=label.float())) == across.kinds(Split(rows)) == (None, ())


def test_columns_are_embedded_apart_and_normalised() -> None:
    texts = torch.arange(24, dtype=torch.int32).view(4, 3, 2)
    across = AcrossWordings({"similarity": TextSimilarity(), "none": None})
    split = Split(texts, numbers={"group": torch.tensor([0, 0, 1, 2])})
    found = across.embedded(lambda each: {"": each.rows[:].float()}, split)[""]  # type: ignore[index]
    assert torch.equal(found.z, unit(texts[:, :2].float())) and found.group.tolist() == [0, 0, 1, 2]
    assert across.columns(split) is across.columns(split)
    assert across.group(Split(texts)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", [torch.zeros(3, 1, 8), torch.zeros(3, 8, dtype=torch.int32)])
def test_data_without_wordings_are_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="compares wordings of texts, which the data have not: choose evaluation=fro"):
        AcrossWordings({}).check_split(Split(wrong))


def test_a_construct_is_scored_by_the_mean_cosine_to_its_items() -> None:
    centre, label = rows(3, 5), torch.arange(60) % 3
    z = unit(centre[label] + 0.8 * rows(60, 6))[:, None]
    items = unit(centre[:, None] + 0.3 * rows(6, 7).unflatten(0, (3, 2)))
    test = Wordings(z, torch.arange(60), None, {"kind": items}, {"kind": label})
    total = 0.0
    for c in range(3):
        score = [sum(float(z[i, 0] @ items[c, p]) for p in range(2)) / 2 for i in range(60)]
        own, others = ([s for s, y in zip(score, label.tolist(), strict=True) if (y == c) == w] for w in (True, False))
        total += sum((o < s) + 0.5 * (o == s) for s in own for o in others) / (len(own) * len(others)) / 3
    found = ConstructScore()(test)
    assert found == {"construct[kind,items=2]/auc": pytest.approx(100 * total, rel=1e-5)} and 60 < 100 * total < 100
    assert ConstructScore().chance(test) == {"construct[kind,items=2]/auc": 50.0}


def test_items_are_embedded_where_they_are_asked_for() -> None:
    texts, prompts = torch.arange(12, dtype=torch.int32).view(2, 3, 2), {"kind": torch.ones(2, 4, 2, dtype=torch.int32)}
    split = Split(texts, prompts=prompts, numbers={"kind": torch.tensor([0, 1]), "group": torch.tensor([0, 1])})
    found = AcrossWordings({}, items=True).embedded(lambda each: {"": each.rows[:].float()}, split)[""]  # type: ignore
    assert found.items["kind"].shape == (2, 4, 2) and found.label["kind"].tolist() == [0, 1]
    assert AcrossWordings({}).embedded(lambda each: {"": each.rows[:].float()}, split)[""].items == {}  # type: ignore


def test_the_reward_is_golden_and_that_of_loops() -> None:
    name = "grace_reward: similarity to the positive minus similarity to the negative"
    assert reward(mix_rows(0), mix_rows(1), mix_rows(2)).tolist() == pytest.approx(golden(name), abs=1e-7)
    count, group = 12, torch.arange(12) // 2
    test = wordings(1.0, count, group)
    means, hardest = [], []
    for q in range(count):
        others = [c for c in range(count) if group[c] != group[q]]
        each = [reward(test.z[q : q + 1, 0], test.z[q : q + 1, 1], test.z[c : c + 1, 1]).item() for c in others]
        means.append(sum(each) / len(each))
        hardest.append(min(each))
    found = TextReward()(test)
    assert found == {
        "reward[n=12]/mean_negative": pytest.approx(sum(means) / count, abs=1e-6),
        "reward[n=12]/hardest_negative": pytest.approx(sum(hardest) / count, abs=1e-6),
    }
    assert TextReward(5).chance(test) == {"reward[n=5]/mean_negative": 0.0}
    one_group = test._replace(group=torch.zeros(count, dtype=torch.int64))
    assert TextReward()(one_group) == TextReward()(test._replace(z=test.z[:, :1])) == {}
