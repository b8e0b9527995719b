"""Views that are learnt: what is shared by objectives that train them beside the encoder.

Two parts learn in one step, each as if the other were constant: the one's loss goes through the other by way of
``functional.as_constant``. B samples, C channels, T points.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Channels, Count, NonNegative, Positive, guarded
from ssl_framework.distributed import own_rows, world_size
from ssl_framework.functional import full_precision
from ssl_framework.models.series import DilatedNet
from ssl_framework.types import Clock

STRETCH = 0.1
"""By how much soft masks reach below 0 and above 1 before they are clamped (Louizos et al., arXiv:1712.01312)."""


@guarded
class LearnedViews(nn.Module):
    """``g(x) h(x) x + noise`` of series x: a network chooses which values stay and by what they are multiplied.

    The mask h is a hard concrete variable (Louizos et al., ICLR 2018, arXiv:1712.01312), 0 or 1, with the gradient of
    the soft one; the factor g lies between 0 and 2.

    Args:
        channels: C of the series.
        width, depth, kernel: of a ``DilatedNet``.
        temperature: of the soft mask.
        noise: standard deviation of the noise that is added, in units of the views.
        lr_factor: learning rate of these parameters relative to all others.
    """

    def __init__(
        self,
        channels: Channels,
        width: Count,
        depth: Count,
        kernel: Count,
        temperature: Positive,
        noise: NonNegative,
        lr_factor: Positive,
    ) -> None:
        super().__init__()
        self.net = DilatedNet(channels, width, depth, 2 * channels, kernel)
        self.temperature, self.noise = temperature, noise
        self.lr_factor = lr_factor

    def forward(self, x: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """Views and masks of series [B, C, T]: two [B, C, T].

        Draws are those of the global batch, so that the number of ranks does not matter.
        """
        generator = clock.generator(x.device)
        shape = (world_size() * len(x), *x.shape[1:])
        uniform = own_rows(torch.rand(shape, generator=generator, device=x.device)).clamp(1e-6, 1 - 1e-6)  # [B, C, T]
        normal = own_rows(torch.randn(shape, generator=generator, device=x.device))  # [B, C, T]
        logits, scale = full_precision(self.net(x)).chunk(2, dim=1)  # [B, C, T] each
        soft = torch.sigmoid((logits + torch.logit(uniform)) / self.temperature)  # [B, C, T]
        soft = ((1 + 2 * STRETCH) * soft - STRETCH).clamp(0, 1)
        mask = (soft > 0.5).to(soft.dtype) + (soft - soft.detach())  # [B, C, T]
        return 2 * torch.sigmoid(scale) * mask * x + self.noise * normal, mask


def discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two sets of vectors (Gretton et al., JMLR 2012, eq. 5), the mean over five
    Gaussian kernels whose variances are 1/4 to 4 times the mean squared distance of all: two [N, D] -> scalar."""
    z = torch.cat([a, b])  # [2N, D]
    away = (z[:, None] - z).square().sum(dim=2)  # [2N, 2N]
    scale = (away.detach().sum() / (len(z) * (len(z) - 1))).clamp(min=1e-12)
    kernel = torch.stack([(-away / (scale * 2.0**power)).exp() for power in range(-2, 3)]).mean(dim=0)  # [2N, 2N]
    sign = torch.cat([torch.ones_like(a[:, 0]), -torch.ones_like(b[:, 0])])  # [2N]
    return sign @ kernel @ sign / len(a) ** 2


def roughness(mask: Tensor) -> Tensor:
    """Mean change of masks [B, C, T] from point to point: [B]."""
    return mask.diff(dim=2).abs().mean(dim=(1, 2))
