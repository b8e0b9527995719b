"""Cross-entropy of clean views and mixtures, Decoupled Mixup and RankMixup, against loops over their formulas."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.decoupled_mixup import DecoupledMixup, decoupled_cross_entropy
from ssl_framework.objectives.rankmixup import MNDCG, MRL, RankMixup
from ssl_framework.objectives.supervised import Supervised, cross_entropy
from ssl_framework.types import Batch, Mix
from tests.golden import golden, mix_raw
from tests.objectives import loops

LABEL = [0, 1, 2, 3, 0, 1]
PARTNER = [5, 4, 2, 2, 0, 1]  # samples 2, 4 and 5 are mixed with their own class


def scores(seed: int, n: int = 6, c: int = 4) -> Tensor:
    return 2 * torch.randn(n, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mix(share: list[float], partner: list[int], of: int = 0) -> Mix:
    source = torch.stack([torch.arange(len(partner)), torch.tensor(partner)], dim=1)
    own = torch.tensor(share, dtype=torch.float64)
    return Mix(torch.empty(0), source, torch.stack([own, 1 - own], dim=1), None, of)


def batch(*mixes: Mix | None) -> Batch:
    return Batch([], torch.arange(6), torch.tensor(LABEL), mix=list(mixes))


def heads(*logits: Tensor) -> list:
    return loops.outputs(*logits, head="classifier")


def minus_log_p(row: Tensor, wanted: int, without: int | None = None) -> float:
    """-log softmax(row)_wanted over the classes that are left."""
    kept = [float(value) for c, value in enumerate(row) if c != without]
    return loops.log_sum_exp(kept) - float(row[wanted])


def soft(logits: Tensor, share: list[float], partner: list[int]) -> float:
    """Mean of l CE(own class) + (1 - l) CE(partner's)."""
    return sum(
        share[i] * minus_log_p(logits[i], LABEL[i]) + (1 - share[i]) * minus_log_p(logits[i], LABEL[partner[i]])
        for i in range(6)
    ) / len(share)


SHARE = [0.7, 0.5, 0.9, 0.3, 0.6, 1.0]


def test_supervised_is_the_mean_over_clean_views_and_mixtures() -> None:
    x, y, z = scores(8), scores(9), scores(2)
    own = list(range(6))
    clean = [soft(logits, [1.0] * 6, own) for logits in (x, y)]
    objective = Supervised(4, 0.0)
    out = objective(heads(x, y), None, batch(), loops.CLOCK)  # an empty list of records is none
    assert out["loss"].item() == pytest.approx(sum(clean) / 2, abs=1e-6)
    right = [float(row.argmax() == label) for logits in (x, y) for row, label in zip(logits, LABEL, strict=True)]
    assert out["accuracy"].item() == pytest.approx(sum(right) / 12) and 0 < sum(right) < 12
    first, second = mix(SHARE, PARTNER), mix([0.4] * 6, list(reversed(range(6))))
    out = objective(heads(x, y, z), None, batch(first, None, second), loops.CLOCK)  # in place, clean, and beside
    expected = soft(x, SHARE, PARTNER) + clean[1] + soft(z, [0.4] * 6, list(reversed(range(6))))
    assert out["loss"].item() == pytest.approx(expected / 3, abs=1e-6)
    assert out["accuracy"].item() == pytest.approx(sum(right[6:]) / 6)
    assert list(objective(heads(x), None, batch(first), loops.CLOCK)) == ["loss"]  # no clean view, no accuracy


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    x = scores(0)
    expected = sum(
        0.8 * minus_log_p(row, label) + 0.2 / 4 * sum(minus_log_p(row, c) for c in range(4))
        for row, label in zip(x, LABEL, strict=True)
    )
    got = Supervised(4, 0.2)(heads(x), None, batch(None), loops.CLOCK)["loss"].item()
    assert got == pytest.approx(expected / 6, abs=1e-6)
    equal = torch.zeros(3, 4)
    assert cross_entropy(equal, torch.full((3, 4), 0.25)).tolist() == pytest.approx([math.log(4)] * 3)


def decoupled_loop(row: Tensor, a: int, b: int, share: float, eta: float) -> float:
    loss = share * minus_log_p(row, a) + (1 - share) * minus_log_p(row, b)
    if a != b and 0 < share < 1:
        loss += eta * share * minus_log_p(row, a, without=b) + eta * (1 - share) * minus_log_p(row, b, without=a)
    return loss


def test_decoupled_cross_entropy_equals_the_loop() -> None:
    logits = scores(3)
    a, b = torch.tensor(LABEL), torch.tensor(LABEL)[PARTNER]
    share = [*SHARE[:5], 0.0]
    expected = [decoupled_loop(logits[i], int(a[i]), int(b[i]), share[i], 0.3) for i in range(6)]
    got = decoupled_cross_entropy(logits, a, b, torch.tensor(share, dtype=torch.float64), 0.3)
    assert got.tolist() == pytest.approx(expected, abs=1e-10)
    for whole in (0.0, 1.0):  # one class only: no other to leave out
        alone = decoupled_cross_entropy(logits, a, b, torch.full((6,), whole), 0.3)
        assert torch.equal(alone, decoupled_cross_entropy(logits, a, b, torch.full((6,), whole), 0.0))


@pytest.mark.parametrize(
    ("name", "first", "share"),
    [
        ("decoupled_mixup: loss, a=[0,1,2,3], b=[3,4,0,1]", "a", 0.7),
        ("decoupled_mixup: loss intended, a=[3,4,0,1], b=[0,1,2,3]", "b", 0.7),
        ("decoupled_mixup: loss intended, lam .5, a=[0,1,2,3], b=[3,4,0,1]", "a", 0.5),
    ],
)
def test_golden_values_of_decoupled_mixup(name: str, first: str, share: float) -> None:
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([3, 4, 0, 1])
    a, b = (a, b) if first == "a" else (b, a)
    got = decoupled_cross_entropy(2 * mix_raw(0, 4, 5), a, b, torch.full((4,), share, dtype=torch.float64), 0.1)
    assert got.mean().item() == pytest.approx(golden(name), abs=1e-7)


def test_golden_value_of_soft_cross_entropy() -> None:
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([3, 4, 0, 1])
    got = decoupled_cross_entropy(2 * mix_raw(0, 4, 5), a, b, torch.full((4,), 0.5), 0.0).mean().item()
    name = "decoupled_mixup: soft cross entropy, lam .5, a=[0,1,2,3], b=[3,4,0,1] (released value at lam .5)"
    assert got == pytest.approx(golden(name), abs=1e-7)


def test_decoupled_mixup_reads_mixtures_in_place_and_beside() -> None:
    x, y = scores(0), scores(1)
    clean = soft(x, [1.0] * 6, list(range(6)))
    other = [LABEL[p] for p in PARTNER]
    mixed = sum(decoupled_loop(y[i], LABEL[i], other[i], SHARE[i], 0.1) for i in range(6)) / 6
    objective = DecoupledMixup(4, 0.1)
    beside = objective(heads(x, y), None, batch(None, mix(SHARE, PARTNER)), loops.CLOCK)
    assert beside["loss"].item() == pytest.approx((clean + mixed) / 2, abs=1e-6) and "accuracy" in beside
    in_place = objective(heads(y), None, batch(mix(SHARE, PARTNER)), loops.CLOCK)
    assert in_place["loss"].item() == pytest.approx(mixed, abs=1e-6)
    without = Batch([], torch.arange(6), torch.tensor(LABEL))  # outside the mixer's schedule
    assert objective(heads(x), None, without, loops.CLOCK)["loss"].item() == pytest.approx(clean, abs=1e-6)


def test_mixtures_of_three_are_refused_where_two_are_told_apart() -> None:
    own = torch.arange(6)[:, None]
    three = Mix(torch.empty(0), own.repeat(1, 3), torch.full((6, 3), 1 / 3), None, 0)
    with pytest.raises(ValueError, match="DecoupledMixup tells two classes apart, but each mixture has 3 sources"):
        DecoupledMixup(4, 0.1)(heads(scores(0)), None, batch(three), loops.CLOCK)


def test_golden_values_of_rankmixup() -> None:
    clean, mixed = 2 * mix_raw(0, 6, 4), 1.5 * mix_raw(1, 6, 4)
    targets = torch.full((1, 6, 4), 0.1, dtype=torch.float64)
    targets[0, 2] = torch.tensor([0.0, 0.0, 1.0, 0.0])  # sample 2 is mixed with its own class
    name = "rankmixup_mrl: hinge intended, mean(mask*hinge)"
    assert MRL(2.0)(clean, mixed[None], targets).mean().item() == pytest.approx(golden(name), abs=1e-7)
    clean_loss = cross_entropy(clean, torch.nn.functional.one_hot(torch.tensor(LABEL), 4)).mean().item()
    assert clean_loss == pytest.approx(golden("rankmixup_mrl: cross entropy"), abs=1e-7)
    backwards = list(reversed(range(6)))
    logits = [clean, mixed, 1.5 * mix_raw(2, 6, 4)]
    objective = RankMixup(4, MNDCG(), 0.1)
    out = objective(
        heads(*logits), None, batch(None, mix([0.7] * 6, backwards), mix([0.6] * 6, backwards)), loops.CLOCK
    )
    expected = golden("rankmixup_mndcg: mean(1-NDCG), two mixtures, partner = reversed batch")
    assert out["ranking"].item() == pytest.approx(expected, abs=1e-7)
    assert out["loss"].item() == pytest.approx(clean_loss + 0.1 * expected, abs=1e-6)


def test_rankmixup_equals_the_loops() -> None:
    clean, mixtures = scores(0), [scores(1), scores(2), scores(3)]
    shares = [SHARE, [0.55, 0.8, 0.6, 0.6, 0.9, 0.2], [0.95, 0.6, 0.1, 0.8, 0.5, 0.7]]
    partners = [PARTNER, [1, 2, 3, 4, 5, 0], [3, 4, 5, 0, 1, 2]]
    seen = batch(None, *(mix(share, partner) for share, partner in zip(shares, partners, strict=True)))
    hinge = quotient = 0.0
    for i in range(6):
        ranked = []
        for logits, share, partner in zip(mixtures, shares, partners, strict=True):
            a, b, own = LABEL[i], LABEL[partner[i]], share[i]
            largest = 1.0 if a == b else max(own, 1 - own)
            ranked.append((largest, max(math.exp(-minus_log_p(logits[i], c)) for c in range(4))))
            if largest < 1:
                hinge += max(0.0, float(logits[i].max()) - float(clean[i].max()) + 0.5) / 18
        ranked.sort(key=lambda pair: -pair[0])
        first = max(math.exp(-minus_log_p(clean[i], c)) for c in range(4))
        found = first + sum(p / math.log2(r) for r, (_, p) in enumerate(ranked, start=3))
        ideal = 1 + sum(s / math.log2(r) for r, (s, _) in enumerate(ranked, start=3))
        quotient += (1 - min(found / ideal, ideal / found)) / 6
    for ranking, expected in ((MRL(0.5), hinge), (MNDCG(), quotient)):
        out = RankMixup(4, ranking, 2.0)(heads(clean, *mixtures), None, seen, loops.CLOCK)
        assert out["ranking"].item() == pytest.approx(expected, abs=1e-6)
        assert out["loss"].item() == pytest.approx(out["cross_entropy"].item() + 2 * expected, abs=1e-6)


def test_rankmixup_in_closed_cases() -> None:
    clean = torch.tensor([[9.0, 0.0, 0.0]])
    half = torch.tensor([[[0.5, 0.5, 0.0]]])
    assert MRL(2.0)(clean, torch.tensor([[[6.0, 6.0, 0.0]]]), half).item() == 0  # less sure by more than the margin
    assert MRL(2.0)(clean, torch.tensor([[[8.0, 6.0, 0.0]]]), half).item() == 1
    sure = torch.tensor([[1e4, 0.0, 0.0]])
    equal = torch.tensor([[[1e4, 1e4, 0.0]]])
    assert MNDCG()(sure, equal, half).item() == pytest.approx(0, abs=1e-6)  # confidences are the shares
    too_sure = MNDCG()(sure, sure[None], half).item()
    discount = math.log2(3)
    assert too_sure == pytest.approx(1 - (1 + 0.5 / discount) / (1 + 1 / discount), abs=1e-6)


def test_rankmixup_outside_the_schedule_is_cross_entropy() -> None:
    x = scores(0)
    out = RankMixup(4, MRL(2.0), 0.1)(heads(x), None, Batch([], torch.arange(6), torch.tensor(LABEL)), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(soft(x, [1.0] * 6, list(range(6))), abs=1e-6) and "ranking" not in out


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Supervised(None, 0.0), "num_classes is null: it must be a whole number, at least 2"),  # type: ignore[arg-type]
        (
            lambda: DecoupledMixup(1, 0.1),
            r"num_classes is 1: it must be at least 2",
        ),
        (lambda: Supervised(4, 1.0), r"label_smoothing is 1\.0: it must be at least 0 and below 1"),
        (lambda: DecoupledMixup(4, -0.1), r"eta is -0\.1: it must be at least 0"),
        (lambda: RankMixup(4, MNDCG(), -1.0), r"weight is -1\.0: it must be at least 0"),
    ],
)
def test_bad_settings_are_refused(build, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        build()
