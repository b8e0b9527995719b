"""Livne, cMIM: A Contrastive Mutual Information Framework for Unified Generative and Discriminative Representation
Learning (arXiv:2502.19642), an auto-encoder whose latent codes are told apart without any augmentation.

``L = -log p(x|z) - 1/2 (log q(z|x) + log P(z)) - log(e^{s_ii} / (e^{s_ii} + mean_{j != i} e^{s_ij}))``: pixels and
encoder Gaussian, the prior standard normal, and s the cosines of a sampled code with the encoder's means over tau.

B samples of this rank, W ranks, D latent dimensions, P numbers of a view.
"""

import math

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import bounded, full_precision, log_sum_exp, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CMIM(Objective):
    """The loss of one view, in nats a sample.

    Args:
        temperature: of the cosines.
        weight: of the contrastive term.
        pixel_std: standard deviation of p(x|z), in units of normalised pixels.
        posterior: name of the head that gives means and log variances, [B, 2 D].
        latent: name of the head that draws a code from them, [B, D].
        decoder: name of the head that gives the pixels, [B, P].
    """

    requires = frozenset({"inputs"})
    num_views = (1, 1)

    def __init__(
        self,
        temperature: Positive,
        weight: NonNegative,
        pixel_std: Positive,
        posterior: str = "posterior",
        latent: str = "latent",
        decoder: str = "decoder",
    ) -> None:
        super().__init__()
        self.temperature, self.weight, self.pixel_std = temperature, weight, pixel_std
        self.posterior, self.latent, self.decoder = posterior, latent, decoder
        self.reads = (posterior, latent, decoder)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        ((mean, log_variance),) = (x.chunk(2, dim=1) for x in outputs_of(student, self.posterior))  # [B, D] each
        (z,), (decoded,) = outputs_of(student, self.latent), outputs_of(student, self.decoder)  # [B, D], [B, P]
        view = next(v for v, outputs in enumerate(student) if outputs is not None)
        pixels = batch.views[view].flatten(1).to(decoded.dtype)  # [B, P]
        if pixels.shape != decoded.shape:
            raise ValueError(
                f"the decoder gives {decoded.shape[1]} numbers, but a view has {pixels.shape[1]}: set "
                f"student.heads.{self.decoder}.image_size to the side of the views"
            )
        reconstruction = -log_normal(pixels, decoded, 2 * math.log(self.pixel_std))  # [B]
        encoding = -(log_normal(z, mean, bounded(log_variance)) + log_normal(z, torch.zeros_like(z), 0.0)) / 2  # [B]
        apart = contrast(unit(z), unit(mean), self.temperature)  # [B]
        terms = {"reconstruction": reconstruction, "encoding": encoding, "contrast": apart}
        loss = (reconstruction + encoding + self.weight * apart).mean()
        return {"loss": loss, **{name: term.detach().mean() for name, term in terms.items()}}


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor | float) -> Tensor:
    """Log density of independent Gaussians, summed over them: [B, D] -> [B]."""
    log_variance = torch.as_tensor(log_variance, dtype=x.dtype, device=x.device)
    each = (x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)  # [B, D]
    return -each.sum(dim=1) / 2


def contrast(z: Tensor, code: Tensor, temperature: float) -> Tensor:
    """``-log(e^{s_ii} / (e^{s_ii} + mean over the others of e^{s_ij}))``: negatives are averaged, not summed, so that
    the loss does not grow with the batch.

    Args:
        z: [B, D] unit rows, sampled codes of this rank.
        code: [B, D] unit rows, means of the encoder; those of all ranks are compared.
        temperature: of the cosines.

    Returns:
        [B]; 0 where there is no other sample.
    """
    z, codes = full_precision(z), gather_with_grad(full_precision(code))  # [B, D], [W * B, D]
    positive = (z * code).sum(dim=1) / temperature  # [B]
    if len(codes) == 1:
        return 0 * positive
    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [B]
    others = log_sum_exp(z, codes, temperature, [own])[0] - math.log(len(codes) - 1)  # [B]
    return torch.logaddexp(positive, others) - positive
