import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.multiview import (
    CL1,
    CL2,
    DHEL,
    MVDHEL,
    PVC,
    AverageViewNTXent,
    MultiPositiveNTXent,
    MultiView,
    MVInfoNCE,
    PairwiseNTXent,
)
from tests.golden import core_view, golden
from tests.objectives import loops

OBJECTIVES: dict[str, Callable[[float], Objective]] = {
    "mv_infonce": lambda tau: MultiView(tau, MVInfoNCE()),
    "mv_dhel": lambda tau: MultiView(tau, MVDHEL()),
    "mv_cl1": lambda tau: MultiView(tau, CL1()),
    "mv_cl2": lambda tau: MultiView(tau, CL2()),
    "pvc_geometric": lambda tau: MultiView(tau, PVC("geometric")),
    "pvc_arithmetic": lambda tau: MultiView(tau, PVC("arithmetic")),
    "pairwise_ntxent": lambda tau: MultiView(tau, PairwiseNTXent()),
    "average_view_ntxent": lambda tau: MultiView(tau, AverageViewNTXent()),
    "multi_positive_ntxent": lambda tau: MultiView(tau, MultiPositiveNTXent()),
}
TWO_VIEWS = {**OBJECTIVES, "dhel": lambda tau: DHEL(tau, True)}


def loss(objective: Objective, *views: Tensor) -> Tensor:
    return objective(loops.outputs(*views), None, loops.batch(len(views[0])), loops.CLOCK)["loss"]


@pytest.mark.parametrize("tau", [0.5, 0.1])
@pytest.mark.parametrize("num_views", [2, 3, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_golden(name: str, num_views: int, tau: float) -> None:
    value = loss(OBJECTIVES[name](tau), *map(core_view, range(num_views))).item()
    assert value == pytest.approx(golden(f"{name}: loss, {num_views} views [tau={tau}]"), abs=1e-7)


@pytest.mark.parametrize("both, name", [(True, "of both views"), (False, "of view 0 only")])
def test_golden_dhel(both: bool, name: str) -> None:
    value = loss(DHEL(0.3, both), core_view(0), core_view(1)).item()
    assert value == pytest.approx(golden(f"dhel: loss with the energy {name}"), abs=1e-7)


def reference(name: str, views: list[Tensor], tau: float) -> float:
    """The formulas by loops over samples, views and pairs."""
    n, num = len(views[0]), len(views)
    pairs = [(a, b) for a in range(num) for b in range(num) if a != b]

    def s(i: int, a: int, j: int, b: int) -> float:
        return loops.dot(views[a][i], views[b][j]) / tau

    total = 0.0
    for i in range(n):
        others = {a: [s(i, a, j, b) for j in range(n) if j != i for b in range(num)] for a in range(num)}
        energies = [loops.log_sum_exp([s(i, a, j, a) for j in range(n) if j != i]) for a in range(num)]
        if name == "mv_infonce":
            meets = [x for a in range(num) for x in others[a] + [s(i, a, i, b) for b in range(num) if b != a]]
            total += loops.log_sum_exp(meets) - loops.log_sum_exp([s(i, a, i, b) for a, b in pairs])
        elif name == "mv_dhel":
            total += sum(energies) - loops.log_sum_exp([s(i, a, i, b) for a, b in pairs if a < b])
        elif name == "mv_cl1":
            for a in range(num):
                apart = [s(i, a, j, b) for j in range(n) for b in range(num) if b != a]
                own = [s(i, a, i, b) for b in range(num) if b != a]
                total += (loops.log_sum_exp(apart) - loops.log_sum_exp(own)) / num
        elif name == "mv_cl2":
            own = [loops.log_sum_exp([s(i, a, i, b) for b in range(num) if b != a]) for a in range(num)]
            total += sum(energies) - sum(own) / num
        elif name == "dhel":
            total += sum(energies) - s(i, 0, i, 1)
        elif name.startswith("pvc"):
            for a in range(num):
                partners = [b for b in range(num) if b != a]
                log_p = [s(i, a, i, b) - loops.log_sum_exp([s(i, a, i, b), *others[a]]) for b in partners]
                mean = sum(log_p) / len(log_p)
                if name == "pvc_arithmetic":
                    mean = math.log(sum(map(math.exp, log_p)) / len(log_p))
                total -= mean / num
    return total / n


@pytest.mark.parametrize("num_views", [2, 5])
@pytest.mark.parametrize("name", ["mv_infonce", "mv_dhel", "dhel", "pvc_geometric", "pvc_arithmetic"])
def test_equals_the_loop(name: str, num_views: int) -> None:
    if name == "dhel" and num_views > 2:
        return
    views = [loops.random_unit(5, 7, v) for v in range(num_views)]
    assert loss(TWO_VIEWS[name](0.2), *views).item() == pytest.approx(reference(name, views, 0.2), abs=1e-10)


def test_pairwise_and_average_and_multi_positive_equal_loops_over_nt_xent_and_supcon() -> None:
    views = [loops.random_unit(5, 7, v) for v in range(3)]
    pairs = [loops.nt_xent(views[a], views[b], 0.2) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert loss(OBJECTIVES["pairwise_ntxent"](0.2), *views).item() == pytest.approx(sum(pairs) / 3, abs=1e-10)
    means = [(views[1] + views[2]) / 2, (views[0] + views[2]) / 2, (views[0] + views[1]) / 2]
    against = [loops.nt_xent(view, mean, 0.2) for view, mean in zip(views, means, strict=True)]
    assert loss(OBJECTIVES["average_view_ntxent"](0.2), *views).item() == pytest.approx(sum(against) / 3, abs=1e-10)
    expected = loops.supcon(torch.cat(views), [*range(5)] * 3, 0.2)
    assert loss(OBJECTIVES["multi_positive_ntxent"](0.2), *views).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_invariances(name: str) -> None:
    loops.assert_invariant(lambda a, b: loss(TWO_VIEWS[name](0.3), a, b))


@pytest.mark.parametrize("name", ["pvc_geometric", "pvc_arithmetic", "pairwise_ntxent", "average_view_ntxent"])
def test_two_views_are_nt_xent(name: str) -> None:
    z0, z1 = loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1)
    assert loss(OBJECTIVES[name](0.4), z0, z1).item() == pytest.approx(loops.nt_xent(z0, z1, 0.4), abs=1e-10)


def test_closed_cases() -> None:
    """All similarities equal: logarithms of counts. N = 4 samples, V = 3 views."""
    same = [torch.ones(4, 3, dtype=torch.float64)] * 3
    n, v = 4, 3
    expected = {
        "mv_infonce": math.log(v * (n * v - 1) / (v * (v - 1))),
        "mv_dhel": v * (math.log(n - 1) + 1 / 0.5) - math.log(v * (v - 1) / 2) - 1 / 0.5,
        "pvc_geometric": math.log(1 + (n - 1) * v),
        "pvc_arithmetic": math.log(1 + (n - 1) * v),
        "multi_positive_ntxent": math.log(n * v - 1),
    }
    for name, value in expected.items():
        assert loss(OBJECTIVES[name](0.5), *same).item() == pytest.approx(value, abs=1e-10), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TWO_VIEWS)
def test_half_precision_inputs_odd_batches_and_twins_give_finite_gradients(name: str, dtype: torch.dtype) -> None:
    z = loops.random_unit(3, 5, 0).to(dtype)
    views = [torch.cat([z, z[:2]]).requires_grad_(), loops.random_unit(5, 5, 1).to(dtype).requires_grad_()]
    loss(TWO_VIEWS[name](0.1), *views).backward()
    assert all(view.grad is not None and bool(view.grad.isfinite().all()) for view in views)


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
        MultiView(0, MVDHEL())
    with pytest.raises(ValueError, match=r"objective\.loss\.mean is harmonic: choose geometric or arithmetic"):
        PVC("harmonic")
