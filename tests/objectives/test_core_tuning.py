"""Core-tuning: the focal loss, which rows are mixed, and the whole objective against loops."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_data, build_module
from ssl_framework.objectives.core_tuning import CoreTuning, Pairs, focal_supcon, hard_positives, label_of
from ssl_framework.types import Clock, Samples
from tests.golden import core_view, golden
from tests.objectives import loops
from tests.small_runs import small

LABEL = torch.tensor([2, 0, 2, 1, 2, 1])  # the second sample is alone in its class
WEIGHTS = {name: loops.random_unit(4, 5, seed) for name, seed in (("projector", 7), ("classifier", 8))}


def through_heads(pooled: Tensor) -> dict[str, Tensor]:
    return {"pooled": pooled, **{name: pooled @ weight.T for name, weight in WEIGHTS.items()}}


def built(**options: float) -> CoreTuning:
    plain: dict = {"temperature": 0.2, "weight": 0.7, "alpha": 1.0, "least_share": 0.8, "num_classes": 4}
    objective = CoreTuning(**{**plain, **options})
    objective.through_heads = through_heads
    return objective


def focal(z: Tensor, label: list, tau: float) -> float:
    """Straight from the formula; labels are of any kind that can be compared."""
    n, total, anchors = len(z), 0.0, 0
    for i in range(n):
        denominator = loops.log_sum_exp([loops.dot(z[i], z[j]) / tau for j in range(n) if j != i])
        positives = [j for j in range(n) if j != i and label[j] == label[i]]
        anchors += bool(positives)
        for j in positives:
            log_p = loops.dot(z[i], z[j]) / tau - denominator
            total -= (1 - math.exp(log_p)) * log_p / n
    return total / anchors


def test_golden() -> None:
    value = focal_supcon(core_view(0), torch.tensor([0, 0, 1, 1, 2, 2]), 0.07)
    assert value.item() == pytest.approx(golden("core_tuning: focal SupCon of Z0, labels [0,0,1,1,2,2]"), abs=1e-7)


def test_the_focal_loss_equals_the_loop_and_its_gradient_passes_through_the_weight() -> None:
    z = loops.random_unit(6, 4, 3).requires_grad_()
    value = focal_supcon(z, LABEL, 0.3)
    assert value.item() == pytest.approx(focal(z.detach(), LABEL.tolist(), 0.3), abs=1e-10)
    assert torch.autograd.gradcheck(lambda x: focal_supcon(x, LABEL, 0.3), [z])


def test_no_positive_at_all_is_zero() -> None:
    z = loops.random_unit(4, 4, 3).requires_grad_()
    value = focal_supcon(z, torch.arange(4), 0.3)
    value.backward()
    assert value.item() == 0 and z.grad is not None and not z.grad.any()


def test_the_least_similar_positive_and_the_most_similar_negative() -> None:
    z, share = loops.random_unit(6, 4, 1), torch.linspace(0.1, 0.9, 6)
    pairs = hard_positives(z, LABEL, share)
    for i in range(6):
        positives = [j for j in range(6) if j != i and LABEL[j] == LABEL[i]] or [i]
        negatives = [j for j in range(6) if LABEL[j] != LABEL[i]]
        similarity = [loops.dot(z[i], z[j]) for j in range(6)]
        expected = [min(positives, key=similarity.__getitem__), max(negatives, key=similarity.__getitem__)]
        assert pairs.source[i].tolist() == expected
    torch.testing.assert_close(pairs.share, torch.stack([share, 1 - share], dim=1))


def test_a_batch_of_one_class_mixes_nothing_foreign() -> None:
    pairs = hard_positives(loops.random_unit(4, 4, 1), torch.zeros(4, dtype=torch.long), torch.full((4,), 0.3))
    assert pairs.share.tolist() == [[1.0, 0.0]] * 4


def test_hard_negatives_are_mostly_their_partner() -> None:
    z, label = loops.random_unit(50, 4, 1), torch.arange(50) % 3
    pairs = built().hard_pairs(z, label, loops.CLOCK)
    negative, positive = (Pairs(pairs.source[part], pairs.share[part]) for part in (slice(50), slice(50, 100)))
    assert negative.source[:, 0].tolist() == list(range(50))
    assert sorted(negative.source[:, 1].tolist()) == list(range(50)) != negative.source[:, 1].tolist()
    at_least = negative.share[:, 1]
    assert at_least.min() == torch.tensor(0.8) and (at_least > 0.81).any()
    assert positive.share[:, 0].min() < 0.2 and positive.share[:, 0].max() > 0.8
    torch.testing.assert_close(pairs.share.sum(dim=1), torch.ones(100))
    other = built().hard_pairs(z, label, Clock(8, 1, 10))
    assert not torch.equal(pairs.source, other.source)
    narrow = built(alpha=50.0, least_share=0.0).hard_pairs(z, label, loops.CLOCK).share
    assert narrow.min() > 0.2 and narrow.max() < 0.8


def test_mixtures_within_a_class_have_its_label_and_others_one_of_their_own() -> None:
    source = torch.tensor([[0, 2], [0, 1], [1, 3], [1, 3]])
    share = torch.tensor([[0.3, 0.7], [0.3, 0.7], [0.0, 1.0], [0.6, 0.4]])
    assert label_of(Pairs(source, share), LABEL).tolist() == [2, -2, 1, -4]


def test_the_objective_equals_the_loop() -> None:
    """Soft cross-entropy over clean rows, hard negatives and hard positives; mixed labels are compared as vectors."""
    objective, pooled = built(), loops.random_unit(6, 5, 0) * 2
    out = objective([through_heads(pooled)], None, loops.batch(6, LABEL), loops.CLOCK)
    z = pooled / pooled.norm(dim=1, keepdim=True)
    pairs = objective.hard_pairs(z, LABEL, loops.CLOCK)
    rows, labels = list(pooled), [[float(c == y) for c in range(4)] for y in LABEL.tolist()]
    for (i, j), (a, b) in zip(pairs.source.tolist(), pairs.share.tolist(), strict=True):
        rows.append(a * pooled[i] + b * pooled[j])
        labels.append([a * x + b * y for x, y in zip(labels[i], labels[j], strict=True)])
    total = 0.0
    for row, label in zip(rows, labels, strict=True):
        logits = [loops.dot(row, weight) for weight in WEIGHTS["classifier"]]
        total += sum(p * (loops.log_sum_exp(logits) - x) for p, x in zip(label, logits, strict=True)) / len(rows)
    assert out["classification"].item() == pytest.approx(total, abs=1e-6)
    embedded = torch.stack(rows) @ WEIGHTS["projector"].T
    embedded = embedded / embedded.norm(dim=1, keepdim=True)
    rounded = [[round(p, 5) for p in label] for label in labels]
    assert out["contrastive"].item() == pytest.approx(focal(embedded, rounded, 0.2), abs=1e-6)
    assert out["loss"].item() == pytest.approx((out["classification"] + 0.7 * out["contrastive"]).item(), abs=1e-9)
    right = (pooled @ WEIGHTS["classifier"].T).argmax(dim=1) == LABEL
    assert out["accuracy"].item() == pytest.approx(right.double().mean().item())


def test_clean_and_mixed_rows_train_the_backbone() -> None:
    """The gradient is that of the whole: of the clean rows of the classifier as well as of their mixtures."""
    pooled = (loops.random_unit(6, 5, 0) * 2).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return built()([through_heads(x)], None, loops.batch(6, LABEL), loops.CLOCK)["loss"]

    assert torch.autograd.gradcheck(loss, [pooled], atol=1e-6)


def test_micro_batches_reach_both_heads() -> None:
    cfg = small("core_tuning", "data.micro_batch_size=4")
    data = build_data(cfg).pretrain
    module = build_module(cfg, True, data.shape[0])
    assert data.label is not None
    module.losses(Samples(data.rows[:8], torch.arange(8), data.label[:8]), Clock(0, 0, 3))["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in module.student.heads.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_classes": None}, "num_classes is null: it must be a whole number, at least 2"),
        ({"alpha": 0.0}, r"alpha is 0\.0: it must be above 0"),
        ({"least_share": 1.5}, r"least_share is 1\.5: it must be between 0 and 1"),
        ({"weight": -1.0}, r"weight is -1\.0: it must be at least 0"),
        ({"temperature": 0.0}, r"temperature is 0\.0: it must be above 0"),
    ],
)
def test_refused_settings(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        built(**change)
