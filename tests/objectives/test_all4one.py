import math

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.memory import Queue
from ssl_framework.objectives.all4one import All4One, Transformer, positions, redundancy
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops


class First(nn.Module):
    """In the place of a transformer: a known function of the whole sequence."""

    def forward(self, sequence: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]"""
        return sequence + 0.5 * sequence.roll(-1, dims=1)


def objective(transformer: nn.Module | None = None) -> All4One:
    torch.manual_seed(0)
    return All4One(0.2, 0.1, 3, transformer or First(), Queue(9, 6), (0.5, 0.4, 0.3), 10.0).double()


def views(seed: int) -> list[dict[str, Tensor]]:
    heads = ("projector", "predictor", "second_predictor")
    return [{head: 2 * loops.random_unit(5, 6, seed + 3 * v + h) for h, head in enumerate(heads)} for v in range(2)]


def found(anchors: list[Tensor], keys: list[Tensor], tau: float) -> float:
    """Mean cross-entropy of finding the own key, by cosines."""
    total = 0.0
    for i, a in enumerate(anchors):
        s = [loops.dot(a, k) / float(a.norm() * k.norm()) / tau for k in keys]
        total += (loops.log_sum_exp(s) - s[i]) / len(anchors)
    return total


def redundancy_by_loop(keys: list[Tensor], z: list[Tensor]) -> float:
    on, off, dim = [], [], keys[0].shape[1]
    for k, x in ((keys[0], z[1]), (keys[1], z[0])):
        for i in range(dim):
            for j in range(dim):
                c = loops.dot(k[:, i], x[:, j]) / float(k[:, i].norm() * x[:, j].norm())
                (on if i == j else off).append((1 - c) ** 2 if i == j else c**2)
    return (math.sqrt(sum(on) / len(on)) + math.sqrt(sum(off) / len(off))) / 2


def test_golden_feature_term() -> None:
    value = 10 * redundancy([mix_rows(0), mix_rows(1)], [mix_raw(2), mix_raw(3)]).item()
    assert value == pytest.approx(golden("all4one: feature term (before the weight .5)"), abs=1e-7)


def test_equals_the_loop() -> None:
    all4one, student = objective(), views(0)
    teacher = [{"projector": 3 * loops.random_unit(5, 6, 20 + v)} for v in range(2)]
    support = all4one.queue.read()
    out = all4one(student, teacher, loops.batch(5), loops.CLOCK)
    places = [[math.sin(p * 10000 ** (-2 * (d // 2) / 6) + (d % 2) * math.pi / 2) for d in range(6)] for p in range(3)]
    torch.testing.assert_close(positions(3, 6).double(), torch.tensor(places).double(), rtol=1e-5, atol=1e-6)
    at = positions(3, 6).double()
    near, centres, shifted = [], [], []
    for v in range(2):
        keys = [k / k.norm() for k in teacher[v]["projector"]]
        near.append([support[sorted(range(9), key=lambda r, k=k: -loops.dot(k, support[r]))[:3]] for k in keys])  # type: ignore[misc]
        rows = [n + at for n in near[v]]
        centres.append([r[0] + 0.5 * r[1] for r in rows])
        second = student[v]["second_predictor"]
        shifted.append([s + at[0] + 0.5 * (n[0] + at[1]) for s, n in zip(second, near[v], strict=True)])
    neighbour = sum(found([n[0] for n in near[a]], list(student[1 - a]["predictor"]), 0.2) for a in (0, 1)) / 2
    attention = sum(found(centres[a], shifted[1 - a], 0.1) for a in (0, 1)) / 2
    keys = [view["projector"] / view["projector"].norm(dim=1, keepdim=True) for view in teacher]
    feature = 10 * redundancy_by_loop(keys, [view["projector"] for view in student])
    assert out["neighbour_loss"].item() == pytest.approx(neighbour, abs=1e-6)  # the queue is float32
    assert out["attention_loss"].item() == pytest.approx(attention, abs=1e-6)
    assert out["feature_loss"].item() == pytest.approx(feature, abs=1e-6)
    assert out["loss"].item() == pytest.approx(0.5 * neighbour + 0.4 * attention + 0.3 * feature, abs=1e-6)
    torch.testing.assert_close(all4one.queue.read()[:5], keys[0])


def test_gradient_reaches_the_transformer_and_every_head_and_none_the_queue() -> None:
    all4one, student = objective(Transformer(6, 2, 3, 0.0)), views(0)
    for view in student:
        for x in view.values():
            x.requires_grad_()
    all4one(student, views(9), loops.batch(5), loops.CLOCK)["loss"].backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 1e-3 for view in student for x in view.values())
    trained = dict(all4one.named_parameters())
    assert all(p.grad is not None for p in trained.values()) and len(trained) == 2 * 12


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match=r"objective\.transformer\.num_heads is 4: it must divide the width 6"):
        Transformer(6, 1, 4, 0.0)
    with pytest.raises(ValueError, match=r"objective\.neighbours is 10, but objective\.queue\.size is 9"):
        All4One(0.2, 0.1, 10, First(), Queue(9, 6), (0.5, 0.5, 0.5), 10.0)
