import math

import pytest
import torch

from ssl_framework.functional import nce
from ssl_framework.objectives.dialog2flow import Dialog2Flow, kernel_of, soft
from tests.golden import golden, mix_rows
from tests.objectives import loops

LABELS = ["top left", "top right", "bottom"]


def test_golden() -> None:
    a, b, c = map(mix_rows, range(3))
    target = (c @ c.T / 0.35).softmax(dim=1)
    assert nce(a, b, target, 0.05).mean().item() == pytest.approx(
        golden("dialog2flow: one side, logits A B^T/tau, label kernel C C^T"), rel=1e-7
    )
    assert soft(a, b, target, 0.05).mean().item() == pytest.approx(
        golden("dialog2flow: soft contrast, both directions"), rel=1e-7
    )


def test_labels_are_as_alike_as_their_words() -> None:
    expected = [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(kernel_of(LABELS), torch.tensor(expected))


def test_equals_the_loop() -> None:
    z0, z1, label = loops.random_unit(4, 5, 0), loops.random_unit(4, 5, 1), torch.tensor([0, 2, 1, 0])
    alike, total = kernel_of(LABELS), 0.0
    for a, b in ((z0, z1), (z1, z0)):
        for i in range(4):
            weights = [math.exp(float(alike[label[i], label[j]]) / 0.35) for j in range(4)]
            logits = [float(a[i] @ b[j]) / 0.2 for j in range(4)]
            norm = math.log(sum(map(math.exp, logits)))
            total += sum(w * (norm - x) for w, x in zip(weights, logits, strict=True)) / sum(weights) / 8
    batch = loops.batch(4)._replace(label=label)
    found = Dialog2Flow(0.2, 0.35, LABELS)(loops.outputs(z0, z1), None, batch, loops.CLOCK)["loss"]
    assert found.item() == pytest.approx(total, abs=1e-6)  # the kernel is kept in float32


def test_a_class_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.labels has no words for class 1: say what it is called"):
        Dialog2Flow(0.2, 0.35, ["a", " "])
