"""The margin loss of pairs: golden values and a loop."""

import pytest
import torch

from ssl_framework.objectives.margin_pair import MarginPair, distance, margin_pair
from tests.golden import golden, mix_rows
from tests.objectives import loops


def test_golden() -> None:
    same = torch.tensor([1, 0, 1, 0, 0, 1]).double()
    found = margin_pair(distance(mix_rows(0), mix_rows(1)), same, 1.5).mean().item()
    assert found == pytest.approx(golden("margin_pair: y d^2 + (1 - y) max(0, 1.5 - d)^2"), abs=1e-7)
    half = golden("margin_pair: half mean of y d^2 + (1-y) max(0, m - d)^2")  # as others write it
    assert found / 2 == pytest.approx(half, abs=1e-7)


def test_equals_the_loop() -> None:
    z0, z1 = loops.random_unit(5, 4, 0), loops.random_unit(5, 4, 1)
    total = 0.0
    for i in range(5):
        near, far = float((z0[i] - z1[i]).norm()), float((z0[i] - z1[(i + 1) % 5]).norm())
        total += near**2 + max(0.0, 1.4 - far) ** 2
    found = MarginPair(1.4).loss_of(3 * z0, z1)
    assert found.item() == pytest.approx(total / 10, abs=1e-12)
    with pytest.raises(ValueError, match="but the batch has one sample"):
        MarginPair(1.4).loss_of(z0[:1], z1[:1])
