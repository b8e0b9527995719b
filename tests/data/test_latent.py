"""The latent generator: it learns, its bounds are those of the formula, and it changes the chunks that say least."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_framework.data.base import Split
from ssl_framework.data.images.latent import VAE, LatentViews, bound, floats
from ssl_framework.data.images.paired import Paired


def maker(**change: object) -> LatentViews:
    settings = {"widths": [4, 8], "chunk": 2, "chunks": 3, "noise": 0.1, "steps": 6, "batch_size": 16, "lr": 3e-3}
    rest = {"measured": 64, "temperatures": [0.1], "turned": 0.4, "kept": 0.9, "variations": 2, "seed": 0}
    return LatentViews(**{**settings, **rest, **change})  # type: ignore[arg-type]


def pictures(count: int = 48, side: int = 9) -> Split:
    """A bright square whose corner tells them apart."""
    x = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    for n in range(count):
        x[n, :, n % 6 : n % 6 + 3, n // 6 % 6 : n // 6 % 6 + 3] = 250
    return Split(x)


class Linear(nn.Module):
    """A generator whose picture is its latent vector, but for the chunks that it ignores."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.seen = seen

    def generate(self, z: Tensor) -> Tensor:
        return (z * self.seen)[:, :, None, None]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :, 0, 0], x[:, :, 0, 0]


def test_the_bound_against_a_loop() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    total = 0.0
    for i in range(5):
        row = [float(torch.cosine_similarity(a[i], b[j], dim=0)) / 0.2 for j in range(5)]
        total += math.log(sum(map(math.exp, row))) - row[i]
    at_two_tenths = math.log(5) - total / 5
    assert bound(a, b, [0.2]).item() == pytest.approx(at_two_tenths)
    assert bound(a, b, [0.2, 1e3]).item() == pytest.approx(max(at_two_tenths, 0.0), abs=1e-3)
    assert bound(a, a, [0.001]).item() == pytest.approx(math.log(5), abs=1e-6)


def test_chunks_that_the_picture_ignores_say_nothing_and_are_turned() -> None:
    seen = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    torch.manual_seed(0)
    z, own = torch.randn(64, 6), maker(temperatures=[0.01, 5.0])
    says = own.information(Linear(seen), z)  # type: ignore[arg-type]
    assert says[1].abs() < 1e-5 and says[[0, 2]].min() > 0.5 * math.log(64)
    least = says.argsort()[:1]
    assert least.tolist() == [1] and own.furthest(Linear(seen), z, least) == pytest.approx(math.pi / 2)  # type: ignore[arg-type]
    near = own.furthest(Linear(torch.ones(6)), z, torch.tensor([0, 1, 2]))  # type: ignore[arg-type]
    assert near < math.pi / 4


def test_a_turn_leaves_the_other_chunks_and_the_distribution() -> None:
    torch.manual_seed(0)
    z = torch.randn(20_000, 6)
    whole = maker().turn(z, torch.tensor([0, 2]), math.pi / 3, within=False)
    assert torch.equal(whole[:, 2:4], z[:, 2:4])
    assert whole.std(dim=0).sub(1).abs().max() < 0.03
    assert (whole[:, 0] * z[:, 0]).mean().item() == pytest.approx(0.5, abs=0.03)  # the cosine of the angle
    part = maker().turn(z, torch.tensor([0]), math.pi / 2, within=True)
    assert (part[:, 0] * z[:, 0]).mean().item() == pytest.approx(2 / math.pi, abs=0.03)
    assert torch.equal(maker().turn(z, torch.tensor([0]), 0.0, within=True), z)


def test_it_learns_and_is_a_function_of_its_seed(recwarn: pytest.WarningsRecorder) -> None:
    real, state = pictures(), torch.get_rng_state()
    start, images = (maker(steps=steps, lr=0.02, measured=16)(real) for steps in (1, 40))
    assert images.shape == (48, 2, 1, 9, 9) and images.dtype == torch.uint8
    assert torch.equal(torch.get_rng_state(), state)
    before, after, other = (
        (each[:, 0].float() - rows.float()).abs().mean()
        for each, rows in ((start, real.rows), (images, real.rows), (images, real.rows.roll(7, 0)))
    )
    assert after < 0.3 * before and after < 0.9 * other
    assert "nats of a picture" in str(recwarn[-1].message)
    first, again, else_ = (maker(seed=seed)(real) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, else_)


def test_sizes_that_do_not_halve() -> None:
    vae = VAE((3, 7, 10), [4, 6], 5).eval()
    mean, log_variance = vae.posterior(torch.rand(2, 3, 7, 10))
    assert mean.shape == log_variance.shape == (2, 5) and vae.generate(mean).shape == (2, 3, 7, 10)
    assert floats(pictures(), torch.tensor([3, 1])).shape == (2, 1, 9, 9)


def test_a_run_finds_its_images_again(tmp_path: Path) -> None:
    class Source:
        def load(self, split: str) -> Split:
            return pictures()

    first = Paired(Source(), maker(), tmp_path).load("pretrain")
    assert not list(tmp_path.iterdir())  # made when they are read
    assert first.beside["generated"] is first.beside["generated"]
    broken = maker()
    broken.train = None  # type: ignore[assignment,method-assign]
    again = Paired(Source(), broken, tmp_path, resumed=True).load("pretrain")
    assert torch.equal(first.beside["generated"], again.beside["generated"])
    assert [path.name for path in tmp_path.iterdir()] == ["generated.npy"]
    np.save(tmp_path / "generated.npy", np.zeros((3, 2, 1, 9, 9), dtype=np.uint8))
    with pytest.raises(
        ValueError, match=r"\[3, 2, 1, 9, 9\] \[N, K, C, H, W\], but the training samples are \[48, 1, 9"
    ):
        Paired(Source(), broken, tmp_path, resumed=True).load("pretrain").beside["generated"]
