import pytest
import torch

from ssl_framework.objectives.hicmae import HiCMAE, LayerContrast
from ssl_framework.types import Batch
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.test_wiring import refused


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


def test_the_whole_is_both_reconstructions_and_a_tenth_of_the_contrast() -> None:
    torch.manual_seed(0)
    film, sound = torch.randn(3, 3, 4, 4).double(), torch.randn(3, 1, 4, 4).double()  # four patches of 2 x 2 pixels
    mask = torch.tensor([[True, False, True, True], [False, True, True, True], [True, True, True, False]])
    layers = [torch.randn(3, 2, 1, 5).double() for _ in range(2)]
    says = [torch.randn(3, 4, 4 * c).double() for c in (3, 1)]
    student = [{"decoder": d, "mask": mask, "layers": x} for d, x in zip(says, layers, strict=True)]
    found = HiCMAE(True, 0.1, 0.07)(student, None, Batch([film, sound], torch.arange(3)), loops.CLOCK)
    errors = []
    for view, said in ((film, says[0]), (sound, says[1])):
        each = []
        for b in range(3):
            for p in range(4):
                if mask[b, p]:
                    square = view[b, :, p // 2 * 2 : p // 2 * 2 + 2, p % 2 * 2 : p % 2 * 2 + 2]
                    pixels = square.permute(1, 2, 0).flatten()  # rows, columns, channels
                    pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                    each.append(float((said[b, p] - pixels).square().mean()))
        errors.append(sum(each) / len(each))
    contrast = LayerContrast(0.07)([{"layers": x} for x in layers], None, loops.batch(3), loops.CLOCK)["loss"].item()
    assert found["reconstruction_loss"].item() == pytest.approx(sum(errors), abs=1e-6)
    assert found["loss"].item() == pytest.approx(sum(errors) + 0.1 * contrast, abs=1e-6)


def test_it_wants_masks_and_sounds() -> None:
    assert refused("method=hicmae", "masker=none", "backbone.masked_tokens=null").startswith("HiCMAE needs masks")
    assert refused("method=hicmae", "data=captioned_shapes").startswith("captioned_shapes has no sound: choose")
