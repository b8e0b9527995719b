"""What every objective is: a module that turns the encoders' outputs into a loss and owns the state it needs."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ssl_framework.feature_mixers.base import FeatureMixer, MixedFeatures
from ssl_framework.objectives.plain import (
    View,
    as_outputs,
    refuse_beside,
    refuse_lacking,
    refuse_view,
    refuse_views,
    shapes_of,
    tensors_of,
    without_gradient,
)
from ssl_framework.types import Batch, Clock, Geometry, Mix, Outputs


class Objective(nn.Module):
    """Base of all objectives.

    Class attributes:
        requires: what the run must provide, of "teacher", "trained teacher" (beside "teacher": its outputs have a
            gradient, and what the loss asks of them trains it), "mixer", "added mixtures", "keys of mixtures" (the
            teacher encodes added mixtures, too), "label" (classes), "partial labels" (beside "label": some are -1,
            unlabelled), "number" (labels of any kind, read as numbers), "geometry", "regions", "answer", "common
            points", "originals" or "fragments" (what views tell: ``views.base.Telling``), "index", "inputs" (the views
            themselves), "maps" (it reads outputs of several places a sample, [B, D, h, w]), "heads" (it passes features
            of its own making through the student's heads), "encoder" (it passes inputs of its own making through the
            student), "masks" (patches are hidden from the student), "masked_tokens=drop", "=replace" or "=mark" (what
            becomes of them), "targets" (the masker says what is to be predicted), and "causal words" (no word of a
            text's tower has seen a later one).
        accepts: what is read when present: "mixer" (mixed views in the place of clean ones), "added mixtures" (mixtures
            as further views), and of a feature mixer's ``needs`` those that the objective offers. "terms of mixtures":
            another objective may add them to this one (see ``siamese``).
        num_views: fewest and most views of a sample that each encoder it reads must encode, mixtures that were added
            not counted; ``None`` is no limit.
        against_collapse: arguments without which all embeddings may become one vector, switched off (0, false) or, of a
            predictor's name, that of the projector; the alarm names them.
        meets_keys: a sample's loss needs of the student its own outputs alone: parts of a batch may meet the teacher's
            outputs of all of it one after another, ``batch.first`` says where (see ``gradient_cache``).

    Attributes:
        reads: names of the student's outputs that it reads, heads or features; its constructor says them.
        teacher_reads: likewise of the teacher's, where it requires one.
        main_reads: those of them that it reads of the main tower's views alone, where the student has several towers.
        apart_reads: those of them of which it never compares one tower's with another's, whatever their widths.
        token_reads: those of them of which it reads a vector for every token, and not one for the sample.
        modality: number of a view -> what it has to be of ("text"), where the objective reads its words, or takes its
            places for those of a picture.
        num_classes: labels it has room for, 0 to ``num_classes - 1``; ``None`` if it does not count them.
    """

    requires: frozenset[str] = frozenset()
    accepts: frozenset[str] = frozenset()
    num_views: tuple[int, int | None] = (2, 2)
    against_collapse: ClassVar[tuple[str, ...]] = ()
    meets_keys: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.reads: tuple[str, ...] = ()
        self.teacher_reads: tuple[str, ...] = ()
        self.main_reads: tuple[str, ...] = ()
        self.apart_reads: tuple[str, ...] = ()
        self.token_reads: tuple[str, ...] = ()
        self.modality: Mapping[int, str] = {}
        # Set by SSLModule where ``accepts`` offers what it needs. Not a class attribute: that would hide the module.
        self.feature_mixer: FeatureMixer | None = None
        self.num_classes: int | None = None
        # Likewise where ``requires`` names "heads": pooled features [N, D] -> the output of every head.
        self.through_heads: Callable[[Tensor], Outputs] | None = None
        # Likewise "encoder": inputs [B, ...], whether the student is a constant to them, and as which view they are
        # encoded, the first where that is left out -> every output.
        self.through_encoder: Callable[..., Outputs] | None = None

    def allocate(self, num_samples: int) -> None:
        """Makes the state that has a row for every training sample; by default there is none.

        Called once, before the first step and before the objective moves to a device.

        Args:
            num_samples: N, samples of the training set; ``batch.index`` lies in 0..N-1.

        Raises:
            ValueError: the objective needs more samples than there are.
        """

    def meet(self, teacher: Mapping[str, int]) -> None:
        """Makes what has to be as wide as a teacher's outputs; by default there is nothing.

        Called once, before the first step.

        Args:
            teacher: names of its outputs, and how many numbers each has.
        """

    def forward(
        self,
        student: list[Outputs | None],
        teacher: list[Outputs | None] | None,
        batch: Batch,
        clock: Clock,
    ) -> dict[str, Tensor]:
        """Loss of this rank's batch.

        Args:
            student: one entry per view; ``None`` where the student did not see the view.
            teacher: likewise, without gradient; ``None`` without a teacher.
            batch: indices, labels and what a mixer did.
            clock: step, epoch and length of the run.

        Returns:
            "loss", the mean over this rank's own anchors, and scalars to log.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def loss_of(
        self,
        *views: View,
        teacher: Sequence[View] | None = None,
        label: Tensor | None = None,
        index: Tensor | None = None,
        clock: Clock | None = None,
    ) -> Tensor:
        """The loss of plain tensors, in a loop of one's own: ``SimCLR(temperature=0.2).loss_of(z0, z1)``.

        What ``forward`` changes, such as a queue, changes here, too.

        Args:
            views: [B, D] for each view, not normalised: what the head gave that this objective reads. Where it reads
                several heads, a mapping of their names; ``None`` for a view that the student did not see.
            teacher: likewise what a teacher gave, which gets no gradient unless the objective trains it.
            label: [B] int64 classes, or float32 numbers.
            index: [B] int64 positions in the training set; ``None``: 0 to B - 1.
            clock: where training stands, for what follows a schedule; ``None``: its first step.

        Returns:
            Scalar, the mean over this rank's own anchors.

        Raises:
            ValueError: the objective needs another number of views, or more than it was given, or tensors of other
                shapes.
        """
        name = type(self).__name__
        said: dict[str, object] = {"teacher": teacher, "index": index, "heads": self.through_heads}
        said |= {"encoder": self.through_encoder}
        said |= dict.fromkeys(("label", "partial labels", "number"), label)
        refuse_lacking(name, self.requires, {what for what, value in said.items() if value is not None})
        refuse_views(name, views, self.num_views)
        for number, view in enumerate(teacher or ()):
            refuse_view(f"{name} was given a teacher's view {number}", view)
        first = tensors_of(views)[0]
        refuse_beside(name, len(first), label=label, index=index)
        if index is None:
            index = torch.arange(len(first), device=first.device)  # [B]
        with torch.autocast(first.device.type, enabled=False):  # as in a run
            learns = "trained teacher" in self.requires
            given = [view if learns else without_gradient(view) for view in teacher or ()]
            keys = None if teacher is None else as_outputs(given)
            batch = Batch([], index, label)
            try:
                return self(as_outputs(views), keys, batch, clock or Clock(0, 0, 1))["loss"]
            except (RuntimeError, IndexError, KeyError, TypeError) as error:  # whatever else does not go together
                raise ValueError(f"{name} cannot compare {shapes_of(views, teacher)}: {error}") from error

    def mixed(self, features: MixedFeatures, clock: Clock) -> MixedFeatures:
        """The candidates after the feature mixer, if there is one."""
        return features if self.feature_mixer is None else self.feature_mixer(features, clock)

    def on_epoch(self, clock: Clock) -> None:
        """Called on every rank before the first step of each epoch; by default it does nothing.

        For what is computed once an epoch, from the state that the last one has left: on rank 0, which hands it to the
        others (``distributed.from_first_rank``), into buffers. A run that goes on inside an epoch has them from its
        checkpoint.
        """

    def after_backward(self, clock: Clock) -> None:
        """Called between backward and the optimizer step; by default it does nothing."""


def outputs_of(outputs: list[Outputs | None] | None, head: str) -> list[Tensor]:
    """The named head's output for every view that was encoded: V x [B, D]."""
    assert outputs is not None
    return [view[head] for view in outputs if view is not None]


def geometry_of(student: list[Outputs | None], batch: Batch) -> list[Geometry]:
    """Where every view that was encoded was cut: V entries."""
    assert batch.geometry is not None
    return [geometry for view, geometry in zip(student, batch.geometry, strict=True) if view is not None]


class Mixture(NamedTuple):
    """A mixture that was added to the views, as an encoder saw it."""

    z: Tensor  # [B, D] a head's output
    mix: Mix


def parted(student: list[Outputs | None], batch: Batch, head: str) -> tuple[list[Tensor], list[Mixture]]:
    """The named head's output for every clean view that was encoded, V x [B, D], and for every mixture beside them.

    Outside a mixer's schedule there are no mixtures.
    """
    mixes = batch.mix or [None] * len(student)
    seen = [(v, view[head], mix) for v, (view, mix) in enumerate(zip(student, mixes, strict=True)) if view is not None]
    clean = [z for v, z, mix in seen if mix is None or mix.of == v]
    return clean, [Mixture(z, mix) for v, z, mix in seen if mix is not None and mix.of != v]
