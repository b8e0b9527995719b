"""Mixing of images: who is mixed with whom, when, and the record of it that losses read.

A mixer is a partner rule, a mixing rule and a schedule. The rule says for every pixel how much of it is of which
sample; the label shares are the means of that, for every rule, so that what is seen and what is said never differ. Only
a label law (see ``labels``), where a mixer has one, weighs the pixels otherwise. Hidden rules mix maps inside the
student, with the same shares everywhere. Learned rules have parameters.

B samples of this rank, P sources of a mixture, C channels, h x w pixels.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor, nn

from ssl_framework.arguments import Fraction, Natural, guarded
from ssl_framework.mixers.base import Context, HiddenRule, LabelLaw, LearnedRule, Partners, Rule, uniform
from ssl_framework.models.base import layered
from ssl_framework.models.encoder import Encoder
from ssl_framework.types import Batch, Clock, Mix, Outputs, step_seed


@guarded
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
        labels: the law of the label shares; ``None``: they are the visible shares.

    Raises:
        ValueError: a number out of its range, or a label law for a rule that mixes inside the student.
    """

    def __init__(
        self,
        rule: Rule,
        partners: Partners,
        views: Annotated[Sequence[Natural], Len(1)],
        add: bool,
        probability: Fraction,
        start: Fraction,
        stop: Fraction,
        alike: bool = False,
        labels: LabelLaw | None = None,
    ) -> None:
        super().__init__()
        if not start < stop:
            raise ValueError(f"mixer.start is {start} and mixer.stop {stop}: mixing must begin before it ends")
        if not views or min(views) < 0 or (not add and len(set(views)) < len(views)):
            raise ValueError(f"mixer.views is {list(views)}: name each view to be mixed once, from 0 on")
        if labels is not None and isinstance(rule, HiddenRule):
            raise ValueError(
                f"mixer.labels is {type(labels).__name__}, which weighs pixels, but {type(rule).__name__} mixes inside "
                "the student: set mixer.labels=null"
            )
        self.rule = rule
        self.partners = partners
        self.views = list(views)
        self.add = add
        self.probability = probability
        self.start = start
        self.stop = stop
        self.alike = alike
        self.labels = labels

    @property
    def learns(self) -> bool:
        """Whether the rule has parameters and adds ``loss`` to the objective's."""
        return isinstance(self.rule, LearnedRule)

    @property
    def hidden(self) -> bool:
        """Whether the rule works ``inside`` the student."""
        return isinstance(self.rule, HiddenRule)

    def attach(self, student: Encoder) -> None:
        """Fits the rule to the student that the run trains, once, before training.

        Raises:
            ValueError: they do not go together.
        """
        if isinstance(self.rule, LearnedRule):
            self.rule.attach(student)
        if isinstance(self.rule, HiddenRule):
            network = layered(student.backbone, "mixer.rule.layers")
            for layer in self.rule.layers:
                network.block(layer, "mixer.rule.layers")
            if student.beside:
                raise ValueError(
                    f"{type(self.rule).__name__} mixes inside one backbone, but student.beside has further ones: "
                    "choose a mixer of images"
                )

    def rehearse(self, student: Encoder, shapes: Sequence[tuple[int, ...]]) -> None:
        """Mixes two black images once, so that what the rule cannot work with is refused before the run.

        Args:
            student: as the run trains it; nothing of it changes.
            shapes: C, h, w of every view.

        Raises:
            ValueError: what the rule, the partners or the label law refuse.
        """
        views = [torch.zeros(2, *shape) for shape in shapes]  # V x [2, C, h, w]
        batch = Batch(views, torch.arange(2), torch.zeros(2, dtype=torch.int64))
        while_mixing = Clock(round(500 * (self.start + self.stop)), 0, 1000)
        with torch.no_grad():
            self(batch, while_mixing, student, torch.Generator().manual_seed(0))

    def forward(
        self,
        batch: Batch,
        clock: Clock,
        network: Encoder | None,
        generator: torch.Generator | None = None,
        teacher: Encoder | None = None,
    ) -> Batch:
        """The batch with its mixtures and, for each of them, the record; unchanged outside the schedule.

        Args:
            batch: clean views.
            clock: for the schedule, and for what all ranks draw alike.
            network: the student, for rules that look through it.
            generator: of this rank's draws; with one of the CPU the result does not depend on the device of the views.
                With ``alike`` only its seed counts.
            teacher: likewise, the EMA teacher's encoder.
        """
        if not self.start <= clock.progress < self.stop:
            return batch
        device = batch.views[0].device if generator is None else generator.device
        owed: list[Tensor] = []
        context = Context(generator, clock.generator(device), network, batch.label, teacher, owed)
        views = list(batch.views)
        mixes: list[Mix | None] = [None] * len(views)
        seed = torch.initial_seed() if generator is None else generator.initial_seed()
        for v in self.views:
            if self.alike:  # begin again: this view draws what the first has drawn
                again = torch.Generator(device).manual_seed(step_seed(seed, clock.step))
                context = context._replace(generator=again, shared=clock.generator(device))
            with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
                mixture, mix = self.mixed(batch, v, context)
            if self.add:
                views.append(mixture)
                mixes.append(mix)
            else:
                views[v], mixes[v] = mixture, mix
        return batch._replace(views=views, mix=mixes, owed=torch.stack(owed).mean() if owed else None)

    def mixed(self, batch: Batch, view: int, context: Context) -> tuple[Tensor, Mix]:
        """One view [B, C, h, w], mixed, and what was done."""
        x, taken = batch.views[view], list[Tensor]()
        context = context._replace(images=batch.views[self.views[0]] if self.alike else x, taken=taken)
        itself = torch.arange(len(x), device=x.device)[:, None]  # [B, 1]
        source = torch.cat([itself, self.partners(batch, context)], dim=1)  # [B, P]
        mixed, owner = self.rule(x, source, context)  # [B, C, h, w], [B, P, h, w]
        # A sample that is its own partner, or is left out by chance, shows nothing else.
        whole = (source == itself).all(dim=1)[:, None, None, None]  # [B, 1, 1, 1]
        if self.probability < 1:
            whole = whole | (uniform((len(x), 1, 1, 1), x, context.generator) >= self.probability)
        first = (torch.arange(source.shape[1], device=x.device) == 0)[:, None, None]  # [P, 1, 1]
        owner = torch.where(whole, first.to(owner.dtype), owner)  # [B, P, h, w]
        record = Mix(x, source, owner.mean(dim=(2, 3)), None if self.hidden else owner, view)
        if taken:
            record = record._replace(taken=torch.where(whole, first.to(owner.dtype), taken[0]))  # [B, P, h, w]
        mixed = torch.where(whole, x, mixed)  # [B, C, h, w]
        return mixed, record if self.labels is None else record._replace(share=self.labels(mixed, record, context))

    @contextlib.contextmanager
    def inside(self, student: Encoder, batch: Batch, which: Sequence[int] | None, clock: Clock) -> Iterator[None]:
        """Meanwhile the student's one pass over the batch mixes maps, if the rule is a hidden one.

        Args:
            student: about to encode ``batch.views``.
            batch: with the records.
            which: positions of the views that it encodes; ``None`` is all.
            clock: decides behind which block.
        """
        rule, mixes = self.rule, batch.mix
        if not isinstance(rule, HiddenRule) or mixes is None:
            yield
            return
        # Alike on all ranks, and not a generator's: the host must know it without waiting for a device.
        draw = step_seed(clock.seed, clock.step, -2)
        groups = iter(student.groups(batch.views, which))

        def change(maps: Tensor) -> Tensor:
            group = next(groups)
            parts = list(maps.chunk(len(group)))  # G x [B, ...]
            for i, v in enumerate(group):
                each = mixes[v]
                parts[i] = parts[i] if each is None else rule.mix(parts[i], each, draw // len(rule.layers))
            return torch.cat(parts)  # [G * B, ...]

        network = layered(student.backbone, "mixer.rule.layers")
        block = network.block(rule.layers[draw % len(rule.layers)], "mixer.rule.layers")
        with network.changed_at(block, change):
            yield

    def loss(self, student: list[Outputs | None], batch: Batch) -> Tensor:
        """Scalar that a learned rule adds to the loss; 0 outside the schedule.

        Args:
            student: outputs of every view.
            batch: as ``forward`` returned it.
        """
        assert isinstance(self.rule, LearnedRule)
        # Every parameter has a gradient at every step, as DDP demands.
        nothing = torch.stack([p.sum() for p in self.rule.parameters()]).sum() * 0
        own = None if batch.mix is None else self.rule.loss(student, batch)
        return torch.stack([x for x in (nothing, batch.owed, own) if x is not None]).sum()
