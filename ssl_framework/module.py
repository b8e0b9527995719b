"""The one LightningModule: views, mixer, student, teacher, objective, and the order in which they run."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from ssl_framework.data.allocations import refuse_more_than_free
from ssl_framework.distributed import rank, same_on_all_ranks, world_size
from ssl_framework.feature_mixers.base import FeatureMixer
from ssl_framework.gradient_cache import cached_losses, together, windowed_losses
from ssl_framework.masks.base import Masker
from ssl_framework.mixers.base import LearnedRule
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.models.base import deep
from ssl_framework.models.encoder import EMATeacher, Encoder
from ssl_framework.models.frozen_teacher import FrozenTeacher
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.learned_views import LearnedViews
from ssl_framework.optim import OptimizerRecipe
from ssl_framework.types import Batch, Clock, Outputs, Samples, step_seed
from ssl_framework.views.base import Growing, ViewMaker
from ssl_framework.wiring import (
    check_heads,
    check_inputs,
    check_learning,
    check_masks,
    check_mixable,
    check_places,
    check_teacher,
    check_towers,
    check_wiring,
)


class SSLModule(L.LightningModule):
    """Composes the parts of a method; it knows no method's name.

    Args:
        views: raw samples -> a batch of augmented views.
        student: the trained encoder.
        objective: the loss and its state.
        optimizer: recipe of the update.
        teacher: which is to follow the student, or stays as it is; or ``None``.
        mixer: input-level mixing of views; the student sees mixtures in their place or beside them, the teacher sees
            them clean, and mixtures beside them only if the objective requires keys of mixtures. ``None``: no mixing.
        masker: hides patches of views from the student, never from the teacher; ``None``: it sees all.
        feature_mixer: embedding-level mixing, handed to the objective, or ``None``.
        student_views, teacher_views: positions of the views each encodes; ``None`` is all.
        micro_batch_size: samples that go through the encoders at once, on each rank; the loss is still that of the
            whole batch (see ``gradient_cache``). ``None``: all.
        seed: of everything random in a step.

    Raises:
        ValueError: the parts do not fit together; the message names the key to change.
    """

    def __init__(
        self,
        views: ViewMaker,
        student: Encoder,
        objective: Objective,
        optimizer: OptimizerRecipe,
        teacher: EMATeacher | FrozenTeacher | None = None,
        mixer: Mixing | None = None,
        masker: Masker | None = None,
        feature_mixer: FeatureMixer | None = None,
        student_views: Sequence[int] | None = None,
        teacher_views: Sequence[int] | None = None,
        micro_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if micro_batch_size is not None and micro_batch_size < 2:
            raise ValueError(
                f"data.micro_batch_size is {micro_batch_size}: it must be at least 2, or null for no division"
            )
        student.show(objective.reads)
        check_heads(objective, student)
        check_places(objective, views, micro_batch_size)
        check_wiring(
            objective, teacher is not None, mixer, feature_mixer, views.num_views, student_views, teacher_views
        )
        if mixer is not None:
            if micro_batch_size is not None and (mixer.hidden or mixer.learns):
                raise ValueError(
                    f"data.micro_batch_size is {micro_batch_size}, but {type(mixer.rule).__name__} needs the student's "
                    "one pass over the whole batch: set data.micro_batch_size=null or choose another mixer"
                )
            shapes = [views.example(v) for v in range(views.num_views)]
            check_mixable(mixer, shapes, views.modality)
            mixer.attach(student)
            mixer.rehearse(student, shapes)
        check_inputs(objective, student, views)
        check_masks(objective, masker, student, micro_batch_size)
        if masker is not None:
            shapes = [views.example(v) for v in range(views.num_views)]
            masker.attach(student, shapes, range(views.num_views) if student_views is None else student_views)
        student.route(views.modality)
        check_towers(objective, student, views.modality, student_views)
        if "geometry" in objective.requires:
            views.geometry = True  # type: ignore[attr-defined]
        self.views = views
        parts = views.modules() if isinstance(views, nn.Module) else ()
        self.growing = [part for part in parts if isinstance(part, Growing) and part.grows]
        if self.growing and masker is not None:
            raise ValueError(
                f"views.groups have a ramp, but {type(masker).__name__} hides patches of views of one size: leave the "
                "ramp out, or choose a method without masks"
            )
        self.student = student
        self.teacher = None if teacher is None else teacher.follow(student)
        if self.teacher is not None:
            self.teacher.encoder.show(objective.teacher_reads)
            check_teacher(objective, self.teacher.encoder, student, isinstance(self.teacher, EMATeacher))
            check_learning(objective, getattr(self.teacher, "learns", False), micro_batch_size)
            objective.meet(self.teacher.encoder.encoders()[0][0].dims)
        self.mixer = mixer
        self.masker = masker
        self.objective = objective
        self.objective.feature_mixer = feature_mixer
        if "heads" in objective.requires:
            self.objective.through_heads = self.student.through_heads
        if "encoder" in objective.requires:
            self.objective.through_encoder = self.student.through_encoder
        self.recipe = optimizer
        self.student_views = student_views
        self.teacher_views = teacher_views
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.total_steps = 1  # known once the trainer is
        self.terms: dict[str, Tensor] = {}  # of the last step's loss, scalars without gradient
        # DDP would send rank 0's copy of every buffer in every step, but memories that begin alike stay alike by
        # themselves, and a queue of 65,536 rows is 33 MB.
        self._ddp_params_and_buffers_to_ignore = [f"objective.{name}" for name, _ in objective.named_buffers()]

    @property
    def clock(self) -> Clock:
        """Where the run stands."""
        return Clock(self.global_step, self.current_epoch, self.total_steps, self.seed)

    def compile_parts(self) -> bool:
        """Has the encoders compiled at their first call: whether all of the student's are. The names of weights stay as
        they are.

        Raises:
            ValueError: a mixer or masker changes the student's pass from step to step.
        """
        if self.mixer is not None and self.mixer.hidden:
            raise ValueError(
                f"trainer.compile is true, but {type(self.mixer.rule).__name__} changes the student's pass from step "
                "to step: set trainer.compile=false or choose another mixer"
            )
        if self.masker is not None:
            raise ValueError(
                f"trainer.compile is true, but {type(self.masker).__name__} changes the student's pass from step to "
                "step: set trainer.compile=false or choose a method without masks"
            )
        compiled = self.student.compile_parts()
        if self.teacher is not None:
            self.teacher.encoder.compile_parts()
        return compiled

    def losses(self, samples: Samples, clock: Clock) -> dict[str, Tensor]:
        """One forward pass of the method: samples -> "loss" and what is logged."""
        for part in self.growing:
            part.progress = clock.progress
        batch: Batch = self.views(samples)
        if self.mixer is not None:
            batch = self.mixer(batch, clock, self.student, teacher=self.teacher and self.teacher.encoder)
        if self.masker is not None:
            batch = self.masker(batch, clock)
        shown = clean_views(batch)[: self.views.num_views]
        if "keys of mixtures" in self.objective.requires:
            shown += batch.views[self.views.num_views :]
        teacher = self.encode_teacher(shown, clock)

        def objective(student: list[Outputs | None], batch: Batch = batch) -> dict[str, Tensor]:
            with torch.autocast(batch.views[0].device.type, enabled=False):  # losses are computed in float32
                seen = in_float32(student)
                assert seen is not None
                losses = self.objective(seen, in_float32(teacher), batch, clock)
                if self.mixer is None or not self.mixer.learns:
                    return losses
                own = self.mixer.loss(seen, batch)
                return {**losses, "loss": losses["loss"] + own, "mixer_loss": own}

        def encode(views: list[Tensor]) -> list[Outputs | None]:
            which = self.with_mixtures(self.student_views, views)
            if self.mixer is None:
                return self.student(views, which, batch.masks)
            with self.mixer.inside(self.student, batch, which, clock):
                return self.student(views, which, batch.masks)

        if not self.divides(len(batch.index)):
            return objective(encode(batch.views))
        assert self.micro_batch_size is not None
        if self.objective.meets_keys:
            return windowed_losses(
                encode, batch.views, self.micro_batch_size, lambda found, rows: objective(found, part_of(batch, rows))
            )
        learns = "heads" in self.objective.requires or any(p.requires_grad for p in self.objective.parameters())
        return cached_losses(encode, self.student, batch.views, self.micro_batch_size, objective, learns)

    def encode_teacher(self, views: list[Tensor], clock: Clock) -> list[Outputs | None] | None:
        """The teacher's outputs, micro-batch after micro-batch; a shuffled teacher has groups of its own."""
        if self.teacher is None:
            return None
        which = self.with_mixtures(self.teacher_views, views)
        if self.teacher.shuffle_bn is not None or not self.divides(len(views[0])):
            return self.teacher(views, which, clock)
        assert self.micro_batch_size is not None
        parts = zip(*(view.split(self.micro_batch_size) for view in views), strict=True)
        return together([self.teacher(part, which, clock) for part in parts])

    def with_mixtures(self, which: Sequence[int] | None, views: list[Tensor]) -> Sequence[int] | None:
        """The positions of clean views that an encoder sees, and those of the mixtures among ``views`` beside them."""
        return which and [*which, *range(self.views.num_views, len(views))]

    def divides(self, count: int) -> bool:
        """Whether a batch of so many samples is encoded in several parts."""
        return self.micro_batch_size is not None and self.micro_batch_size < count

    def on_fit_start(self) -> None:
        same_on_all_ranks(self.objective.buffers())
        if self.micro_batch_size is None:
            return
        # Part of the gradient is there before Lightning scales the loss.
        found = f"data.micro_batch_size is {self.micro_batch_size}, which does not go with"
        if self.trainer.accumulate_grad_batches > 1:
            raise ValueError(
                f"{found} trainer.accumulate_grad_batches={self.trainer.accumulate_grad_batches}: set that to 1 and "
                "raise data.batch_size"
            )
        if self.trainer.precision == "16-mixed":
            raise ValueError(f"{found} trainer.precision=16-mixed: choose bf16-mixed or 32-true")

    def training_step(self, samples: Samples, batch_idx: int) -> Tensor:
        if batch_idx == 0:  # not in the hook of an epoch's start, which comes again when a run goes on inside it
            self.objective.on_epoch(self.clock)
        # All randomness of the step (views, mixers, dropout) is a function of (seed, batches done, rank), not of
        # history: a resumed run repeats it exactly. Under gradient accumulation every micro-batch has its own.
        torch.manual_seed(step_seed(self.seed, self.batches_done(batch_idx), rank()))
        if self.micro_batch_size is not None:
            self.zero_grad()  # here, not before the backward pass: part of the gradient comes during the losses
        losses = self.losses(samples, self.clock)
        self.terms = {name: value.detach() for name, value in losses.items()}
        self.log_dict({f"train/{name}": value for name, value in self.terms.items()})
        return losses["loss"]

    def batches_done(self, batch_idx: int) -> int:
        """Batches before this one, on this rank, since the run began."""
        return self.current_epoch * int(self.trainer.num_training_batches) + batch_idx

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        if self.micro_batch_size is None:
            super().optimizer_zero_grad(*args, **kwargs)

    def on_after_backward(self) -> None:
        self.objective.after_backward(self.clock)
        self.student.after_backward(self.clock)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:  # once per optimizer step, also under gradient accumulation
            self.teacher.update(self.student, self.clock)

    def refuse_views_too_large(self, batch: int) -> None:
        """Raises ValueError if the views of a batch of one rank do not fit into memory."""
        numbers = sum(math.prod(self.views.example(view)) for view in range(self.views.num_views))
        what = f"the {self.views.num_views} views of {batch:,} samples"
        cure = f"lower data.batch_size={batch * world_size()}, the views' size or the count of views.groups"
        refuse_more_than_free(4 * batch * numbers, self.trainer.strategy.root_device, what, cure)

    def own_rates(self) -> dict[torch.nn.Module, float]:
        """Learned mixing rules and views, and their learning rate relative to that of all others."""
        return {part: part.lr_factor for part in self.modules() if isinstance(part, LearnedRule | LearnedViews)}

    def layers_above(self) -> dict[Tensor, int]:
        """How many layers lie above each parameter of the student's backbones; read where rates go by layer.

        Raises:
            ValueError: a backbone does not say.
        """
        if self.recipe.layer_decay == 1:
            return {}
        found: dict[Tensor, int] = {}
        for backbone in self.student.backbones:
            depth, number = deep(backbone, "optimizer.layer_decay").depths()
            found |= {p: number - depth[name] for name, p in backbone.net.named_parameters()}
        return found

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        self.total_steps = int(self.trainer.estimated_stepping_batches)  # sets the loader up
        self.trainer.fit_loop.setup_data()  # where the trainer counts steps and not epochs, that does not
        loader = self.trainer.train_dataloader
        assert loader is not None
        global_batch = loader.global_batch_size * self.trainer.accumulate_grad_batches
        self.refuse_views_too_large(loader.global_batch_size // world_size())
        # A fused step unscales the gradients of mixed precision itself, after they would have been clipped.
        fused = not (self.trainer.gradient_clip_val and "mixed" in str(self.trainer.precision))
        optimizer, schedule = self.recipe.build(
            self, global_batch, self.total_steps, self.own_rates(), self.layers_above(), fused
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def part_of(batch: Batch, rows: slice) -> Batch:
    """Some samples of a batch that no mixer and no masker has changed."""
    return batch._replace(
        views=[view[rows] for view in batch.views],
        index=batch.index[rows],
        label=None if batch.label is None else batch.label[rows],
        first=rows.start,
    )


def clean_views(batch: Batch) -> list[Tensor]:
    """The views as they were before mixing."""
    mixes = batch.mix or [None] * len(batch.views)
    return [view if mix is None else mix.clean for view, mix in zip(batch.views, mixes, strict=True)]


def in_float32(outputs: list[Outputs | None] | None) -> list[Outputs | None] | None:
    """Half-precision outputs as float32; float32 and float64 stay as they are."""
    if outputs is None:
        return None
    half = (torch.float16, torch.bfloat16)
    return [
        {k: x.float() if x.dtype in half else x for k, x in view.items()} if view is not None else None
        for view in outputs
    ]
