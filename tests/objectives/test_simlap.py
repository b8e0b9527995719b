import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_framework.build import check_labels
from ssl_framework.objectives.simlap import LabelGate, SimLAP, gated_similarity, pair_loss
from ssl_framework.types import Clock
from tests.golden import core_view, golden
from tests.objectives import loops
from tests.small_runs import run_in, small

LABEL, TARGET = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 0, 2, 1, 0, 2])


def objective(pairing: str = "permuted", gated: bool = True, fused: bool = True, renormalise: bool = False) -> SimLAP:
    torch.manual_seed(0)
    gate = LabelGate(4, 5, 6, 4, fused) if gated else None
    return SimLAP(0.1, 4, pairing, gate, renormalise).double()  # a fourth class that LABEL lacks


def outputs_of(simlap: SimLAP, *views: Tensor, label: Tensor = LABEL, clock: Clock = loops.CLOCK) -> dict[str, Tensor]:
    return simlap(loops.outputs(*views), None, loops.batch(len(label), label), clock)


def by_loop(z: Tensor, gate: Tensor, label: list[int], target: list[int], tau: float, renormalise: bool) -> float:
    """Every positive pair against the negatives of its row, divided by the number of pairs."""
    total, pairs, n = 0.0, 0, len(z)
    for i in range(n):
        logits = []
        for j in range(n):
            a, b = z[i] * gate[i], z[j] * gate[i]
            scale = float(a.norm() * b.norm()) if renormalise else 1.0
            logits.append(loops.dot(a, b) / scale / tau)
        negatives = [logits[j] for j in range(n) if label[j] not in (label[i], target[i])]
        for j in range(n):
            if label[j] == target[i]:
                total += loops.log_sum_exp([logits[j], *negatives]) - logits[j]
                pairs += 1
    return total / max(pairs, 1)


def test_golden() -> None:
    z = core_view(0)
    logits = gated_similarity(z, z, (1 + core_view(2)) / 2, renormalise=False) / 0.1
    value = pair_loss(logits, LABEL, LABEL, TARGET).item() / 12  # two positives for each of the six rows
    name = "simlap: loss, z=Z0, gate (1+Z2)/2, labels [0,0,1,1,2,2], target labels [1,0,2,1,0,2]"
    assert value == pytest.approx(golden(name), abs=1e-7)


@pytest.mark.parametrize(
    ("num_views", "pairing", "renormalise"),
    [(1, "permuted", False), (2, "permuted", True), (2, "same", False), (1, "distinct", True), (2, "distinct", False)],
)
def test_equals_the_loop(num_views: int, pairing: str, renormalise: bool) -> None:
    views = [3 * core_view(v) for v in range(num_views)]
    simlap = objective(pairing, renormalise=renormalise)
    z = torch.stack([core_view(v) for v in range(num_views)], dim=1).flatten(0, 1)
    label = LABEL.repeat_interleave(num_views)
    target = simlap.targets(label, loops.CLOCK)
    assert simlap.gate is not None
    gate = simlap.gate(label, target).detach()
    expected = by_loop(z, gate, label.tolist(), target.tolist(), 0.1, renormalise)
    assert outputs_of(simlap, *views)["loss"].item() == pytest.approx(expected, abs=1e-7)


def test_pairings() -> None:
    label = torch.arange(1000) % 3
    drawn = {pairing: objective(pairing).targets(label, loops.CLOCK) for pairing in ("permuted", "same", "distinct")}
    assert torch.equal(drawn["same"], label)
    assert torch.equal(drawn["permuted"].sort().values, label.sort().values)
    assert 600 < (drawn["permuted"] != label).sum() < 730
    assert (drawn["distinct"] != label).all() and drawn["distinct"].bincount().min() > 170
    assert torch.equal(drawn["permuted"], objective("permuted").targets(label, loops.CLOCK))
    later = objective("permuted").targets(label, loops.CLOCK._replace(step=8))
    assert not torch.equal(drawn["permuted"], later)


def test_the_open_gate_with_the_own_class_is_the_cosine_in_the_whole_embedding() -> None:
    simlap = objective("same", gated=False)
    out = outputs_of(simlap, core_view(0))
    ones = torch.ones(6, 4, dtype=torch.float64)
    expected = by_loop(core_view(0), ones, LABEL.tolist(), LABEL.tolist(), 0.1, False)
    assert out["loss"].item() == pytest.approx(expected, abs=1e-7)
    assert out["gate_activation"] == 1 and out["gate_entropy"] == 0


def test_the_gate_is_symmetric_in_the_labels_and_its_statistics_are_logged() -> None:
    for fused in (True, False):
        simlap = objective(fused=fused).eval()
        assert simlap.gate is not None
        gate = simlap.gate(LABEL, TARGET)
        torch.testing.assert_close(gate, simlap.gate(TARGET, LABEL))
        out = outputs_of(simlap, core_view(0))
        gate = simlap.gate(LABEL, simlap.targets(LABEL, loops.CLOCK)).flatten().tolist()
        entropy = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in gate]
        assert out["gate_activation"].item() == pytest.approx(sum(gate) / len(gate))
        assert out["gate_entropy"].item() == pytest.approx(sum(entropy) / len(entropy))


def test_the_unfused_gate_is_the_product_of_the_labels_own_gates() -> None:
    gate = LabelGate(3, 5, 6, 4, fused=False).eval()
    fused = LabelGate(3, 5, 6, 4, fused=True).eval()
    fused.load_state_dict(gate.state_dict())
    torch.testing.assert_close(gate(LABEL, TARGET), fused(LABEL, LABEL) * fused(TARGET, TARGET))


def test_rows_without_negatives_or_without_positives_cost_nothing() -> None:
    """Two classes in the batch: a row whose positives exist has no negatives, the others have no positives."""
    label = torch.tensor([0, 0, 0, 1, 1, 1])
    simlap = objective("distinct", gated=False)
    target = simlap.targets(label, loops.CLOCK)
    assert 0 < (target < 2).sum() < 6
    z = core_view(0).requires_grad_()
    one_class = torch.zeros(6, dtype=torch.long)
    losses = [outputs_of(simlap, z, label=y)["loss"] for y in (label, one_class)]
    assert losses == [0, 0]
    sum(losses).backward()  # type: ignore[union-attr]
    assert z.grad is not None and (z.grad == 0).all()


def test_invariances() -> None:
    """Of the open gate; a gate is tied to the axes."""
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    simlap = objective("same", gated=False)
    rotation = torch.linalg.qr(loops.random_unit(4, 4, 4)).Q
    expected = outputs_of(simlap, core_view(0))["loss"]
    torch.testing.assert_close(outputs_of(simlap, core_view(0) @ rotation)["loss"], expected)
    torch.testing.assert_close(outputs_of(simlap, core_view(0)[order], label=label[order])["loss"], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": None}, "num_classes is null: it must be a whole number, at least 2"),
        ({"num_classes": 1}, "num_classes is 1: it must be at least 2"),
        ({"pairing": "random"}, r"objective\.pairing is random: choose one of permuted, same, distinct"),
        ({"temperature": 0}, "temperature is 0: it must be above 0"),
    ],
)
def test_refused_settings(change: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"temperature": 0.1, "num_classes": 3, "pairing": "same", "gate": None}
    with pytest.raises(ValueError, match=message):
        SimLAP(**(settings | change), renormalise=False)


def test_labels_beyond_the_gate_are_refused_before_the_run(tmp_path: Path) -> None:
    simlap = objective()
    check_labels(simlap, LABEL)
    check_labels(simlap, None)
    with pytest.raises(ValueError, match=r"num_classes is 4, but the training set has a label 4: .* at least 5"):
        check_labels(simlap, LABEL + 2)
    with pytest.raises(ValueError, match=r"has a label 9: set data\.num_classes to at least 10"):
        run_in(tmp_path, small("simlap", "data.num_classes=5"))
