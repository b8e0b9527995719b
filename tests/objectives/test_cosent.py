import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.cosent import CoSENT, cosent
from tests.golden import golden, mix_rows
from tests.objectives import loops


def loss(z0: Tensor, z1: Tensor, label: Tensor, scale: float = 20.0) -> float:
    batch = loops.batch(len(z0))._replace(label=label)
    return CoSENT(scale)(loops.outputs(z0, z1), None, batch, loops.CLOCK)["loss"].item()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("loss over pairs of pairs", [0.2, 0.9, 0.5, 0.5, 1.0, 0.0]),
        (
            "log(1 + sum over pairs with larger label of exp(20 (cos_small - cos_large)))",
            [0.9, 0.1, 0.8, 0.3, 0.6, 0.2],
        ),
    ],
)
def test_golden(name: str, label: list[float]) -> None:
    found = loss(mix_rows(0), mix_rows(1), torch.tensor(label))
    assert found == pytest.approx(golden(f"cosent: {name}"), rel=1e-7)


def test_equals_the_loop_and_equal_scores_say_nothing() -> None:
    s = [0.3, -0.2, 0.9, 0.1]
    y = [1.0, 1.0, 0.5, 2.0]
    terms = [math.exp(3 * (s[j] - s[i])) for i in range(4) for j in range(4) if y[i] > y[j]]
    found = cosent(torch.tensor(s, dtype=torch.float64), torch.tensor(y), 3.0).item()
    assert found == pytest.approx(math.log(1 + sum(terms)), abs=1e-10)
    assert len(terms) == 5
    assert cosent(torch.tensor(s), torch.ones(4), 3.0).item() == 0


def test_pairs_in_their_order_cost_little() -> None:
    s = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64)
    assert cosent(s, s, 20.0) < 1e-3 and cosent(s, -s, 20.0) > 10
