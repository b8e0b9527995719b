"""An auto-encoder that removes noise, and clusters of what it has learnt."""

import pytest
import torch

from ssl_framework.data.images.denoising_clusters import AutoEncoder, DenoisingClusters
from tests.data.test_pseudo_labels import CPU, two_kinds


def denoising(**changed: object) -> DenoisingClusters:
    options = {"num_clusters": 2, "noise": 0.01, "widths": [4, 8], "epochs": 2, "batch_size": 8, "lr": 1e-3}
    return DenoisingClusters(**(options | changed))  # type: ignore[arg-type]


def test_clusters_of_the_auto_encoder_tell_bright_from_dark() -> None:
    state = torch.get_rng_state()
    label = denoising()(two_kinds(), 0, CPU)
    assert label.dtype == torch.int64 and label.tolist() in ([0, 1] * 12, [1, 0] * 12)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(denoising()(two_kinds(), 0, CPU), label)


def test_the_auto_encoder_learns_to_remove_noise() -> None:
    images = two_kinds()
    torch.manual_seed(0)
    coder = AutoEncoder(3, [4, 8])
    clean = images.rows.float() / 255
    before = (coder(clean) - clean).square().mean()
    denoising(epochs=20, lr=1e-2).train(coder, images, CPU)
    assert (coder(clean) - clean).square().mean() < before / 3


@pytest.mark.parametrize("side", [8, 9, 28])
def test_the_auto_encoder_gives_back_the_size_it_took(side: int) -> None:
    out = AutoEncoder(1, [4, 8, 16])(torch.rand(2, 1, side, side))
    assert out.shape == (2, 1, side, side) and out.min() >= 0 and out.max() <= 1


def test_bad_settings_are_refused() -> None:
    for changed in ({"num_clusters": 0}, {"epochs": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(changed))} is 0: it must be at least 1"):
            denoising(**changed)
    for changed in ({"noise": -1}, {"lr": 0}, {"widths": []}):
        with pytest.raises(
            ValueError,
            match=r"(noise is -1|lr is 0|widths is \[\]): it must be (at least 0|above 0|a list of one)",
        ):
            denoising(**changed)
