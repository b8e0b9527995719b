import math

import pytest
import torch
from torch import Tensor

from ssl_framework import functional
from ssl_framework.functional import uniformity
from ssl_framework.objectives.instance_discrimination import (
    BankLoss,
    Contrastive,
    HardContrastive,
    HardSimpleContrastive,
    InstanceDiscrimination,
    SimpleContrastive,
    nearest,
)
from ssl_framework.types import Batch
from tests.golden import core_view, golden
from tests.objectives import loops


def objective(loss: BankLoss, rows: Tensor, momentum: float = 0.5) -> InstanceDiscrimination:
    """With a memory that holds these rows."""
    built = InstanceDiscrimination(rows.shape[1], momentum, loss)
    built.allocate(len(rows))
    built.double()
    built.bank.get_buffer("row").copy_(rows)
    return built


def step(built: InstanceDiscrimination, q: Tensor, index: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
    return built([{"projector": q}, None], None, Batch(views=[], index=index, label=label), loops.CLOCK)


def value(loss: BankLoss, q: Tensor, rows: Tensor) -> float:
    """Sample i's row is row i."""
    return step(objective(loss, rows), q, torch.arange(len(q)))["loss"].item()


# lambda is 1 in the golden values, and the weight is lambda times the number of negatives.
GOLDEN: list[tuple[BankLoss, str]] = [
    (Contrastive(0.3), "infonce: one-way loss, anchors Z0, candidates Z1"),
    (HardContrastive(0.3, 0.4), "hard_contrastive: loss, 2 nearest negatives, anchors Z0, candidates Z1"),
    (HardContrastive(0.3, 0.6), "hard_contrastive: loss, 3 nearest negatives, anchors Z0, candidates Z1"),
    (SimpleContrastive(5.0), "simple_contrastive: loss, all 5 negatives"),
    (HardSimpleContrastive(2.0, 0.4), "hard_simple_contrastive: loss, 2 nearest negatives"),
    (HardSimpleContrastive(3.0, 0.6), "hard_simple_contrastive: loss, 3 nearest negatives"),
]


@pytest.mark.parametrize(("loss", "name"), GOLDEN)
def test_golden(loss: BankLoss, name: str) -> None:
    assert value(loss, core_view(0), core_view(1)) == pytest.approx(golden(name), abs=1e-7)


LOSSES: dict[str, BankLoss] = {
    "contrastive": Contrastive(0.3),
    "hard": HardContrastive(0.3, 0.4),
    "simple": SimpleContrastive(0.7),
    "hard_simple": HardSimpleContrastive(0.7, 0.4),
}


def reference(name: str, q: Tensor, rows: Tensor, index: list[int]) -> float:
    """The formulas by loops over samples and rows."""
    total = 0.0
    for i, own in enumerate(index):
        positive = loops.dot(q[i], rows[own])
        others = sorted((loops.dot(q[i], rows[j]) for j in range(len(rows)) if j != own), reverse=True)
        others = others[: round(0.4 * len(others))] if name.startswith("hard") else others
        if name.endswith("simple"):
            total += 0.7 * sum(others) / len(others) - positive
        else:
            total += loops.log_sum_exp([s / 0.3 for s in (positive, *others)]) - positive / 0.3
    return total / len(index)


@pytest.mark.parametrize("tile", [2**24, 22])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_loop_in_value_and_gradient(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two anchors at a time as well. The gradient by differences, which rows are nearest being fixed near by."""
    monkeypatch.setattr(functional, "TILE", tile)
    q, rows, index = loops.random_unit(5, 3, 0), loops.random_unit(11, 3, 1), [7, 0, 3, 10, 2]
    given = q.clone().requires_grad_()
    loss = LOSSES[name](given, rows, torch.tensor(index)).mean()
    assert loss.item() == pytest.approx(reference(name, q, rows, index), abs=1e-10)
    (gradient,) = torch.autograd.grad(loss, given)
    for i in range(5):
        for d in range(3):
            ends = []
            for sign in (1, -1):
                moved = q.clone()
                moved[i, d] += sign * 1e-6
                ends.append(reference(name, moved, rows, index))
            assert gradient[i, d].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_all_negatives_make_the_hard_losses_the_others() -> None:
    q, rows = loops.random_unit(5, 4, 0), loops.random_unit(5, 4, 1)
    assert value(HardContrastive(0.3, 1.0), q, rows) == pytest.approx(value(Contrastive(0.3), q, rows), abs=1e-12)
    simple = value(SimpleContrastive(0.7), q, rows)
    assert value(HardSimpleContrastive(0.7, 1.0), q, rows) == pytest.approx(simple, abs=1e-12)


def test_the_simple_loss_is_the_limit_of_large_temperatures() -> None:
    q, rows, index = loops.random_unit(5, 4, 0), loops.random_unit(9, 4, 1), torch.arange(5)
    gradients = []
    for loss, scale in ((Contrastive(1e5), 1e5 * 9 / 8), (SimpleContrastive(1.0), 1.0)):
        given = q.clone().requires_grad_()
        gradients.append(torch.autograd.grad(scale * loss(given, rows, index).mean(), given)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_closed_cases() -> None:
    same = torch.ones(6, 4, dtype=torch.float64) / 2
    assert value(Contrastive(0.5), same, same) == pytest.approx(math.log(6), abs=1e-12)
    assert value(HardContrastive(0.5, 0.6), same, same) == pytest.approx(math.log(4), abs=1e-12)
    assert value(SimpleContrastive(1.0), same, same) == pytest.approx(0, abs=1e-12)
    apart = torch.eye(6, dtype=torch.float64)
    assert value(HardContrastive(0.02, 0.6), apart, apart) == pytest.approx(0, abs=1e-12)
    assert value(HardSimpleContrastive(1.0, 0.6), apart, apart) == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_invariances(name: str) -> None:
    loops.assert_invariant(lambda q, rows: step(objective(LOSSES[name], rows), q, torch.arange(6))["loss"])


def test_the_memory_is_read_before_it_moves_and_keeps_unit_averages() -> None:
    rows, q, index = loops.random_unit(9, 4, 0), 3 * loops.random_unit(3, 4, 1), torch.tensor([4, 0, 8])
    built = objective(SimpleContrastive(1.0), rows, momentum=0.25)
    first = step(built, q, index)["loss"].item()
    assert first == pytest.approx(SimpleContrastive(1.0)(q / 3, rows, index).mean().item(), abs=1e-12)
    expected = rows.clone()
    for i, sample in enumerate(index.tolist()):
        mean = 0.25 * rows[sample] + 0.75 * q[i] / 3
        expected[sample] = mean / mean.norm()
    torch.testing.assert_close(built.bank.column("row"), expected)
    assert built.bank.visited.tolist() == [sample in (0, 4, 8) for sample in range(9)]


def test_the_memory_starts_with_random_unit_rows() -> None:
    built = InstanceDiscrimination(8, 0.5, Contrastive(0.1))
    built.allocate(50)
    rows = built.bank.column("row")
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(50))
    assert rows.mean(dim=0).abs().max() < 0.3


def test_logs_uniformity_and_with_labels_tolerance() -> None:
    built = objective(Contrastive(0.3), core_view(1))
    out = step(built, 2 * core_view(0), torch.arange(6), torch.tensor([0, 0, 1, 1, 2, 2]))
    name = "tolerance: all ordered pairs with self, labels [0,0,1,1,2,2], points Z0"
    assert out["tolerance"].item() == pytest.approx(golden(name), abs=1e-7)
    assert out["uniformity"].item() == pytest.approx(uniformity(core_view(0)).item(), abs=1e-12)
    assert set(step(built, core_view(0), torch.arange(6))) == {"loss", "uniformity"}


def test_bad_settings_are_refused() -> None:
    for loss in (Contrastive, lambda tau: HardContrastive(tau, 0.5)):
        with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
            loss(0)
    for share in (lambda s: HardContrastive(0.3, s), lambda s: HardSimpleContrastive(1.0, s)):
        for wrong in (0, 4095):
            with pytest.raises(ValueError, match=f"share is {wrong}: it must be above 0 and at most 1"):
                share(wrong)
    for weight in (SimpleContrastive, lambda w: HardSimpleContrastive(w, 0.5)):
        with pytest.raises(ValueError, match="weight is 0: it must be above 0"):
            weight(0)
    with pytest.raises(ValueError, match="momentum is 1: it must be at least 0 and below 1"):
        InstanceDiscrimination(4, 1, Contrastive(0.3))


def test_a_share_of_few_rows_is_at_least_one() -> None:
    q, rows = loops.random_unit(4, 3, 0), loops.random_unit(4, 3, 1)
    assert nearest(q, rows, torch.arange(4), 0.01).shape == (4, 1)
