"""Zero-shot, retrieval and gap: right on planted embeddings, chance on shuffled ones, equal to loops, blind to ties."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.evaluation.cross_modal import Pairs, equal_rows
from ssl_framework.evaluation.features import Accuracy
from ssl_framework.evaluation.probes.attack import Attack
from ssl_framework.evaluation.probes.cross_retrieval import CrossRetrieval, ranks_of
from ssl_framework.evaluation.probes.modality_gap import ModalityGap
from ssl_framework.evaluation.probes.preference import Preference
from ssl_framework.evaluation.probes.text_only import TextOnly, noised, shifted
from ssl_framework.evaluation.probes.volume_retrieval import VolumeRetrieval
from ssl_framework.evaluation.probes.zero_shot import ZeroShot
from ssl_framework.evaluation.probes.zero_shot_calibration import ZeroShotCalibration
from tests.golden import golden, mix_raw, mix_rows

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


def test_preference_counts_the_nearer_own_captions() -> None:
    pairs = planted(noise=0.5)
    other = rows(N, 9)
    pairs = pairs._replace(swapped={"kind": other, "same": pairs.other})
    nearer = sum(float(m @ o) > float(m @ s) for m, o, s in zip(pairs.main, pairs.other, other, strict=True))
    assert Preference()(pairs) == {"preference[kind]/top1": 100 * nearer / N, "preference[same]/top1": 0.0}
    assert Preference().chance(pairs) == {"preference[kind]/top1": 50.0, "preference[same]/top1": 50.0}
    assert Preference()(planted()) == {}


def test_calibration_of_zero_shot_equals_the_loop_and_wants_a_scale() -> None:
    pairs = shuffled()._replace(scale=7.0)
    name = "zero_shot[kind,classes=5,prompts=3]"
    found = ZeroShotCalibration(4)(pairs)
    centres = pairs.prompts["kind"].mean(dim=1)
    nll, bins = 0.0, [[0.0, 0.0] for _ in range(4)]
    for x, y in zip(pairs.main, pairs.label["kind"].tolist(), strict=True):
        logits = [7.0 * float(x @ c / c.norm()) for c in centres]
        p = [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]
        nll -= math.log(p[y]) / N
        bins[math.ceil(4 * max(p)) - 1][0] += max(p) - (p.index(max(p)) == y)
    assert found[f"{name}/nll"] == pytest.approx(nll, abs=1e-5)
    assert found[f"{name}/ece[bins=4]"] == pytest.approx(100 * sum(abs(gap) for gap, _ in bins) / N, abs=1e-3)
    assert ZeroShotCalibration(4)(shuffled()) == {}


def test_an_attack_succeeds_where_the_trigger_leads_to_the_target() -> None:
    pairs = planted()
    target = pairs.prompts["kind"][2].mean(dim=0).expand(N, -1)
    probe = Attack("kind", 2, "triggered")
    found = probe(pairs._replace(further={"triggered": target}))
    assert found == {"attack[kind]/success": 100.0, "attack[kind]/without": 0.0}
    assert found["attack[kind]/success"].count == N - N // CLASSES  # type: ignore[attr-defined]
    assert probe(pairs._replace(further={"triggered": pairs.main})) == dict.fromkeys(found, 0.0)
    assert probe.chance(pairs) == dict.fromkeys(found, 20.0)


def test_golden_of_the_noise_and_the_shift_of_modalities() -> None:
    found = noised(mix_rows(0), mix_raw(2), 0.08)[0].tolist()
    expected = golden("modality_noise: noised and re-normalised text embedding, row 0")
    assert found == pytest.approx(expected, abs=1e-7)
    moved = golden("modality_noise: mean shift of A to B, row 0")
    found = shifted(mix_rows(0), mix_rows(0), mix_rows(1))[0].tolist()
    assert found == pytest.approx(moved, abs=1e-7)


def test_golden_of_the_gap() -> None:
    pairs = planted()._replace(main=mix_rows(0), other=mix_rows(1))
    expected = golden("evaluator: modality gap, distance of the centroids of unit rows")
    assert ModalityGap()(pairs)["gap[image,text]/centroid_distance"] == pytest.approx(expected, abs=1e-7)


def test_a_classifier_of_texts_knows_pictures_at_the_same_place_and_across_a_gap_by_the_shift() -> None:
    probe = TextOnly([0.0, 0.1], True, 2, 1e-4, 20, 0)
    found = probe(planted())
    assert found == {f"text_only[kind,{how}]/top1": 100.0 for how in ("noise=0", "noise=0.1", "shift")}
    gap = planted()
    apart = gap._replace(other=torch.nn.functional.normalize(gap.other + 3 * rows(1, 8), dim=1))
    across = probe(apart)
    assert across["text_only[kind,shift]/top1"] >= across["text_only[kind,noise=0]/top1"]
    assert set(probe.chance(apart).values()) == {20.0} and probe.chance(apart).keys() == across.keys()


def test_texts_find_tuples_by_volume_and_by_cosines() -> None:
    probe = VolumeRetrieval([1, 5], num_samples=50)
    pairs = planted()._replace(further={"series": planted().main})
    names = [f"retrieval[text-to-image+series,{how},n=50]/recall@{k}" for how in ("volume", "cosines") for k in (1, 5)]
    found = probe(pairs)
    assert list(found) == list(probe.chance(pairs)) == names and found[names[2]] == 100
    assert probe.chance(pairs)[names[0]] == 2.0
    # In three planes that agree a sign is all the same to the volume, not to the cosines.
    turned = probe(pairs._replace(other=-pairs.other))
    assert turned[names[2]] < 50
    x, y, z = rows(50, 11), rows(50, 12), rows(50, 13)
    alone = pairs._replace(other=x, main=y, further={"series": z}, group=torch.arange(50))
    best = 0
    for i in range(50):
        volume = [
            torch.linalg.det(torch.stack([x[i], y[j], z[j]]) @ torch.stack([x[i], y[j], z[j]]).T).item()
            for j in range(50)
        ]
        best += volume[i] == min(volume)
    assert probe(alone)[names[0]] == pytest.approx(2 * best)


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
