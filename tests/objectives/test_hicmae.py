import pytest
import torch

from ssl_framework.objectives.hicmae import LayerContrast
from tests.golden import golden, mix_rows
from tests.objectives import loops


def test_golden() -> None:
    """Two layers of one patch each."""
    film, sound = (torch.stack([mix_rows(v), mix_rows(v + 2)], dim=1)[:, :, None] for v in range(2))
    out = LayerContrast(0.07)([{"layers": film}, {"layers": sound}], None, loops.batch(6), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(
        golden("hicmae: layer-wise contrast summed over two layers, before the weight 0.1")
    )


def test_equals_the_loop_over_mean_patches() -> None:
    layers = [torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(v)).double() for v in range(2)]
    total = 0.0
    for number in range(3):
        z = [[row / row.norm() for row in x[:, number].mean(dim=1)] for x in layers]
        for a, b in (z, z[::-1]):
            for i in range(4):
                scores = [loops.dot(a[i], row) / 0.2 for row in b]
                total += (loops.log_sum_exp(scores) - scores[i]) / 8
    out = LayerContrast(0.2)([{"layers": x} for x in layers], None, loops.batch(4), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(total)
