import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.data2vec import Data2Vec, target_of
from ssl_framework.types import Batch
from tests.golden import golden, mix_raw
from tests.objectives import loops


def loss(beta: float, prediction: Tensor, layers: Tensor, mask: Tensor) -> dict[str, Tensor]:
    outputs = [{"predictor": prediction, "mask": mask}]
    batch = Batch([], torch.arange(len(mask)))
    return Data2Vec(beta)(outputs, [{"layers": layers}], batch, loops.CLOCK)


def normal(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + 1e-5)
    return [(x - mean) / deviation for x in row]


def test_golden() -> None:
    layers = torch.stack([mix_raw(s, 12, 8) for s in (1, 2, 3)])[None]  # [1, 3, 12, 8]
    value = loss(2.0, mix_raw(0, 12, 8)[None], layers, torch.ones(1, 12).bool())["loss"].item()
    name = "data2vec: smooth L1 (beta 2) to the mean of three layer-normalised layers, normalised again"
    assert value == pytest.approx(golden(name), abs=1e-7)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_equals_the_loop_on_hidden_places_alone(beta: float) -> None:
    prediction, layers = mix_raw(0, 20, 6).view(4, 5, 6), mix_raw(1, 40, 6).view(4, 2, 5, 6)
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    parts = []
    for b, n in mask.nonzero().tolist():
        rows = [normal(layers[b, layer, n].tolist()) for layer in range(2)]
        target = normal([sum(pair) / 2 for pair in zip(*rows, strict=True)])
        errors = [abs(float(p) - t) for p, t in zip(prediction[b, n], target, strict=True)]
        parts += [e**2 / (2 * beta) if e < beta else e - beta / 2 for e in errors]
    assert loss(beta, prediction, layers, mask)["loss"].item() == pytest.approx(sum(parts) / len(parts), abs=1e-12)


def test_the_logged_deviation_tells_a_collapse() -> None:
    one = mix_raw(1, 10, 6).view(1, 2, 5, 6).expand(4, -1, -1, -1)  # every image alike
    mask = torch.ones(4, 5).bool()
    assert loss(2.0, torch.zeros(4, 5, 6), one, mask)["target_std"] < 1e-6
    apart = mix_raw(1, 40, 6).view(4, 2, 5, 6)
    assert (
        loss(2.0, torch.zeros(4, 5, 6), apart, mask)["target_std"]
        == target_of(apart).std(dim=0, correction=0).mean()
        > 0.1
    )
