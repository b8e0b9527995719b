import math

import pytest
import torch
from torch import Tensor

from ssl_framework import functional
from ssl_framework.memory import Queue
from ssl_framework.objectives.cacr import CACR, repel
from ssl_framework.objectives.cacr_moco import CACRMoCo, CACRMoCoV3
from ssl_framework.objectives.mocov3 import MoCoV3
from tests.golden import core_queue, core_view, golden
from tests.objectives import loops


def cacr(
    alpha: float = 1.0,
    beta: float = 1.0,
    t_pos: float = 1.0,
    t_neg: float = 1.0,
    tau_plus: float = 0.0,
    rbf: float | None = None,
) -> CACR:
    return CACR(alpha, beta, t_pos, t_neg, tau_plus, rbf)


def run(objective: CACR, *views: Tensor) -> dict[str, Tensor]:
    return objective(loops.outputs(*views), None, loops.batch(len(views[0])), loops.CLOCK)


def views(count: int) -> list[Tensor]:
    return [core_view(v) for v in range(count)]


@pytest.mark.parametrize(
    ("name", "t_pos", "count"),
    [
        ("attraction, 2 views", 1.0, 2),
        ("attraction, 3 views [t_pos=1]", 1.0, 3),
        ("attraction, 3 views [t_pos=2]", 2.0, 3),
        ("attraction, 3 views [t_pos=uniform]", 0.0, 3),
    ],
)
def test_golden_attraction(name: str, t_pos: float, count: int) -> None:
    value = cacr(t_pos=t_pos).attraction(views(count))[0].item()
    assert value == pytest.approx(golden(f"cacr: {name}"), abs=1e-7)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("repulsion, {} views [t_neg=1]", {}),
        ("repulsion, {} views [t_neg=2]", {"t_neg": 2.0}),
        ("repulsion, {} views [t_neg=uniform]", {"t_neg": 0.0}),
        ("repulsion debiased, {} views", {"tau_plus": 0.1}),
        ("repulsion with RBF cost, {} views", {"rbf": 2.0}),
    ],
)
def test_golden_repulsion(name: str, options: dict, count: int) -> None:
    value = cacr(**options).repulsion(views(count))[0].item()
    assert value == pytest.approx(golden(f"cacr: {name.format(count)}"), abs=1e-7)


def test_golden_gradient() -> None:
    """Of the losses of free vectors: the objective would bring them to length one first."""
    three = [view.requires_grad_() for view in views(3)]
    (cacr().attraction(three)[0] + cacr().repulsion(three)[0]).backward()
    assert three[0].grad is not None
    expected = golden("cacr: gradient of attraction+repulsion w.r.t. Z_0[0] as free vector, 3 views")
    assert three[0].grad[0].tolist() == pytest.approx(expected, abs=1e-7)


def distance(a: Tensor, b: Tensor) -> float:
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def softmax(values: list[float]) -> list[float]:
    return [math.exp(v - loops.log_sum_exp(values)) for v in values]


def entropy(weights: list[float]) -> float:
    return -sum(w * math.log(w) for w in weights)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def reference(z: list[Tensor], o: CACR) -> dict[str, float]:
    """The formulas by loops over views, samples and pairs."""
    n, num = len(z[0]), len(z)
    near, near_entropy, far, far_entropy = [], [], [], []
    for x in range(num):
        for i in range(n):
            cost = [distance(z[x][i], z[y][i]) for y in range(num) if y != x]
            weights = softmax([o.t_pos * c for c in cost])
            near.append(o.alpha * sum(w * c for w, c in zip(weights, cost, strict=True)))
            near_entropy.append(entropy(weights))
    for x in range(num):
        for y in range(x + 1, num):
            rows = []
            for i in range(n):
                cost = [distance(z[x][i], z[y][j]) for j in range(n) if j != i]
                weights = softmax([-o.t_neg * c for c in cost])
                far_entropy.append(entropy(weights))
                if o.rbf is not None:
                    rows.append(sum(w * math.exp(-o.rbf * c) for w, c in zip(weights, cost, strict=True)))
                    continue
                repulsion = -o.beta * sum(w * c for w, c in zip(weights, cost, strict=True))
                rows.append((repulsion - o.tau_plus * distance(z[x][i], z[y][i])) / (1 - o.tau_plus))
            far.append(mean(rows) if o.rbf is None else o.beta * math.log(mean(rows)))
    return {
        "loss": mean(near) + mean(far),
        "attraction_entropy": mean(near_entropy),
        "repulsion_entropy": mean(far_entropy),
    }


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.7, "beta": 2.0, "t_pos": 3.0, "t_neg": 0.5},
        {"t_pos": 0.0, "t_neg": 0.0},
        {"beta": 2.0, "tau_plus": 0.3},
        {"beta": 2.0, "t_neg": 2.0, "rbf": 1.5},
    ],
)
def test_equals_the_loop(options: dict) -> None:
    z = [loops.random_unit(5, 6, v) for v in range(4)]
    objective = cacr(**options)
    out = run(objective, *(2 * view for view in z))
    for name, value in reference(z, objective).items():
        assert out[name].item() == pytest.approx(value, abs=1e-10), name


@pytest.mark.parametrize("options", [{"t_neg": 2.0}, {"tau_plus": 0.1}, {"rbf": 2.0}])
def test_invariances(options: dict) -> None:
    loops.assert_invariant(lambda a, b: run(cacr(**options), a, b)["loss"])


def test_closed_cases() -> None:
    same = [torch.ones(5, 3, dtype=torch.float64)] * 3
    out = run(cacr(), *same)
    assert out["loss"].item() == pytest.approx(0, abs=1e-12)
    assert out["attraction_entropy"].item() == pytest.approx(math.log(2), abs=1e-12)
    assert out["repulsion_entropy"].item() == pytest.approx(math.log(4), abs=1e-12)
    apart = torch.eye(4, dtype=torch.float64)  # orthogonal: squared distance two
    assert run(cacr(), apart, apart)["loss"].item() == pytest.approx(-2, abs=1e-12)
    assert run(cacr(rbf=3.0), apart, apart)["loss"].item() == pytest.approx(-6, abs=1e-12)


@pytest.mark.parametrize("rbf", [None, 2.0])
def test_tiles_change_neither_value_nor_gradient(rbf: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for tile in (functional.TILE, 2 * 9):  # all rows at once, two rows at a time
        monkeypatch.setattr(functional, "TILE", tile)
        a, b = loops.random_unit(7, 4, 0).requires_grad_(), loops.random_unit(9, 4, 1).requires_grad_()
        rows = repel(a, b, 2.0, torch.arange(7), rbf)
        rows[:, 0].square().sum().backward()
        found.append((rows, a.grad, b.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def moco(rows: Tensor, **options: float) -> CACRMoCo:
    queue = Queue(*rows.shape).to(rows.dtype)
    queue.rows.copy_(rows)
    return CACRMoCo(**{"alpha": 1.0, "beta": 1.0, "t_pos": 1.0, "t_neg": 1.0, **options}, queue=queue)  # type: ignore[arg-type]


def run_moco(objective: CACRMoCo, q: list[Tensor], k: list[Tensor]) -> dict[str, Tensor]:
    return objective(loops.outputs(*q), loops.outputs(*k), loops.batch(len(q[0])), loops.CLOCK)


def test_the_queue_form_equals_the_loop() -> None:
    q, k = ([loops.random_unit(5, 6, 10 * kind + v) for v in range(3)] for kind in range(2))
    rows = loops.random_unit(11, 6, 30)
    objective = moco(rows, alpha=0.7, beta=2.0, t_pos=3.0, t_neg=0.5)
    near, far, near_entropy, far_entropy = [], [], [], []
    for v in range(3):
        for i in range(5):
            cost = [distance(q[v][i], k[w][i]) for w in range(3) if w != v]
            weights = softmax([3.0 * c for c in cost])
            near.append(sum(w * c for w, c in zip(weights, cost, strict=True)))
            near_entropy.append(entropy(weights))
            cost = [distance(q[v][i], row) for row in rows]
            weights = softmax([-0.5 * c for c in cost])
            far.append(sum(w * c for w, c in zip(weights, cost, strict=True)))
            far_entropy.append(entropy(weights))
    out = run_moco(objective, q, k)
    assert out["loss"].item() == pytest.approx(0.7 * mean(near) - 2.0 * mean(far), abs=1e-10)
    assert out["attraction_entropy"].item() == pytest.approx(mean(near_entropy), abs=1e-10)
    assert out["repulsion_entropy"].item() == pytest.approx(mean(far_entropy), abs=1e-10)


def test_the_queue_form_reads_before_it_pushes_the_last_views_keys() -> None:
    objective = moco(core_queue())
    run_moco(objective, views(2), [core_view(0), 2 * core_view(1)])
    torch.testing.assert_close(objective.queue.read(), torch.cat([core_view(1), core_queue()[6:]]))
    far = torch.full((6, 4), 0.5, dtype=torch.float64)
    alone = run_moco(moco(-far, alpha=0.0), [far, far], [far, far])["loss"].item()
    assert alone == pytest.approx(-4, abs=1e-12)  # every negative is opposite; keys pushed first would be at distance 0


def test_the_queue_form_learns_not_through_the_weights() -> None:
    q, k = core_view(0).requires_grad_(), core_view(1)
    run_moco(moco(core_queue(), t_neg=2.0), [q, k], [q.detach(), k])["loss"].backward()
    weight = (-2.0 * torch.cdist(q.detach(), core_queue()).square()).softmax(dim=1)  # [6, 12]
    target = weight @ core_queue() - k  # away from the weighted negatives, towards the positive; q has length one
    expected = (target - (target * q.detach()).sum(dim=1, keepdim=True) * q.detach()) / 6  # halved: two queries
    torch.testing.assert_close(q.grad, expected)


def mocov3(q: list[Tensor], k: list[Tensor], tau: float) -> dict[str, Tensor]:
    student = [{"predictor": x} for x in q]
    teacher = [{"projector": x} for x in k] + [None] * (len(q) - len(k))
    return CACRMoCoV3(tau)(student, teacher, loops.batch(len(q[0])), loops.CLOCK)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_keys", [2, 3])
def test_the_mocov3_form_equals_the_loop(num_keys: int) -> None:
    q = [loops.random_unit(5, 6, v) for v in range(3)]
    k, tau = [loops.random_unit(5, 6, 10 + v) for v in range(num_keys)], 0.3
    losses, entropies = [], []
    for w in range(num_keys):
        for i in range(5):
            queries = [q[v] for v in range(3) if v != w]
            weights = softmax([distance(x[i], k[w][i]) / tau for x in queries])
            logits = [[loops.dot(x[i], key) / tau for key in k[w]] for x in queries]
            cost = [loops.log_sum_exp(row) - row[i] for row in logits]
            losses.append(2 * tau * sum(a * b for a, b in zip(weights, cost, strict=True)))
            entropies.append(entropy(weights))
    out = mocov3(q, k, tau)
    assert out["loss"].item() == pytest.approx(mean(losses), abs=1e-10)
    assert out["attraction_entropy"].item() == pytest.approx(mean(entropies), abs=1e-10)


def test_the_mocov3_form_of_two_views_is_half_of_mocov3() -> None:
    q, k = views(2), [core_view(2), core_view(3)]
    student, teacher = [{"predictor": x} for x in q], [{"projector": x} for x in k]
    whole = MoCoV3(0.2)(student, teacher, loops.batch(6), loops.CLOCK)["loss"]  # type: ignore[arg-type]
    torch.testing.assert_close(mocov3(q, k, 0.2)["loss"], whole / 2)


def test_refused_settings() -> None:
    for name in ("alpha", "beta", "t_pos", "t_neg"):
        with pytest.raises(ValueError, match=rf"{name} is -1\.0: it must be at least 0"):
            cacr(**{name: -1.0})
    with pytest.raises(ValueError, match="t_neg is -2: it must be at least 0"):
        moco(core_queue(), t_neg=-2)
    with pytest.raises(ValueError, match="tau_plus is 1: it must be at least 0 and below 1"):
        cacr(tau_plus=1)
    with pytest.raises(ValueError, match="rbf is 0: it must be above 0, or null"):
        cacr(rbf=0)
    with pytest.raises(ValueError, match=r"objective\.tau_plus is 0\.1, but the RBF cost has no debiased form"):
        cacr(rbf=2.0, tau_plus=0.1)
    with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
        CACRMoCoV3(0)
