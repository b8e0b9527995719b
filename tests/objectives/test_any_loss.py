"""AnyLoss: the golden values, a loop, hard counts in the limit, and a rare class that cross-entropy gives up on."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.any_loss import METRICS, AnyLoss, amplified, confusion, f_beta
from tests.golden import golden, mix_raw
from tests.objectives import loops

LABEL = torch.tensor([0, 0, 1, 1, 0, 1])


def loss(score: Tensor, metric: str, beta: float = 1.0, amplification: float = 73.0, label: Tensor = LABEL) -> Tensor:
    """Of scores [N] whose sigmoid is the probability of class 1."""
    logits = torch.stack([torch.zeros_like(score), score], dim=1)  # [N, 2]
    outputs = loops.outputs(logits, head="detector")
    objective = AnyLoss(1, metric, beta, amplification)
    return objective(outputs, None, loops.batch(len(score), label), loops.CLOCK)["loss"]


@pytest.mark.parametrize(
    ("metric", "name"), [("f_beta", "f1"), ("gmean2", "gmean2"), ("balanced_accuracy", "balanced accuracy")]
)
def test_golden(metric: str, name: str) -> None:
    assert loss(mix_raw(0)[:, 0], metric).item() == pytest.approx(golden(f"any_loss: 1 - {name}"), abs=1e-7)


def test_f_beta_equals_the_loop() -> None:
    score, beta, steep = mix_raw(0)[:, 0], 2.0, 5.0
    tp = fp = fn = 0.0
    for s, y in zip(score.tolist(), LABEL.tolist(), strict=True):
        p = 1 / (1 + math.exp(-steep * (1 / (1 + math.exp(-s)) - 0.5)))
        tp, fp, fn = tp + y * p, fp + (1 - y) * p, fn + y * (1 - p)
    expected = 1 - 5 * tp / (5 * tp + 4 * fn + fp + 1e-5)
    assert loss(score, "f_beta", beta, steep).item() == pytest.approx(expected, abs=1e-10)


def test_counts_are_those_of_a_confusion_matrix_where_the_sigmoid_is_steep() -> None:
    probability = amplified(torch.tensor([0.9, 0.2, 0.8, 0.3, 0.6, 0.7]), 1e4)
    assert [round(float(count), 4) for count in confusion(probability, LABEL.float())] == [2, 2, 1, 1]
    assert METRICS["f_beta"](confusion(probability, LABEL.float()), 1.0).item() == pytest.approx(4 / 7, abs=1e-4)


def test_views_of_a_sample_count_as_samples() -> None:
    a, b = (torch.stack([-mix_raw(s)[:, 0], mix_raw(s)[:, 0]], dim=1) for s in range(2))
    both = AnyLoss(1, "f_beta", 1.0, 5.0)(
        loops.outputs(a, b, head="detector"), None, loops.batch(6, LABEL), loops.CLOCK
    )
    one = loss(2 * torch.cat([mix_raw(0)[:, 0], mix_raw(1)[:, 0]]), "f_beta", 1.0, 5.0, LABEL.repeat(2))
    assert both["loss"].item() == pytest.approx(one.item(), abs=1e-10)


def f1_on_breast_cancer(steep: float | None) -> float:
    """A linear classifier on scikit-learn's table with malignant samples thinned out to 5 %, two features seen; the
    score on a half that was not fitted. ``None``: cross-entropy."""
    spec = importlib.util.find_spec("sklearn")  # not imported: that takes a second
    assert spec is not None and spec.submodule_search_locations is not None
    table = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "breast_cancer.csv"
    rows = torch.tensor([list(map(float, line.split(","))) for line in table.read_text().splitlines()[1:]])
    x, y = rows[:, :-1], rows[:, -1]
    benign, malignant = (y == 1).nonzero()[:, 0], (y == 0).nonzero()[:, 0][:18]
    kept = torch.cat([benign, malignant])
    x, y = x[kept][:, [1, 4]].float(), (y[kept] == 0).long()  # texture and smoothness: no easy features
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    weight = torch.zeros(3, requires_grad=True)
    solver = torch.optim.Adam([weight], 0.1)
    fit, asked = torch.arange(len(x)) % 2 == 0, torch.arange(len(x)) % 2 == 1
    for _ in range(100):
        score = x[fit] @ weight[:2] + weight[2]
        solver.zero_grad()
        if steep is None:
            torch.nn.functional.binary_cross_entropy_with_logits(score, y[fit].float()).backward()
        else:
            loss(score, "f_beta", 1.0, steep, y[fit]).backward()
        solver.step()
    answer = (x[asked] @ weight[:2] + weight[2] > 0).float()
    return f_beta(confusion(answer, y[asked].float()), 1.0).item()


def test_a_rare_class_is_found_that_cross_entropy_gives_up_on() -> None:
    assert f1_on_breast_cancer(None) < 0.2 < 0.3 < f1_on_breast_cancer(73.0)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.metric is auc: choose one of f_beta, gmean2, balanced_accuracy"):
        AnyLoss(0, "auc", 1.0, 73.0)
