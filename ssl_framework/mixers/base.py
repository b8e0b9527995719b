"""What input mixers are made of: partner rules, mixing rules, label laws, and the draws they share."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Positive, guarded
from ssl_framework.models.encoder import Encoder
from ssl_framework.types import Batch, Mix, Outputs


class Context(NamedTuple):
    """What partner rules and mixing rules may ask for besides the images."""

    generator: torch.Generator | None  # for one draw a sample; None is torch's own, which differs on every rank
    shared: torch.Generator | None  # for one draw for the whole batch, alike on all ranks
    network: Encoder | None  # the student as it is now
    label: Tensor | None  # [B] of the samples
    teacher: Encoder | None = None  # its encoder, if the run has one
    owed: list[Tensor] | None = None  # scalars that a learned rule puts in, to be added to the loss
    images: Tensor | None = None  # [B, C, h, w] for partner rules that look; of the first view that is mixed alike
    taken: list[Tensor] | None = None  # a rule that moves parts of the sources puts in ``Mix.taken``

    def draws(self, per_sample: bool) -> torch.Generator | None:
        """The generator for a draw a sample or a draw a batch."""
        return self.generator if per_sample else self.shared


class Partners(Protocol):
    """Chooses partners for every sample; see ``partners``."""

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, P - 1] int64 positions in this rank's batch."""
        ...


class Rule(Protocol):
    """Mixes images with those of their partners; see ``rules``."""

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Mixes a batch.

        Args:
            x: [B, C, h, w] images.
            source: [B, P] int64 positions: the sample itself and its partners.
            context: generators, labels, network.

        Returns:
            The mixed images [B, C, h, w]; and [B, P, h, w] in [0, 1] how much of each pixel is of each source, which
            sums to one over the sources.
        """
        ...


class LabelLaw(Protocol):
    """Says how much a mixture counts as each of its sources, where that is not the visible share; see ``labels``."""

    def __call__(self, mixed: Tensor, mix: Mix, context: Context) -> Tensor:
        """Label shares, [B, P] in [0, 1], rows sum to one.

        Args:
            mixed: [B, C, h, w] the mixtures.
            mix: their record, with the visible shares.
            context: generators, labels, network.
        """
        ...


class HiddenRule:
    """Base of rules that mix inside the student and leave the images as they are; see ``hidden``.

    Attributes:
        layers: blocks of the backbone to choose from at every step; 0 is the images, -1 the last block.
    """

    layers: Sequence[int]

    def __call__(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The images [B, C, h, w] as they are, and the shares [B, P, 1, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def mix(self, maps: Tensor, mix: Mix, draw: int) -> Tensor:
        """The mixed maps.

        Args:
            maps: [B, ...] of one view behind the chosen block.
            mix: the record of that view.
            draw: a number of 63 bits that is alike on all ranks and another at every step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define mix")


@guarded
class LearnedRule(nn.Module):
    """Base of rules with parameters; see ``learned``.

    They learn by the run's own loss: its one backward pass goes through the student into the mixtures. The gradient of
    the student is the same as if the mixtures were constants.

    Args:
        lr_factor: learning rate of these parameters relative to all others, above 0.

    Class attributes:
        needs_clean: whether the student must encode a clean view beside the mixtures.
    """

    needs_clean: ClassVar[bool] = False

    def __init__(self, lr_factor: Positive) -> None:
        super().__init__()
        self.lr_factor = lr_factor

    def attach(self, student: Encoder) -> None:
        """Makes what depends on the student's widths.

        Raises:
            ValueError: the rule cannot work with this student.
        """
        raise NotImplementedError(f"{type(self).__name__} must define attach")

    def forward(self, x: Tensor, source: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """As ``Rule``, with gradient. Without one for the second result the label shares are constants."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def loss(self, student: list[Outputs | None], batch: Batch) -> Tensor | None:
        """Scalar to be added to the loss of a batch with mixtures, from what the student made of it; mostly none."""
        return None


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """U(0, 1) float32 on the device of ``like``, drawn on that of the generator, if there is one."""
    where = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=where).to(like.device)


def beta(alpha: float, other: float, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Beta(alpha, other) float32 in [0, 1], likewise; 1 where both gamma draws of tiny parameters are 0."""
    where = like.device if generator is None else generator.device
    both = torch.stack([torch.full(shape, value, device=where, dtype=torch.float32) for value in (alpha, other)])
    first, second = torch._standard_gamma(both, generator=generator)
    return torch.where(first + second > 0, first / (first + second), torch.ones_like(first)).to(like.device)
