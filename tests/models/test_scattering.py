"""Scattering coefficients: kymatio's numbers, circular sums of products, counts; and the net behind them."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.models.backbone import Backbone
from ssl_framework.models.scattering import Scattering, morlet

KYMATIO = (
    -0.846337, 0.175623, 0.240017, 0.096158, 0.049737, 0.256335, 0.412618, 0.102201, 0.105435, 0.010272, 0.017338,
    0.008633, 0.006323, 0.003843, 0.005734, 0.00675, 0.007396, 0.011169, 0.011366, 0.00643, 0.006294, 0.009422,
    0.011042, 0.004462, 0.005512,
)  # fmt: skip
"""``kymatio.torch.Scattering2D(J=2, shape=(12, 12), L=4)`` of ``picture()``, version 0.3.0: all coefficients at row 1,
column 2. It writes 3.1415 for pi, so that every filter is too large by 3e-5 of itself."""


def picture(side: int = 12) -> Tensor:
    i = torch.arange(float(side), dtype=torch.float64)
    return (torch.sin(0.7 * i[:, None] + 0.05 * i * i[:, None]) + torch.cos(0.3 * i))[None, None]


def test_the_numbers_of_kymatio() -> None:
    got = Scattering(2, 4)(picture())[0]
    assert got.shape == (25, 3, 3) and got.dtype == torch.float64
    torch.testing.assert_close(got[:, 1, 2], torch.tensor(KYMATIO, dtype=torch.float64), rtol=1.2e-4, atol=1e-6)
    single = Scattering(2, 4)(picture().float())
    torch.testing.assert_close(single[0].double(), got, rtol=1e-4, atol=1e-5)


def test_one_scale_against_sums_of_products() -> None:
    """Order 0 and 1 of one scale and two orientations, convolved by shifting the mirrored picture."""
    x, side = picture(6), 10  # the least even number that leaves 2 pixels
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")[0, 0]

    def convolved(signal: Tensor, wave: Tensor) -> Tensor:
        return sum(wave[i, j] * signal.roll((i, j), (0, 1)) for i in range(side) for j in range(side))  # type: ignore[return-value]

    def gaussian(sigma: float) -> Tensor:
        far = torch.tensor([[(i + side // 2) % side - side // 2 for i in range(side)]], dtype=torch.float64)
        return torch.exp(-(far**2 + far.T**2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)

    phi = gaussian(0.8)
    expected = [convolved(padded, phi)]
    for turn in (0, -1):
        psi = morlet(side, side, 0.8, turn * math.pi / 2, 0.75 * math.pi, 2.0)
        assert psi.sum().abs() < 1e-12
        expected.append(convolved(convolved(padded.to(psi.dtype), psi).abs(), phi))
    got = Scattering(1, 2)(x)[0]
    torch.testing.assert_close(got, torch.stack(expected)[:, 2:-2:2, 2:-2:2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("scales", "orientations", "number"), [(2, 8, 81), (2, 16, 289), (1, 3, 4), (3, 2, 19)])
def test_how_many_coefficients_there_are(scales: int, orientations: int, number: int) -> None:
    net = Scattering(scales, orientations)
    assert net.number == 1 + scales * orientations + orientations**2 * scales * (scales - 1) // 2 == number
    assert net(torch.rand(1, 2, 16, 20)).shape == (1, 2 * number, 16 // 2**scales, 20 // 2**scales)
    assert not list(net.parameters()) and not net.state_dict()  # nothing for an optimizer, nothing to store


def test_a_shift_within_a_place_and_a_constant_change_little() -> None:
    x = picture(32)[..., :32]
    net = Scattering(2, 4)
    first, second, flat = net(x), net(x.roll(1, 3)), net(x + 3)
    own = (first[:, 1:] - second[:, 1:]).norm() / first[:, 1:].norm()
    assert own < 0.35 < (x - x.roll(1, 3)).norm() / x.norm()
    torch.testing.assert_close(flat[:, 1:], first[:, 1:], rtol=1e-6, atol=1e-9)  # wavelets have mean 0
    torch.testing.assert_close(flat[:, 0], first[:, 0] + 3, rtol=1e-3, atol=1e-3)


def test_the_backbone_on_any_size_and_what_is_too_small() -> None:
    torch.manual_seed(0)
    net = Backbone("ssl_scattering", None, 8, 1, {"orientations": 4, "stem": 4, "widths": [6, 10], "depth": 2})
    assert net.dim == 10 and len(net.blocks) == 4 and net.blocks[-1].channels == 10
    for side in (8, 12):
        outputs = net(torch.rand(2, 1, side, side))
        assert outputs["map"].shape == (2, 10, side // 4, side // 4) and outputs["pooled"].shape == (2, 10)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.rand(2, 1, 8, 8))["pooled"].isfinite().all()
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    net(x)["pooled"].sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad is not None for p in net.net.parameters())
    with pytest.raises(ValueError, match=r"backbone\.options\.scales is 2, but a view has 4 x 4 pixels: lower it"):
        net(torch.rand(2, 1, 4, 4))
