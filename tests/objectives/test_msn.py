import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.msn import MSN
from tests.golden import golden, mix_raw
from tests.objectives import loops


def loss(
    anchors: list[Tensor], target: Tensor, prototypes: Tensor, iterations: int, exponent: float, weight: float = 1.0
) -> float:
    objective = MSN(prototypes.shape[1], len(prototypes), 0.1, 0.25, iterations, weight, exponent)
    objective.prototypes = torch.nn.Parameter(prototypes)
    out = objective([None, *loops.outputs(*anchors)], loops.outputs(target), loops.batch(len(target)), loops.CLOCK)
    return out["loss"].item()


@pytest.mark.parametrize(
    ("name", "iterations", "exponent"),
    [
        ("msn: loss with Sinkhorn, 2 anchor views raw0 raw1, target raw2, 4 prototypes", 3, 0.0),
        ("msn: loss without Sinkhorn", 0, 0.0),
        ("pmsn: loss with a power law prior, exponent .25", 3, 0.25),
    ],
)
def test_golden(name: str, iterations: int, exponent: float) -> None:
    value = loss([mix_raw(0), mix_raw(1)], mix_raw(2), mix_raw(3, 4, 8), iterations, exponent)
    assert value == pytest.approx(golden(name), abs=1e-7)


def probabilities(z: Tensor, prototypes: Tensor) -> list[list[float]]:
    found = []
    for row in z:
        logits = [loops.dot(row, c) / row.norm().item() / c.norm().item() / 0.1 for c in prototypes]
        total = loops.log_sum_exp(logits)
        found.append([math.exp(logit - total) for logit in logits])
    return found


@pytest.mark.parametrize(("iterations", "exponent"), [(0, 0.0), (2, 0.0), (2, 0.5)])
def test_equals_the_loop(iterations: int, exponent: float) -> None:
    anchors, target, prototypes = [mix_raw(0, 5), mix_raw(1, 5), mix_raw(2, 5)], mix_raw(3, 5), mix_raw(1, 3, 8)
    q = [[p**4 for p in row] for row in probabilities(target, prototypes)]
    q = [[x / sum(row) for x in row] for row in q]
    for _ in range(iterations):
        columns = [sum(row[k] for row in q) for k in range(3)]
        q = [[x / columns[k] for k, x in enumerate(row)] for row in q]
        q = [[x / sum(row) for x in row] for row in q]
    p = [probabilities(z, prototypes) for z in anchors]
    entropies = [-sum(t * math.log(x) for t, x in zip(q[i], view[i], strict=True)) for view in p for i in range(5)]
    mean = [sum(view[i][k] for view in p for i in range(5)) / 15 for k in range(3)]
    if exponent:
        power = [(k + 1) ** -exponent for k in range(3)]
        divergence = sum(w / sum(power) * math.log(w / sum(power) / m) for w, m in zip(power, mean, strict=True))
    else:
        divergence = sum(m * math.log(m * 3) for m in mean)
    expected = sum(entropies) / 15 + 0.7 * divergence
    assert loss(anchors, target, prototypes, iterations, exponent, 0.7) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("exponent", [0.0, 0.25])
def test_a_mean_like_the_prior_has_no_divergence(exponent: float) -> None:
    objective = MSN(8, 4, 0.1, 0.25, 0, 1.0, exponent)
    prior = torch.arange(1, 5, dtype=torch.float64) ** -exponent
    assert objective.divergence(prior / prior.sum()).item() == pytest.approx(0, abs=1e-12)
    assert objective.divergence(torch.tensor([1.0, 0, 0, 0])) > 1  # also where a prototype is never used


def test_targets_have_no_gradient_and_prototypes_learn() -> None:
    objective = MSN(8, 4, 0.1, 0.25, 3, 1.0, 0.0)
    target = mix_raw(2).float().requires_grad_()
    out = objective([None, *loops.outputs(mix_raw(0).float())], loops.outputs(target), loops.batch(6), loops.CLOCK)
    out["loss"].backward()
    assert target.grad is None and objective.prototypes.grad is not None
    assert out["loss"].item() == pytest.approx(out["cross_entropy"].item() + out["divergence"].item(), abs=1e-6)
