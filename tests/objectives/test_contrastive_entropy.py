"""O3's contrastive entropy: the golden value, a loop over layers, its least and its largest value."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.contrastive_entropy import ContrastiveEntropy, contrastive_entropy, pooled
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops


def by_loops(masked: Tensor, clean: Tensor) -> float:
    total = 0.0
    for z in masked:
        s = [math.exp(loops.dot(z, other)) for other in clean]
        total -= sum(e / sum(s) * math.log(e / sum(s) + 1e-5) for e in s)
    return total / len(masked)


def test_golden() -> None:
    name = "contrastive_entropy_ood: mean entropy of the softmax of dot products"
    outputs = loops.outputs(mix_rows(1), mix_rows(0), head="pooled")  # clean, then masked
    found = ContrastiveEntropy(["pooled"])(outputs, None, loops.batch(6), loops.CLOCK)["loss"]
    assert found.item() == pytest.approx(golden(name), abs=1e-7)


def test_layers_are_summed_and_equal_the_loop() -> None:
    clean = {"pooled": mix_raw(0), "tokens": mix_raw(1, 12).view(6, 2, 8), "block_1": mix_raw(2, 24).view(6, 8, 2, 2)}
    masked = {"pooled": mix_raw(3), "tokens": mix_raw(2, 12).view(6, 2, 8), "block_1": mix_raw(1, 24).view(6, 8, 2, 2)}
    found = ContrastiveEntropy([*clean])([clean, masked], None, loops.batch(6), loops.CLOCK)["loss"]
    means = [
        (masked["pooled"], clean["pooled"]),
        tuple(x["tokens"].mean(dim=1) for x in (masked, clean)),
        tuple(x["block_1"].mean(dim=(2, 3)) for x in (masked, clean)),
    ]
    assert found.item() == pytest.approx(sum(by_loops(*pair) for pair in means), abs=1e-10)


def test_it_is_nothing_where_each_is_sure_and_the_logarithm_of_all_where_none_is() -> None:
    assert contrastive_entropy(torch.zeros(3, 4), torch.randn(5, 4)).item() == pytest.approx(math.log(5), abs=1e-4)
    assert contrastive_entropy(40 * torch.eye(4), torch.eye(4)).item() == pytest.approx(0, abs=2e-5)
    assert pooled(torch.tensor([[[1.0, 3.0], [3.0, 5.0], [0.0, 0.0]]])).tolist() == [[2, 4]]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="layers"):
        ContrastiveEntropy([])
