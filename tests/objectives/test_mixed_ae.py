import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.mae import normalised, patches_of
from ssl_framework.objectives.mixed_ae import MixedAE, homologous
from ssl_framework.types import Batch, Mix
from tests.golden import cos_map, golden, mix_raw, mix_rows, sin_map
from tests.objectives import loops


def test_golden() -> None:
    owner = torch.tensor([[0, 1, 0, 1, 1, 0]])
    value = homologous(mix_rows(0)[None], owner, 0.25).item()
    assert value == pytest.approx(golden("mixed_ae: homologous contrast of 6 tokens of a mixture"), abs=1e-7)


def contrast(tokens: Tensor, owner: list[int], tau: float) -> float:
    z, parts = tokens / tokens.norm(dim=1, keepdim=True), []
    for i in range(len(z)):
        total = loops.log_sum_exp([loops.dot(z[i], z[j]) / tau for j in range(len(z)) if j != i])
        same = [j for j in range(len(z)) if j != i and owner[j] == owner[i]]
        parts.append(sum(total - loops.dot(z[i], z[j]) / tau for j in same) / max(len(same), 1))
    return sum(parts) / len(parts)


def test_equals_the_loop() -> None:
    images, decoded = sin_map(3, 2, 4, 4), cos_map(3, 2, 4, 8)
    tokens = mix_raw(1, 12, 5).view(3, 4, 5)
    mask = torch.tensor([[1, 0, 0, 1]] * 2 + [[1, 0, 0, 0]]).bool()  # the last: a token alone of its image
    source = torch.tensor([[0, 1], [1, 2], [2, 0]])
    mix = Mix(images, source, torch.empty(0), None, 0)
    student = [{"mixture_decoder": decoded, "patches": tokens, "mask": mask}]
    out = MixedAE(True, 0.3, 0.2)(student, None, Batch([], torch.arange(3), mix=[mix]), loops.CLOCK)
    whole, means = normalised(patches_of(images, 4)), []
    for image in range(2):
        errors = [
            sum(float(d - t) ** 2 for d, t in zip(decoded[b, image, n], whole[source[b, image], n], strict=True)) / 8
            for b in range(3)
            for n in range(4)
            if bool(mask[b, n]) == (image == 0)
        ]
        means.append(sum(errors) / len(errors))
    expected = sum(contrast(tokens[b], mask[b].tolist(), 0.3) for b in range(3)) / 3
    assert out["pixel_loss"].item() == pytest.approx(sum(means) / 2, abs=1e-10)
    assert out["homologous_loss"].item() == pytest.approx(expected, abs=1e-10)
    assert out["loss"].item() == pytest.approx(sum(means) / 2 + 0.2 * expected, abs=1e-10)


def test_tokens_that_are_all_alike_cannot_be_told_apart() -> None:
    same = torch.ones(2, 6, 4, dtype=torch.float64)
    owner = torch.tensor([[0, 1, 0, 1, 1, 0]] * 2)
    assert homologous(same, owner, 0.25).item() == pytest.approx(math.log(5), abs=1e-12)
