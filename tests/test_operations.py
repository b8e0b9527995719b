"""How many operations a step dispatches: bounds that a change must not raise unseen (see tools/operations.py)."""

import pytest
import torch
from torch import nn

from ssl_framework.optim import LARS
from tools import operations

BOUNDS = {
    "simclr": {"views": 330, "student": 42, "teacher": 0, "objective": 60, "backward": 150, "optimizer": 3},
    "mocov2": {"views": 330, "student": 33, "teacher": 44, "objective": 70, "backward": 122, "optimizer": 3},
    "byol": {"views": 670, "student": 90, "teacher": 60, "objective": 34, "backward": 204, "optimizer": 3},
}
"""With the tiny network and torch 2.15, and three percent more for other versions."""


@pytest.mark.parametrize("method", BOUNDS)
def test_a_step_dispatches_no_more_operations_than_it_did(method: str) -> None:
    found = operations.count(operations.composed(method, "backbone=tiny")).found()
    assert found.pop("teacher update") <= 1 and found.pop("other") == 0
    assert {part: n for part, n in found.items() if n > BOUNDS[method][part]} == {}
    assert sum(found.values()) > sum(BOUNDS[method].values()) * 0.8  # the count still counts


@pytest.mark.parametrize("clip_rate", [False, True])
def test_lars_dispatches_as_few_operations_for_many_parameters(clip_rate: bool) -> None:
    weights = [nn.Parameter(torch.ones(2, 2)) for _ in range(40)]
    biases = [nn.Parameter(torch.ones(2)) for _ in range(40)]
    groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0, "adapt": False}]
    optimizer = LARS(groups, lr=0.1, weight_decay=1e-4, clip_rate=clip_rate)
    for p in (*weights, *biases):
        p.grad = torch.ones_like(p)
    optimizer.step()  # makes its state
    with operations.Operations() as counted:
        optimizer.step()
    assert sum(counted.found().values()) <= 20
