import pytest
import torch
from torch import Tensor

from ssl_framework.distributed import mean_of
from ssl_framework.objectives.mae import MAE, SimMIM, normalised, patches_of
from ssl_framework.types import Batch
from tests.golden import cos_map, golden, sin_map
from tests.objectives import loops

HIDDEN = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]]).bool()  # of the golden values


def loss(objective: MAE | SimMIM, images: Tensor, prediction: Tensor, mask: Tensor = HIDDEN) -> Tensor:
    outputs = [{objective.head: prediction, "mask": mask}]
    return objective(outputs, None, Batch([images], torch.arange(len(images))), loops.CLOCK)["loss"]


def looped(images: Tensor, prediction: Tensor, mask: Tensor, norm_pix: bool, squared: bool) -> float:
    """The mean over hidden patches of the mean over their pixels, pixel by pixel."""
    side = int((images.shape[2] * images.shape[3] / mask.shape[1]) ** 0.5)
    columns = images.shape[3] // side
    parts = []
    for b, n in mask.nonzero().tolist():
        top, left = n // columns * side, n % columns * side
        places = [(y, x, c) for y in range(side) for x in range(side) for c in range(images.shape[1])]
        pixels = [float(images[b, c, top + y, left + x]) for y, x, c in places]
        if norm_pix:
            mean = sum(pixels) / len(pixels)
            variance = sum((p - mean) ** 2 for p in pixels) / (len(pixels) - 1)
            pixels = [(p - mean) / (variance + 1e-6) ** 0.5 for p in pixels]
        errors = [abs(p - float(q)) for p, q in zip(pixels, prediction[b, n], strict=True)]
        parts.append(sum(e**2 if squared else e for e in errors) / len(errors))
    return sum(parts) / len(parts)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_golden_mae(norm_pix: bool) -> None:
    value = loss(MAE(norm_pix), sin_map(2, 3, 4, 4), cos_map(2, 4, 12)).item()
    assert value == pytest.approx(golden(f"mae: loss [norm_pix={norm_pix}]"), abs=1e-7)


def test_golden_simmim() -> None:
    value = loss(SimMIM(), sin_map(2, 3, 4, 4), patches_of(cos_map(2, 3, 4, 4), 4)).item()
    assert value == pytest.approx(
        golden("simmim: L1 on hidden pixels (mean over hidden pixels and channels)"), abs=1e-7
    )


@pytest.mark.parametrize(("objective", "norm_pix"), [(MAE(True), True), (MAE(False), False), (SimMIM(), False)])
def test_equals_the_loop(objective: MAE | SimMIM, norm_pix: bool) -> None:
    images, prediction = sin_map(3, 2, 6, 6), cos_map(3, 9, 8)
    mask = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) < 0.6
    expected = looped(images, prediction, mask, norm_pix, isinstance(objective, MAE))
    assert loss(objective, images, prediction, mask).item() == pytest.approx(expected, abs=1e-12)


def test_a_patch_has_rows_then_columns_then_channels() -> None:
    images = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    found = patches_of(images, 4)
    assert found.shape == (2, 4, 12)
    assert found[1, 2].tolist() == [images[1, c, y, x].item() for y in (2, 3) for x in (0, 1) for c in range(3)]


def test_a_patch_of_one_colour_is_no_division_by_zero() -> None:
    assert normalised(torch.full((1, 2, 4), 0.3)).abs().max() < 1e-3


def test_only_hidden_patches_have_a_gradient() -> None:
    prediction = cos_map(2, 4, 12).requires_grad_()
    loss(MAE(True), sin_map(2, 3, 4, 4), prediction).backward()
    assert prediction.grad is not None and torch.equal(prediction.grad.abs().sum(dim=2) > 0, HIDDEN)


def test_nothing_hidden_is_a_loss_of_zero() -> None:
    assert mean_of(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)) == 0
