"""ConR against its formula in loops, and the anchors that have nothing to be compared with."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.conr import ConR, conr
from tests.golden import golden, mix_rows
from tests.objectives import loops

LABELS = torch.tensor([0, 1, 3, 3.5, 3.6, 0.5], dtype=torch.float64)
PREDICTIONS = torch.tensor([0.2, 3.1, 2.8, 3.3, 3, 8.5], dtype=torch.float64)


def loop(z: Tensor, label: Tensor, predicted: Tensor, window: float, push: float, tau: float) -> list[float]:
    """The formula, anchor by anchor."""
    losses, rows = [], range(len(z))
    for i in rows:
        positives = [j for j in rows if j != i and abs(label[i] - label[j]) <= window]
        negatives = [
            j for j in rows if abs(label[i] - label[j]) > window and abs(predicted[i] - predicted[j]) <= window
        ]
        if not positives or not negatives:
            losses.append(0.0)
            continue
        terms = [loops.dot(z[i], z[j]) / tau for j in positives]
        terms += [loops.dot(z[i], z[j]) / tau + push * abs(float(label[i] - label[j])) for j in negatives]
        attraction = sum(loops.dot(z[i], z[p]) / tau for p in positives) / len(positives)
        losses.append(loops.log_sum_exp(terms) - attraction)
    return losses


def test_golden() -> None:
    value = conr(mix_rows(0), LABELS, PREDICTIONS, 1.0, 0.01, 0.07).mean().item()
    assert value == pytest.approx(golden("conr: loss as written in the formula"), abs=1e-6)


@pytest.mark.parametrize(("window", "push"), [(1.0, 0.01), (0.5, 2.0), (3.0, 0.0)])
def test_equals_the_loop(window: float, push: float) -> None:
    z = loops.random_unit(12, 5, 0)
    generator = torch.Generator().manual_seed(1)
    label, predicted = (8 * torch.rand(2, 12, generator=generator, dtype=torch.float64)).unbind()
    expected = loop(z, label, predicted, window, push, 0.2)
    assert 0 < sum(value > 0 for value in expected) < 12 or window != 0.5  # some anchors of this case have nothing
    assert conr(z, label, predicted, window, push, 0.2).tolist() == pytest.approx(expected, abs=1e-10)


def test_the_objective_is_l1_and_the_regulariser_over_all_views() -> None:
    views = [loops.random_unit(6, 5, v) for v in range(2)]
    predicted = [PREDICTIONS, PREDICTIONS.flip(0)]
    student = [{"pooled": 3 * z, "regressor": p[:, None]} for z, p in zip(views, predicted, strict=True)]
    out = ConR(1.0, 0.3, 0.2, 4.0)(student, None, loops.batch(6, LABELS), loops.CLOCK)
    each = loop(torch.cat(views), LABELS.repeat(2), torch.cat(predicted), 1.0, 0.3, 0.2)
    error = (torch.cat(predicted) - LABELS.repeat(2)).abs().mean().item()
    assert out["conr"].item() == pytest.approx(sum(each) / 12, abs=1e-10) and out["conr"] > 0
    assert out["loss"].item() == pytest.approx(error + 4 * sum(each) / 12, abs=1e-10)


def test_anchors_without_positives_or_negatives_contribute_nothing() -> None:
    for label, predicted in (
        (torch.arange(6.0) * 3, torch.zeros(6)),  # no positives
        (torch.zeros(6), torch.zeros(6)),  # no negatives: all numbers near
        (torch.tensor([0.0, 0, 0, 9, 9, 9]), torch.arange(6.0) * 3),  # no negatives: no prediction is near
    ):
        z = loops.random_unit(6, 5, 0).requires_grad_()
        loss = conr(z, label.double(), predicted.double(), 1.0, 0.01, 0.07)
        loss.sum().backward()
        assert (loss == 0).all() and z.grad is not None and (z.grad == 0).all()


def test_predictions_choose_negatives_and_get_no_gradient_from_them() -> None:
    predicted = PREDICTIONS.clone().requires_grad_()
    student = [{"pooled": mix_rows(0), "regressor": predicted[:, None]}]
    ConR(1.0, 0.01, 0.07, 4.0)(student, None, loops.batch(6, LABELS), loops.CLOCK)["loss"].backward()
    torch.testing.assert_close(predicted.grad, (PREDICTIONS - LABELS).sign() / 6)


def test_equal_embeddings_give_the_weight_of_the_rivals() -> None:
    """All similarities are one: log((2 + 3 exp(e d)) / 1) for two positives and three negatives at distance d."""
    label = torch.tensor([0.0, 0, 0, 5, 5, 5], dtype=torch.float64)
    z = torch.ones(6, 3, dtype=torch.float64) / math.sqrt(3)
    loss = conr(z, label, torch.zeros(6, dtype=torch.float64), 1.0, 0.1, 0.07)
    assert loss.tolist() == pytest.approx([math.log(2 + 3 * math.exp(0.5))] * 6, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": -1.0}, r"window is -1\.0: it must be at least 0"),
        ({"push": -1.0}, r"push is -1\.0: it must be at least 0"),
        ({"weight": -1.0}, r"weight is -1\.0: it must be at least 0"),
        ({"temperature": 0.0}, r"temperature is 0\.0: it must be above 0"),
    ],
)
def test_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConR(**{"window": 1.0, "push": 0.01, "temperature": 0.07, "weight": 4.0, **change})
