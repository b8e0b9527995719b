"""Contrasts of two predictors: the golden values, loops, and a mistake of both that the contrast takes back."""

import math

import pytest
import torch

from ssl_framework.evaluation.contrast import adaptive_contrast, jensen_shannon, plausible_contrast
from tests.golden import golden, mix_raw


def softmax(logits: list[float]) -> list[float]:
    return [math.exp(x) / sum(math.exp(y) for y in logits) for x in logits]


def test_golden() -> None:
    name = "jsd_weight: Jensen-Shannon divergence of each row (natural logarithm)"
    assert jensen_shannon(mix_raw(0), mix_raw(1)).tolist() == pytest.approx(golden(name), abs=1e-7)
    name = "jsd_weight: contrasted logits (1 + w) with - w without, row 0"
    assert adaptive_contrast(mix_raw(0), mix_raw(1))[0].tolist() == pytest.approx(golden(name), abs=1e-7)
    name = "lol_decoding: expert minus amateur log-probability where expert >= .5 of its maximum (else -1000), row 0"
    assert plausible_contrast(mix_raw(0), mix_raw(1), 0.5)[0].tolist() == pytest.approx(golden(name), abs=1e-7)


def test_equals_the_loop() -> None:
    for a, b in zip(mix_raw(2), mix_raw(3), strict=True):
        p, q = softmax(a.tolist()), softmax(b.tolist())
        jsd = sum(x * math.log(2 * x / (x + y)) + y * math.log(2 * y / (x + y)) for x, y in zip(p, q, strict=True)) / 2
        assert jensen_shannon(a, b).item() == pytest.approx(jsd, abs=1e-10)
        expected = [(1 + jsd) * x - jsd * y for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        assert adaptive_contrast(a, b).tolist() == pytest.approx(expected, abs=1e-10)
        expected = [math.log(x / y) if x >= 0.3 * max(p) else -1000 for x, y in zip(p, q, strict=True)]
        assert plausible_contrast(a, b, 0.3).tolist() == pytest.approx(expected, abs=1e-10)


def test_who_agrees_is_left_alone_and_the_weight_is_bounded() -> None:
    a = mix_raw(0)
    torch.testing.assert_close(adaptive_contrast(a, a), a)
    apart = torch.tensor([[60.0, 0.0], [0.0, 60.0]])
    assert jensen_shannon(apart[0], apart[1]).item() == pytest.approx(math.log(2))
    assert adaptive_contrast(apart[0], apart[0], least=0.3).tolist() == pytest.approx(apart[0].tolist(), abs=1e-4)


def test_what_the_amateur_believes_as_well_is_no_answer() -> None:
    """The expert has learned of answer 1, but still favours the habit that it shares with the amateur."""
    expert, amateur = torch.tensor([0.5, 0.4, 0.1]).log(), torch.tensor([0.9, 0.05, 0.05]).log()
    assert expert.argmax() == 0
    assert plausible_contrast(expert, amateur, 0.5).argmax() == adaptive_contrast(expert, amateur).argmax() == 1
    assert plausible_contrast(expert, amateur, 0.9).argmax() == 0  # where nothing else is plausible
