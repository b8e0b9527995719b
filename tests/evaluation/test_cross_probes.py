"""Zero-shot, retrieval and gap: right on planted embeddings, chance on shuffled ones, equal to loops, blind to ties."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.evaluation.cross_modal import Pairs, equal_rows
from ssl_framework.evaluation.features import Accuracy
from ssl_framework.evaluation.probes.cross_retrieval import CrossRetrieval, ranks_of
from ssl_framework.evaluation.probes.modality_gap import ModalityGap
from ssl_framework.evaluation.probes.zero_shot import ZeroShot

N, CLASSES, D = 400, 5, 16


def rows(count: int, seed: int) -> Tensor:
    x = torch.randn(count, D, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


def planted(noise: float = 0.0) -> Pairs:
    """Every sample and its partner at one place, near its class's; prompts around that."""
    centre, label = rows(CLASSES, 0), torch.arange(N) % CLASSES
    main = centre[label] + 0.2 * rows(N, 1)
    main = main / main.norm(dim=1, keepdim=True)
    prompts = centre[:, None] + 0.1 * rows(CLASSES * 3, 2).unflatten(0, (CLASSES, 3))
    other = main + noise * rows(N, 3)
    return Pairs(main, other, ("image", "text"), torch.arange(N), {"kind": prompts}, {"kind": label})


def shuffled() -> Pairs:
    pairs = planted()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(7))
    return pairs._replace(other=pairs.other[order], label={"kind": pairs.label["kind"][order]})


def test_planted_embeddings_are_all_right() -> None:
    assert ZeroShot()(planted()) == {"zero_shot[kind,classes=5,prompts=3]/top1": 100.0}
    found = CrossRetrieval([1, 5, 10])(planted())
    assert list(found) == [
        f"retrieval[{way},n=400]/{metric}"
        for way in ("image-to-text", "text-to-image")
        for metric in ("recall@1", "recall@5", "recall@10", "mrr")
    ]
    assert list(found.values()) == [100.0] * 8


def test_shuffled_ones_are_at_chance() -> None:
    zero_shot, retrieval = ZeroShot(), CrossRetrieval([1, 5, 40])
    found, chance = zero_shot(shuffled()), zero_shot.chance(shuffled())
    assert list(chance.values()) == [20.0] and found.keys() == chance.keys()
    assert found["zero_shot[kind,classes=5,prompts=3]/top1"] == pytest.approx(20, abs=8)  # four deviations of 400
    # Embeddings without classes: among those of one class a partner would be found five times as often.
    pairs = shuffled()._replace(main=rows(N, 4), other=rows(N, 5))
    found, chance = retrieval(pairs), retrieval.chance(pairs)
    assert found.keys() == chance.keys()
    for name, value in chance.items():
        assert found[name] == pytest.approx(value, abs=6.5 if "@40" in name else 2.5)
    assert chance["retrieval[image-to-text,n=400]/recall@40"] == 10
    harmonic = sum(1 / k for k in range(1, 401))
    assert chance["retrieval[image-to-text,n=400]/mrr"] == pytest.approx(100 * harmonic / 400)


def test_zero_shot_takes_the_mean_of_unit_prompts() -> None:
    prompts = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [-1.0, 0.0]]])
    main = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [0.2, 0.9]])
    pairs = Pairs(main, main, ("image", "text"), torch.arange(3), {"kind": prompts}, {"kind": torch.tensor([0, 1, 1])})
    (value,) = ZeroShot()(pairs).values()
    assert isinstance(value, Accuracy) and (value.right, value.count) == (2, 3)  # the third lies nearer to class 0


def by_loops(pairs: Pairs, queries: Tensor, candidates: Tensor) -> list[int]:
    """Place of each query's group: one more than how many other groups have a candidate at least as near."""
    group = pairs.group.tolist()
    found = []
    for i, query in enumerate(queries):
        near: dict[int, float] = {}
        for j, candidate in enumerate(candidates):
            near[group[j]] = max(near.get(group[j], -math.inf), float(query @ candidate))
        found.append(1 + sum(s >= near[group[i]] for g, s in near.items() if g != group[i]))
    return found


@pytest.mark.parametrize("chunk", [7, 1000])
def test_retrieval_equals_the_loop_with_groups_counted_once(chunk: int) -> None:
    pairs = planted(noise=1.5)
    pairs = pairs._replace(group=torch.arange(N) // 3 * 17)
    probe = CrossRetrieval([1, 3], num_samples=60, chunk=chunk)
    found = probe(pairs)
    first = pairs._replace(main=pairs.main[:60], other=pairs.other[:60], group=pairs.group[:60])
    for way, queries, candidates in (
        ("image-to-text", first.main, first.other),
        ("text-to-image", first.other, first.main),
    ):
        places = by_loops(first, queries, candidates)
        for k in (1, 3):
            assert found[f"retrieval[{way},n=60]/recall@{k}"] == 100 * sum(p <= k for p in places) / 60
        expected = 100 * sum(1 / p for p in places) / 60
        assert found[f"retrieval[{way},n=60]/mrr"] == pytest.approx(expected)
    assert len(set(by_loops(first, first.main, first.other))) > 3  # neither all right nor all wrong
    assert probe.chance(pairs)["retrieval[image-to-text,n=60]/recall@1"] == 100 / 20


def test_a_better_placed_caption_of_the_same_meaning_is_a_right_answer() -> None:
    main = torch.eye(3)[[0, 1, 2]]
    other = torch.eye(3)[[1, 0, 2]]  # the first two pairs are crossed
    pairs = Pairs(main, other, ("image", "text"), torch.tensor([0, 1, 2]), {}, {})
    assert CrossRetrieval([1])(pairs)["retrieval[image-to-text,n=3]/recall@1"] == pytest.approx(100 / 3)
    same = pairs._replace(group=torch.tensor([5, 5, 2]))
    assert CrossRetrieval([1])(same)["retrieval[image-to-text,n=3]/recall@1"] == 100


def test_a_collapsed_embedding_finds_nothing() -> None:
    pairs = planted()._replace(main=torch.ones(N, D), other=torch.ones(N, D))
    found = CrossRetrieval([1, 10])(pairs)
    assert found["retrieval[image-to-text,n=400]/recall@10"] == 0
    assert found["retrieval[text-to-image,n=400]/mrr"] == pytest.approx(100 / 400)


def test_ranks_closed_case() -> None:
    similarity = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.2]])
    assert ranks_of(similarity, torch.tensor([0, 1]), torch.tensor([0, 1, 0])).tolist() == [2, 2]


def test_the_gap_of_two_poles_and_of_one_place() -> None:
    x = rows(N, 0)
    poles = torch.cat([x.abs()[:, :8], torch.zeros(N, 8)], dim=1)
    pairs = planted()._replace(main=poles, other=-poles)
    found = ModalityGap()(pairs)
    assert found["gap[image,text]/centroid_distance"] == pytest.approx((2 * poles.double().mean(0)).norm().item())
    assert found["gap[image,text]/separability"] == 100
    assert found["gap[image,text]/dimensions_image"] == pytest.approx(found["gap[image,text]/dimensions_text"])
    one = ModalityGap()(planted()._replace(main=x, other=x))
    assert one["gap[image,text]/centroid_distance"] == 0 and one["gap[image,text]/pair_cosine"] == pytest.approx(1)
    assert one["gap[image,text]/separability"] == pytest.approx(50, abs=1)
    assert one["gap[image,text]/dimensions_image"] == pytest.approx(D, rel=0.1)
    assert ModalityGap().chance(pairs) == {"gap[image,text]/separability": 50.0}


def test_equal_rows() -> None:
    found = equal_rows(torch.tensor([[[3, 1]], [[2, 1]], [[3, 1]]]))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: CrossRetrieval([]), r"k is \[\]: it must be a list of one or more whole numbers"),
        (lambda: CrossRetrieval([1], num_samples=1), "num_samples is 1: it must be at least 2, or null"),
        (lambda: ModalityGap(0), "regularisation is 0: it must be above 0"),
    ],
)
def test_bad_values(build, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        build()
