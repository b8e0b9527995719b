import itertools
import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.gram import GRAM, volumes
from tests.golden import golden, mix_rows
from tests.objectives import loops


def loss(views: list[Tensor], temperature: float = 0.07, smoothing: float = 0.1, anchor: int = 0) -> float:
    objective = GRAM(temperature, 100, smoothing, anchor, 1e-12).double()
    with torch.no_grad():
        objective.log_scale.fill_(-math.log(temperature))  # which float32 had rounded
    return objective(loops.outputs(*views), None, loops.batch(len(views[0])), loops.CLOCK)["loss"].item()


def volume(*rows: Tensor) -> float:
    gram = torch.tensor([[loops.dot(a, b) for b in rows] for a in rows], dtype=torch.float64)
    return math.sqrt(max(0.0, torch.linalg.det(gram).item()))


def test_golden() -> None:
    a, b, c = (mix_rows(v) for v in range(3))
    found = volumes(a, [b, c], 1e-14)
    expected = golden("gram: volumes V(A_i,B_j,C_j): mean, [0,0], [0,1]")
    assert [found.mean().item(), found[0, 0].item(), found[0, 1].item()] == pytest.approx(expected, abs=1e-7)
    assert loss([a, b, c]) == pytest.approx(golden("gram: loss, rows and columns, mean"), abs=1e-7)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_equals_the_loop(count: int) -> None:
    z = [loops.random_unit(4, 6, v) for v in range(count)]
    anchor, *others = z[-1:] + z[:-1]
    v = [[volume(anchor[i], *(other[j] for other in others)) for j in range(4)] for i in range(4)]
    total = 0.0
    for i, j in itertools.product(range(4), range(4)):
        target = 0.2 / 4 + 0.8 * (i == j)
        rows, columns = [-x / 0.3 for x in v[i]], [-v[k][j] / 0.3 for k in range(4)]
        total -= target * (rows[j] - loops.log_sum_exp(rows) + columns[i] - loops.log_sum_exp(columns)) / 8
    assert loss(z, 0.3, 0.2, -1) == pytest.approx(total, abs=1e-6)


def test_closed_cases() -> None:
    e = torch.eye(3).double()
    assert volumes(e[:1], [e[1:2], e[2:]], 1e-14).item() == pytest.approx(1)  # a cube
    assert volumes(e[:1], [e[:1], e[2:]], 1e-14).item() == pytest.approx(0, abs=1e-6)  # flat
    a, b = loops.random_unit(1, 5, 0), loops.random_unit(1, 5, 1)
    sine = math.sqrt(1 - loops.dot(a[0], b[0]) ** 2)
    assert volumes(a, [b], 1e-14).item() == pytest.approx(sine) == pytest.approx(volumes(-a, [b], 1e-14).item())


def test_no_such_anchor() -> None:
    with pytest.raises(ValueError, match=r"objective\.anchor is 3, but there are 3 views"):
        loss([loops.random_unit(4, 6, v) for v in range(3)], anchor=3)
