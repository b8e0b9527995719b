"""Regression of numbers: what each loss is, and which number a mixed view shows."""

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.regression import Regression
from ssl_framework.types import Mix
from tests.objectives import loops

LABELS = torch.tensor([0, 1, 3, 3.5, 6, 9], dtype=torch.float64)


def outputs(*predicted: Tensor | None) -> list:
    return [None if p is None else {"regressor": p[:, None]} for p in predicted]


def loss(name: str, *predicted: Tensor | None, mix: list[Mix | None] | None = None) -> float:
    batch = loops.batch(len(LABELS), LABELS)._replace(mix=mix)
    return Regression(name)(outputs(*predicted), None, batch, loops.CLOCK)["loss"].item()


@pytest.mark.parametrize("name", ["l1", "mse", "huber"])
def test_each_loss_over_all_views_that_were_encoded(name: str) -> None:
    def of(error: float) -> float:
        small = abs(error) <= 1
        return {"l1": abs(error), "mse": error**2, "huber": error**2 / 2 if small else abs(error) - 0.5}[name]

    first, second = LABELS + 0.25, LABELS.flip(0)
    expected = [of(float(p - y)) for view in (first, second) for p, y in zip(view, LABELS, strict=True)]
    assert loss(name, first, None, second) == pytest.approx(sum(expected) / 12, abs=1e-12)


def test_a_mixed_view_shows_the_mean_of_its_sources_numbers() -> None:
    source = torch.tensor([[0, 1], [1, 5], [2, 2], [3, 0], [4, 3], [5, 4]])
    share = torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    mix = Mix(torch.empty(0), source, share, None, 1)
    shown = torch.tensor([0.25, 5.0, 3.0, 0.875, 4.75, 9.0], dtype=torch.float64)
    assert loss("mse", LABELS, shown, mix=[None, mix]) == pytest.approx(0.0, abs=1e-12)
    assert loss("mse", shown, LABELS, mix=[None, mix]) > 0.1


def test_classes_are_read_as_numbers() -> None:
    out = Regression("l1")(outputs(torch.zeros(3)), None, loops.batch(3, torch.tensor([0, 3, 6])), loops.CLOCK)
    assert out["loss"].item() == out["absolute_error"].item() == 3.0


@pytest.mark.parametrize("name", ["l1", "mse", "huber"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("label", [torch.tensor([0, 3]), torch.tensor([0.0, 3.0]), torch.tensor([0.0, 3.0]).double()])
def test_predictions_and_labels_of_any_dtypes(name: str, dtype: torch.dtype, label: Tensor) -> None:
    predicted = torch.tensor([0.5, 1.0], dtype=dtype, requires_grad=True)
    out = Regression(name)(outputs(predicted), None, loops.batch(2, label), loops.CLOCK)
    out["loss"].backward()
    slopes = {"l1": [0.5, -0.5], "mse": [0.5, -2.0], "huber": [0.25, -0.5]}[name]
    torch.testing.assert_close(predicted.grad, torch.tensor(slopes, dtype=dtype))


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.loss is rmse: choose one of l1, mse, huber"):
        Regression("rmse")
    with pytest.raises(ValueError, match=r"student\.heads\.regressor\.out is 2: a number is one output, set it to 1"):
        Regression("l1")([{"regressor": torch.zeros(6, 2)}], None, loops.batch(6, LABELS), loops.CLOCK)
