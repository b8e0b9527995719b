"""MCLRec: golden values, loops, and who gets whose gradient."""

import pytest
import torch

from ssl_framework.objectives.mclrec import MCLRec, nce, too_alike
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops


def objective(**changed: float) -> MCLRec:
    torch.manual_seed(0)
    plain = {"num_classes": 3, "dim": 8, "hidden": [4, 2], "temperature": 1.0}
    weights = {"weight": 0.1, "learned_weight": 0.01, "regulariser": 0.1}
    return MCLRec(**{**plain, **weights, **changed}).double()  # type: ignore[arg-type]


def test_golden() -> None:
    a, b = mix_rows(0), mix_rows(1)
    assert nce(a, b, 1.0).item() == pytest.approx(golden("mclrec: NCE, dot product"), abs=1e-7)
    expected = golden("mclrec: regulariser before the factor .1")
    assert too_alike(a, b).item() == pytest.approx(expected, abs=1e-7)


def test_the_regulariser_equals_the_loop() -> None:
    a, b = mix_raw(0, 4), mix_raw(1, 4)
    rows, total, below = [*a, *b], 0.0, 0.0
    for i, row in enumerate(rows):
        p = loops.dot(row, rows[(i + 4) % 8])
        n = [loops.dot(row, other) for j, other in enumerate(rows) if j % 4 != i % 4]
        total += max(0.0, p - min(p, max(n)))
        below += sum(max(0.0, max(p, *n) - each) for each in n)
    assert too_alike(a, b).item() == pytest.approx(total / 8 + below / (8 * 6), abs=1e-12)


def outputs(seed: int = 0) -> list:
    generator = torch.Generator().manual_seed(seed)
    views = [torch.randn(5, 8, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    return [{"pooled": z, "classifier": z[:, :3]} for z in views]


def test_the_loss_is_the_sum_of_its_terms() -> None:
    made, student, label = objective(), outputs(), torch.tensor([0, 1, 2, 0, 1])
    found = made(student, None, loops.batch(5, label), loops.CLOCK)
    z1, z2 = student[1]["pooled"], student[2]["pooled"]
    w1, w2 = made.first(z1), made.second(z2)
    pairs = ((z1, w2), (z2, w1), (w1, w2))
    learned = sum(nce(a, b, 1.0) + 0.1 * too_alike(a, b) for a, b in pairs)
    item = torch.nn.functional.cross_entropy(student[0]["classifier"], label)
    expected = item + 0.1 * nce(z1, z2, 1.0) + 0.01 * learned
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-12)
    assert found["learned_loss"].item() == pytest.approx(learned.item(), abs=1e-12)  # type: ignore[union-attr]
    ours = torch.autograd.grad(found["loss"], [z1, z2, made.first[0].weight])
    theirs = torch.autograd.grad(expected, [z1, z2], retain_graph=True)
    torch.testing.assert_close(ours[:2], theirs)  # the encoder's: augmenters are constants
    (alone,) = torch.autograd.grad(learned, [made.first[0].weight])  # type: ignore[arg-type]
    torch.testing.assert_close(ours[2], alone)  # the augmenters': weight 1 instead of beta
