"""Mixing of images: who is mixed with whom, when, and the record of it that losses read.

A mixer is a partner rule, a mixing rule and a schedule. The rule says for every pixel how much of it is of which
sample; the label shares are the means of that, for every rule, so that what is seen and what is said never differ.

B samples of this rank, P sources of a mixture, C channels, h x w pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ssl_framework.models.encoder import Encoder
from ssl_framework.types import Batch, Clock, Mix, step_seed


class Context(NamedTuple):
    """What partner rules and mixing rules may ask for besides the images."""

    generator: torch.Generator | None  # for one draw a sample; None is torch's own, which differs on every rank
    shared: torch.Generator | None  # for one draw for the whole batch, alike on all ranks
    network: Encoder | None  # the student as it is now
    label: Tensor | None  # [B] of the samples

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


class Mixing(nn.Module):
    """Puts mixtures in the place of chosen views, or beside them.

    Args:
        rule: how images become one.
        partners: who is mixed with whom; within this rank's batch.
        views: positions of the views that are mixed, each time with partners and shares of its own.
        add: the mixtures become further views behind the clean ones, one for each entry of ``views`` (which may then
            name a view several times), instead of taking their place.
        probability: of a sample being mixed; the others stay as they are.
        start, stop: share of the run after which mixing begins and ends (early-stopped mixup), in [0, 1].
        alike: a sample has the same partners and the same draws in all ``views``, instead of others in each.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        rule: Rule,
        partners: Partners,
        views: Sequence[int],
        add: bool,
        probability: float,
        start: float,
        stop: float,
        alike: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("probability", probability), ("start", start), ("stop", stop)):
            if not 0 <= value <= 1:
                raise ValueError(f"mixer.{name} is {value}: it must lie between 0 and 1")
        if not start < stop:
            raise ValueError(f"mixer.start is {start} and mixer.stop {stop}: mixing must begin before it ends")
        if not views or min(views) < 0 or (not add and len(set(views)) < len(views)):
            raise ValueError(f"mixer.views is {list(views)}: name each view to be mixed once, from 0 on")
        self.rule = rule
        self.partners = partners
        self.views = list(views)
        self.add = add
        self.probability = probability
        self.start = start
        self.stop = stop
        self.alike = alike

    @torch.no_grad()
    def forward(
        self, batch: Batch, clock: Clock, network: Encoder | None, generator: torch.Generator | None = None
    ) -> Batch:
        """The batch with its mixtures and, for each of them, the record; unchanged outside the schedule.

        Args:
            batch: clean views.
            clock: for the schedule, and for what all ranks draw alike.
            network: the student, for rules that look through it.
            generator: of this rank's draws; with one of the CPU the result does not depend on the device of the views.
                With ``alike`` only its seed counts.
        """
        if not self.start <= clock.progress < self.stop:
            return batch
        device = batch.views[0].device if generator is None else generator.device
        context = Context(generator, clock.generator(device), network, batch.label)
        views = list(batch.views)
        mixes: list[Mix | None] = [None] * len(views)
        seed = torch.initial_seed() if generator is None else generator.initial_seed()
        for v in self.views:
            if self.alike:  # begin again: this view draws what the first has drawn
                again = torch.Generator(device).manual_seed(step_seed(seed, clock.step))
                context = context._replace(generator=again, shared=clock.generator(device))
            mixture, mix = self.mixed(batch, v, context)
            if self.add:
                views.append(mixture)
                mixes.append(mix)
            else:
                views[v], mixes[v] = mixture, mix
        return batch._replace(views=views, mix=mixes)

    def mixed(self, batch: Batch, view: int, context: Context) -> tuple[Tensor, Mix]:
        """One view [B, C, h, w], mixed, and what was done."""
        x = batch.views[view]
        itself = torch.arange(len(x), device=x.device)[:, None]  # [B, 1]
        source = torch.cat([itself, self.partners(batch, context)], dim=1)  # [B, P]
        mixed, owner = self.rule(x, source, context)  # [B, C, h, w], [B, P, h, w]
        # A sample that is its own partner, or is left out by chance, shows nothing else.
        whole = (source == itself).all(dim=1)[:, None, None, None]  # [B, 1, 1, 1]
        if self.probability < 1:
            whole = whole | (uniform((len(x), 1, 1, 1), x, context.generator) >= self.probability)
        first = (torch.arange(source.shape[1], device=x.device) == 0)[:, None, None]  # [P, 1, 1]
        owner = torch.where(whole, first.to(owner.dtype), owner)  # [B, P, h, w]
        return torch.where(whole, x, mixed), Mix(x, source, owner.mean(dim=(2, 3)), owner, view)


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """U(0, 1) float32 on the device of ``like``, drawn on that of the generator, if there is one."""
    where = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=where).to(like.device)
