"""Mixtures as views: a sample that shows a little of others and is still itself, so that no target changes.

    Linear, Geometric, Binary   DACL: Verma et al., Towards Domain-Agnostic Contrastive Learning, ICML 2021
                                (arXiv:2011.04419), the three kinds of Mixup noise
    InputMix                    i-Mix: Lee et al., ICLR 2021 (arXiv:2010.08887): several others at once

Two views that show different others are a positive pair, where nothing is known of the domain that could make views.
This is the one place where what is seen is not what is said; so it belongs to the views (``views.noise``), and a mixer
may still come after it.

B samples of this rank, V views, P sources of a mixture, C channels, h x w pixels.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, Positive, guarded
from ssl_framework.mixers.base import Context, Partners, Rule, uniform
from ssl_framework.mixers.rules import owned, partners
from ssl_framework.types import Batch


@guarded
class Noise:
    """Mixes every view with the same view of other samples, each time with partners and shares of its own.

    Args:
        rule: how images become one; those of this module, or any rule of a mixer.
        partners: whose images; within this rank's batch.
    """

    def __init__(self, rule: Rule, partners: Partners) -> None:
        self.rule = rule
        self.partners = partners

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """The batch with noisy views and no record of it.

        Args:
            batch: views V x [B, C, h, w], pixels in [0, 1].
            generator: of all draws; ``None`` is torch's own.
        """
        context = Context(generator, generator, None, batch.label)
        own = torch.arange(len(batch.index), device=batch.index.device)[:, None]  # [B, 1]
        sources = [torch.cat([own, self.partners(batch, context)], dim=1) for _ in batch.views]  # V x [B, P]
        views = [self.rule(x, source, context)[0] for x, source in zip(batch.views, sources, strict=True)]
        return batch._replace(views=views)


@guarded
class Linear:
    """``l x + (1 - l) other``, l ~ U(least, 1) for every sample.

    Args:
        least: the smallest share of the own image, alpha in the paper; in [0, 1).
    """

    def __init__(self, least: BelowOne) -> None:
        self.least = least

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and how much of each pixel is of whom [B, 2, h, w]."""
        share = drawn_share(self.least, x, context)  # [B, 1, 1, 1]
        return torch.lerp(partners(x, source), x, share), owned(share.expand(-1, 1, *x.shape[2:]))


@guarded
class Geometric:
    """``x^l other^(1 - l)``, l ~ U(least, 1) for every sample; for pixels that are not negative.

    Args:
        least: the smallest exponent of the own image; in [0, 1).
    """

    def __init__(self, least: BelowOne) -> None:
        self.least = least

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``Linear``; the shares are those of the logarithms, so it is noise and no mixture with shares to tell."""
        share = drawn_share(self.least, x, context)  # [B, 1, 1, 1]
        mixed = x.pow(share) * partners(x, source).pow(1 - share)  # [B, C, h, w]; 0^0 is 1
        return mixed, owned(share.expand(-1, 1, *x.shape[2:]))


@guarded
class Binary:
    """Every pixel is the own one with probability l, else the other's; l ~ U(least, 1) for every sample.

    Args:
        least: the smallest probability of the own pixel; in [0, 1).
    """

    def __init__(self, least: BelowOne) -> None:
        self.least = least

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``Linear``; every pixel is of one image."""
        share = drawn_share(self.least, x, context)  # [B, 1, 1, 1]
        own = uniform((len(x), 1, *x.shape[2:]), x, context.generator) < share  # [B, 1, h, w]
        return torch.where(own, x, partners(x, source)), owned(own.float())


@guarded
class InputMix:
    """A weighted mean of the own image, which weighs at least ``least``, and of any number of others.

    The own share is ``least + (1 - least) d_0`` and the others' ``(1 - least) d_p``, d ~ Dirichlet(alpha), for every
    sample.

    Args:
        alpha: of the Dirichlet distribution; above 0.
        least: the smallest share of the own image, in [0, 1).
    """

    def __init__(self, alpha: Positive, least: BelowOne) -> None:
        self.alpha = alpha
        self.least = least

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, h, w], and how much of each pixel is of whom [B, P, h, w]."""
        where = x.device if context.generator is None else context.generator.device
        alpha = torch.full(source.shape, self.alpha, device=where)  # [B, P]
        drawn = torch._standard_gamma(alpha, generator=context.generator).to(x.device)  # [B, P]
        # All of them may be 0 for a tiny alpha; then the own image stays whole.
        drawn = drawn / drawn.sum(dim=1, keepdim=True).clamp(min=torch.finfo(drawn.dtype).tiny)  # [B, P]
        share = (1 - self.least) * drawn  # [B, P]
        share[:, 0] = 1 - share[:, 1:].sum(dim=1)
        mixed = torch.einsum("bp,bpchw->bchw", share.to(x.dtype), x[source])  # [B, C, h, w]
        return mixed, share[..., None, None].expand(-1, -1, *x.shape[2:])


def drawn_share(least: float, like: Tensor, context: Context) -> Tensor:
    """U(least, 1) for each of B images ``like``: [B, 1, 1, 1] float32."""
    return least + (1 - least) * uniform((len(like), 1, 1, 1), like, context.generator)
