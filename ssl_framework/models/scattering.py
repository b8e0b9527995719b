"""A two-dimensional scattering transform with a small residual net behind it, registered with timm: fixed wavelets in
the place of the first layers, as in ScatSimCLR (Kinakh, Taran and Voloshynovskiy, ICCV workshops 2021,
arXiv:2108.13939).

The transform is that of Bruna and Mallat, Invariant Scattering Convolution Networks, PAMI 2013, to the second order:
means of the picture, of the moduli of its wavelet coefficients, and of the moduli of wavelet coefficients of those:
``x * phi``, ``|x * psi_1| * phi`` and ``||x * psi_1| * psi_2| * phi``, psi_2 coarser than psi_1. Filters, borders and
order of the channels are those of the package kymatio, so that its numbers come out. Nothing of it is trained.

N pictures of one channel, C channels of a picture, J scales, L orientations, K coefficients, h x w padded pixels.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from ssl_framework.models.small_nets import Classified, settings

default_cfgs = generate_default_cfgs({"ssl_scattering": settings("stem.0")})  # timm looks for this name


class Bank(NamedTuple):
    """Filters for pictures of one size, as real Fourier transforms."""

    psi: list[list[Tensor]]  # J x (resolutions 0 .. j) x [L, h / 2^r, w / 2^r]
    phi: list[Tensor]  # resolutions 0 .. J - 1, [h / 2^r, w / 2^r]


class Scattering(nn.Module):
    """The transform of every channel by itself.

    Args:
        scales: J, at least 1; a coefficient is a mean over about 2^J pixels each way, and there is one every 2^J.
        orientations: L, at least 1.
    """

    def __init__(self, scales: int, orientations: int) -> None:
        super().__init__()
        self.scales = scales
        self.orientations = orientations
        self.number = 1 + scales * orientations + orientations**2 * scales * (scales - 1) // 2  # K
        self.banks: dict[tuple[int, int, torch.device], Bank] = {}

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C * K, H / 2^J, W / 2^J] float32 (float64 if the pictures are), the K of a channel
        together.

        Raises:
            ValueError: a picture is too small for its border to be mirrored.
        """
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            found = self.of_channels(self.padded(x.flatten(0, 1)))  # [B * C, K, H / 2^J, W / 2^J]
        return found.view(len(x), -1, *found.shape[2:])

    def padded(self, x: Tensor) -> Tensor:
        """Mirrored beyond the border, to the least multiple of 2^J that leaves half of 2^J or more: [N, h, w]."""
        step, sides = 2**self.scales, x.shape[1:]
        over = [((side + step) // step + 1) * step - side for side in sides]
        if any((more + 1) // 2 >= side for more, side in zip(over, sides, strict=True)):
            raise ValueError(
                f"backbone.options.scales is {self.scales}, but a view has {sides[0]} x {sides[1]} pixels: lower it, "
                "or choose larger views"
            )
        (top, left), (bottom, right) = ([more // 2 for more in over], [(more + 1) // 2 for more in over])
        return F.pad(x[:, None], (left, right, top, bottom), mode="reflect")[:, 0]

    def of_channels(self, x: Tensor) -> Tensor:
        """[N, h, w] padded -> [N, K, h', w']: order 0, then 1, then 2, by scale and orientation."""
        bank, last = self.bank(x.shape[1], x.shape[2], x), self.scales
        spectrum = torch.fft.fft2(x)  # [N, h, w] complex
        first, second = [self.mean(spectrum[:, None], bank.phi[0], last)], []  # of [N, 1 or L, h', w']
        for j in range(last):
            waves = modulus(times(spectrum[:, None], bank.psi[j][0]), j)  # [N, L, h / 2^j, w / 2^j] complex, a spectrum
            first.append(self.mean(waves, bank.phi[j], last - j))
            for each in waves.unbind(dim=1) if j + 1 < last else ():  # one orientation at a time: memory
                for coarser in range(j + 1, last):
                    finer = modulus(
                        times(each[:, None], bank.psi[coarser][j]), coarser - j
                    )  # [N, L, h / 2^j', w / 2^j']
                    second.append(self.mean(finer, bank.phi[coarser], last - coarser))
        return torch.cat([*first, *second], dim=1)

    def mean(self, spectrum: Tensor, phi: Tensor, halvings: int) -> Tensor:
        """Means by a filter, thinned out to one in 2^J and without the border: [..., h, w] -> [..., h', w']."""
        return torch.fft.ifft2(thinned(times(spectrum, phi), halvings)).real[..., 1:-1, 1:-1]

    def bank(self, h: int, w: int, like: Tensor) -> Bank:
        """The filters for padded pictures of h x w pixels, of the precision of ``like``; made once for each size."""
        key = (h, w, like.device)
        if key not in self.banks or self.banks[key].phi[0].dtype != like.dtype:
            with torch.device("cpu"):  # also of a net that is built without memory, where every operation takes longer
                self.banks[key] = filters(h, w, self.scales, self.orientations, like)
        return self.banks[key]


def modulus(spectrum: Tensor, halvings: int) -> Tensor:
    """The spectrum of the modulus of a thinned signal, from its spectrum: [..., h, w] -> [..., h', w'] complex."""
    return torch.fft.fft2(torch.fft.ifft2(thinned(spectrum, halvings)).abs())


def thinned(spectrum: Tensor, halvings: int) -> Tensor:
    """Every 2^halvings-th value of the signal with this spectrum, which is folded: [..., h, w] -> [..., h', w']."""
    by = 2**halvings
    rows = functools.reduce(torch.add, spectrum.chunk(by, dim=-2))  # [..., h', w]
    return functools.reduce(torch.add, rows.chunk(by, dim=-1)) / by**2 if halvings else spectrum


def times(spectrum: Tensor, filter_: Tensor) -> Tensor:
    """Complex times real, without making the real numbers complex."""
    return torch.view_as_complex(torch.view_as_real(spectrum) * filter_[..., None])


def filters(h: int, w: int, scales: int, orientations: int, like: Tensor) -> Bank:
    """Morlet wavelets of width 0.8 2^j pixels and frequency 3 pi / 4 / 2^j, and a Gaussian of width 0.8 2^(J - 1).

    Args:
        h, w: pixels, multiples of 2^scales.
        scales, orientations: J and L.
        like: of the device and precision to make.
    """

    def spectrum(wave: Tensor) -> Tensor:
        return torch.fft.fft2(wave).real

    def at(whole: Tensor, resolution: int) -> Tensor:
        """The lowest frequencies, of a signal with 2^resolution pixels as one: [..., h, w] -> [..., h', w']."""
        if resolution == 0:
            return whole.to(like)
        halves = [side // 2 ** (resolution + 1) for side in (h, w)]
        rows, columns = (torch.cat([torch.arange(half), torch.arange(-half, 0)]) for half in halves)
        return whole[..., rows[:, None], columns].to(like)

    psi = []
    for j in range(scales):
        shape = {"sigma": 0.8 * 2**j, "frequency": 0.75 * math.pi / 2**j, "slant": 4 / orientations}
        first = max(orientations // 2 - 1, 0)  # of kymatio's order, in steps of pi / L
        turns = [(first - number) * math.pi / orientations for number in range(orientations)]
        whole = torch.stack([spectrum(morlet(h, w, angle=turn, **shape)) for turn in turns])  # [L, h, w]
        psi.append([at(whole, resolution) for resolution in range(j + 1)])
    phi = spectrum(gabor(h, w, 0.8 * 2 ** (scales - 1), 0.0, 0.0, 1.0))  # [h, w]
    return Bank(psi, [at(phi, resolution) for resolution in range(scales)])


def morlet(h: int, w: int, sigma: float, angle: float, frequency: float, slant: float) -> Tensor:
    """A Gabor wave less as much of its envelope that its mean is 0: [h, w] complex128."""
    wave, envelope = (gabor(h, w, sigma, angle, f, slant) for f in (frequency, 0.0))
    return wave - wave.sum() / envelope.sum() * envelope


def gabor(h: int, w: int, sigma: float, angle: float, frequency: float, slant: float) -> Tensor:
    """A wave under a Gaussian whose sum is about 1, wrapped round the borders: [h, w] complex128, centred at pixel 0.

    Args:
        h, w: pixels.
        sigma: width of the Gaussian along the wave, in pixels; across it is 1 / slant of that.
        angle: of the wave, in radians from the direction of the rows' numbers.
        frequency: of the wave, in radians a pixel.
        slant: above 0.
    """
    total = torch.zeros(h, w, dtype=torch.complex128)
    for down in range(-2, 3):
        for across in range(-2, 3):
            y = (torch.arange(h, dtype=torch.float64) + down * h)[:, None]  # [h, 1]
            x = torch.arange(w, dtype=torch.float64) + across * w  # [w]
            along = y * math.cos(angle) + x * math.sin(angle)  # [h, w]
            beside = y * math.sin(angle) - x * math.cos(angle)  # [h, w]
            envelope = torch.exp(-(along.square() + (slant * beside).square()) / (2 * sigma**2))  # [h, w]
            total += torch.polar(envelope, frequency * along)
    return total * slant / (2 * math.pi * sigma**2)


class ScatteringNet(Classified):
    """Scattering coefficients, normalised, and residual blocks on their map.

    Args:
        num_classes: 0 for features only, as timm's models.
        in_chans: C, channels of the images.
        scales, orientations: J and L of the scattering.
        stem: width of the convolution behind it.
        widths: of the residual blocks; the last one is that of the features.
        depth: blocks of each width.
    """

    feature_info: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        scales: int,
        orientations: int,
        stem: int,
        widths: Sequence[int],
        depth: int,
    ) -> None:
        super().__init__()
        self.scattering = Scattering(scales, orientations)
        self.norm = nn.BatchNorm2d(in_chans * self.scattering.number, affine=False)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans * self.scattering.number, stem, 3, 1, 1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList()
        before = stem
        for width in [width for width in widths for _ in range(depth)]:
            skip = None
            if width != before:
                skip = nn.Sequential(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width))
            self.blocks.append(BasicBlock(before, width, downsample=skip))
            before = width
        self.feature_info = [  # type: ignore[misc]
            {"module": f"blocks.{i}", "num_chs": width}
            for i, width in enumerate(width for width in widths for _ in range(depth))
        ]
        self.num_features = before
        self.classify(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the parameters of each layer, as timm's models give them."""
        return {"stem": r"^(?:stem|norm)\.", "blocks": r"^blocks\.(\d+)\."}

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, widths[-1], H / 2^J, W / 2^J]"""
        x = self.stem(self.norm(self.scattering(x)))
        for block in self.blocks:
            x = block(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[B, D, h, w] -> [B, D], or [B, num_classes]"""
        pooled = x.mean(dim=(2, 3))  # [B, D]
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def ssl_scattering(pretrained: bool = False, **options: Any) -> ScatteringNet:
    """The scattering net, under timm's calling convention."""
    own = {"num_classes": 0, "in_chans": 3, "scales": 2, "orientations": 8, "stem": 32, "widths": (64, 128), "depth": 1}
    return build_model_with_cfg(ScatteringNet, "ssl_scattering", pretrained, **{**own, **options})
