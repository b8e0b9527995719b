"""Mixing of images: who is mixed with whom, when, and the record of it that losses read.

A mixer is a partner rule, a mixing rule and a schedule. The rule says for every pixel how much of it is the sample's
own; the label share is the mean of that, for every rule, so that what is seen and what is said never differ.

B samples of this rank, C channels, h x w pixels.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ssl_framework.types import Batch, Clock, Mix


class Partners(Protocol):
    """Chooses a partner for every sample; see ``partners``."""

    def __call__(self, count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """[B] int64 positions in this rank's batch, every position once."""
        ...


class Rule(Protocol):
    """Mixes two batches of images; see ``rules``."""

    def __call__(self, x: Tensor, other: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] each -> the mixed images, and [B, 1, h, w] in [0, 1] how much of each pixel is of ``x``."""
        ...


class Mixing(nn.Module):
    """Replaces chosen views by mixtures.

    Args:
        rule: how two images become one.
        partners: who is mixed with whom; within this rank's batch.
        views: positions of the views that are mixed, each with partners and shares of its own.
        probability: of a sample being mixed; the others stay as they are.
        start, stop: share of the run after which mixing begins and ends (early-stopped mixup), in [0, 1].

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self, rule: Rule, partners: Partners, views: Sequence[int], probability: float, start: float, stop: float
    ) -> None:
        super().__init__()
        for name, value in (("probability", probability), ("start", start), ("stop", stop)):
            if not 0 <= value <= 1:
                raise ValueError(f"mixer.{name} is {value}: it must lie between 0 and 1")
        if not start < stop:
            raise ValueError(f"mixer.start is {start} and mixer.stop {stop}: mixing must begin before it ends")
        if not views or min(views) < 0 or len(set(views)) < len(views):
            raise ValueError(f"mixer.views is {list(views)}: name each view to be mixed once, from 0 on")
        self.rule = rule
        self.partners = partners
        self.views = list(views)
        self.probability = probability
        self.start = start
        self.stop = stop

    @torch.no_grad()
    def forward(self, batch: Batch, clock: Clock, generator: torch.Generator | None = None) -> Batch:
        """The batch with the chosen views mixed and, for each of them, the record; unchanged outside the schedule.

        With a generator of the CPU the result does not depend on the device of the views.
        """
        if not self.start <= clock.progress < self.stop:
            return batch
        views = list(batch.views)
        mixes: list[Mix | None] = [None] * len(views)
        for v in self.views:
            views[v], mixes[v] = self.mixed(views[v], generator)
        return batch._replace(views=views, mix=mixes)

    def mixed(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Mix]:
        """One view [B, C, h, w], mixed, and what was done."""
        partner = self.partners(len(x), x.device, generator)  # [B]
        mixed, own = self.rule(x, x[partner], generator)  # [B, C, h, w], [B, 1, h, w]
        if self.probability < 1:
            chosen = uniform((len(x), 1, 1, 1), x, generator) < self.probability  # [B, 1, 1, 1]
            mixed, own = torch.where(chosen, mixed, x), own.masked_fill(~chosen, 1.0)
        # A sample that is its own partner shows nothing else.
        itself = (partner == torch.arange(len(x), device=x.device))[:, None, None, None]  # [B, 1, 1, 1]
        own = own.masked_fill(itself, 1.0)
        return torch.where(itself, x, mixed), Mix(x, partner, own.mean(dim=(1, 2, 3)), own)


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """U(0, 1) float32 on the device of ``like``, drawn on that of the generator, if there is one."""
    where = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=where).to(like.device)
